package rotationhttp

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// rotateTimeout is how long an answer to POST /rotate may take. The rotation goes on.
const rotateTimeout = 30 * time.Second

// rotates serves POST /rotate.
type rotates struct {
	rotate  func(context.Context) error
	allowed bool
	report  func() Report
	busy    atomic.Bool
	origins http.CrossOriginProtection
}

// rotated is the JSON that answers a rotation.
type rotated struct {
	Status     string `json:"status"` // "rotated", "under way" or "failed"
	Generation uint64 `json:"generation,omitempty"`
	Error      string `json:"error,omitempty"`
}

// serve replaces the credential and answers when the new one serves: 200. Otherwise 403
// where that is not enabled, or a browser sends it for another site; 409 while
// another is under way, or the rotator is paused; 202 where it takes longer than the
// answer may; 502 where the attempt failed and the old credential stays; 503 where
// the rotator is closed or does not answer.
func (r *rotates) serve(w http.ResponseWriter, request *http.Request) {
	if !r.allowed {
		writeJSON(w, http.StatusForbidden, rotated{Status: "failed", Error: "rotating by request is not enabled here (Config.AllowRotate)"})
		return
	}
	if err := r.origins.Check(request); err != nil {
		writeJSON(w, http.StatusForbidden, rotated{Status: "failed", Error: "only this page may ask for a rotation: " + err.Error()})
		return
	}
	if state := r.report().State; state == Stalled || state == Closed {
		writeJSON(w, http.StatusServiceUnavailable, rotated{Status: "failed", Error: "the rotator is " + string(state)})
		return
	}
	if !r.busy.CompareAndSwap(false, true) {
		writeJSON(w, http.StatusConflict, rotated{Status: "under way"})
		return
	}
	// The server's WriteTimeout is for pages. Where it cannot be moved there is none, or it stays.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(rotateTimeout + 5*time.Second))
	ctx, cancel := context.WithTimeout(request.Context(), rotateTimeout)
	defer cancel()
	answer := make(chan error, 1)
	go func() { // a rotator that stalls does not look at ctx
		defer r.busy.Store(false)
		answer <- r.rotate(ctx)
	}()
	select {
	case err := <-answer:
		r.write(w, ctx.Err() != nil, err)
	case <-ctx.Done():
		r.write(w, true, ctx.Err())
	}
}

// write answers; late says that there was no time left to wait for the outcome.
func (r *rotates) write(w http.ResponseWriter, late bool, err error) {
	switch {
	case err == nil:
		writeJSON(w, http.StatusOK, rotated{Status: "rotated", Generation: r.report().Generation})
	case late:
		writeJSON(w, http.StatusAccepted, rotated{Status: "under way"})
	case errors.Is(err, rotation.ErrPaused):
		writeJSON(w, http.StatusConflict, rotated{Status: "failed", Error: err.Error()})
	case errors.Is(err, rotation.ErrClosed):
		writeJSON(w, http.StatusServiceUnavailable, rotated{Status: "failed", Error: err.Error()})
	default:
		writeJSON(w, http.StatusBadGateway, rotated{Status: "failed", Error: err.Error()})
	}
}
