package pgvault

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// poolTracer is the user's tracer as the pool has it. It hides that we take and
// give back idle connections, which would put the user's count of connections in
// use out of balance: AcquireAllIdle is not traced, and their release is.
type poolTracer struct {
	pgx.QueryTracer // the user's
	t               *target
}

// tracer returns what the pool needs in place of the user's tracer.
func (t *target) tracer(user pgx.QueryTracer) pgx.QueryTracer {
	_, acquires := user.(pgxpool.AcquireTracer)
	_, releases := user.(pgxpool.ReleaseTracer)
	if !acquires && !releases {
		return user
	}
	return poolTracer{user, t}
}

// TraceAcquireStart makes poolTracer a pgxpool.AcquireTracer.
func (p poolTracer) TraceAcquireStart(ctx context.Context, pool *pgxpool.Pool, data pgxpool.TraceAcquireStartData) context.Context {
	if user, ok := p.QueryTracer.(pgxpool.AcquireTracer); ok && !isSweep(ctx) {
		return user.TraceAcquireStart(ctx, pool, data)
	}
	return ctx
}

// TraceAcquireEnd is TraceAcquireStart's other half.
func (p poolTracer) TraceAcquireEnd(ctx context.Context, pool *pgxpool.Pool, data pgxpool.TraceAcquireEndData) {
	if user, ok := p.QueryTracer.(pgxpool.AcquireTracer); ok && !isSweep(ctx) {
		user.TraceAcquireEnd(ctx, pool, data)
	}
}

// TraceRelease makes poolTracer a pgxpool.ReleaseTracer.
func (p poolTracer) TraceRelease(pool *pgxpool.Pool, data pgxpool.TraceReleaseData) {
	if s := sessionOf(trackedConn(data.Conn)); s != nil && s.quiet.Load() {
		if p.t.user.AfterRelease == nil { // which comes next and is to step aside as well
			s.quiet.Store(false)
		}
		return
	}
	if user, ok := p.QueryTracer.(pgxpool.ReleaseTracer); ok {
		user.TraceRelease(pool, data)
	}
}
