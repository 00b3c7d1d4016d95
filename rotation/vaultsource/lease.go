package vaultsource

import (
	"context"
	"maps"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vaultpool/vaultpool/rotation"
)

// holding is a lease that is not known to be gone, and the token it hangs from, which
// need not be the one that requests are made with today.
type holding struct {
	id        string
	token     *token
	end       time.Time     // its own; the token's may come first
	granted   time.Duration // the last time
	renewable bool
	capped    bool // a renewal does not move the end any further
}

// granted is what Vault says of a lease in answer to a request sent at start.
func granted(secret *api.Secret, t *token, start time.Time) *holding {
	ttl := time.Duration(secret.LeaseDuration) * time.Second
	return &holding{
		id: secret.LeaseID, token: t, end: start.Add(ttl), granted: ttl,
		renewable: secret.Renewable, capped: isCapped(secret.Warnings),
	}
}

// lease is what the Rotator has to know of a holding, for which a request was sent at
// start: it ends when the lease does or the token, whichever comes first, and can be
// prolonged if that one can.
func (s *Source) lease(h *holding, start time.Time) rotation.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := rotation.Lease{
		ID: h.id, TTL: left(start, h.end), Revocable: true,
		Renewable: h.renewable, Capped: h.capped,
	}
	if t := h.token; !t.end.IsZero() && left(start, t.end) < l.TTL {
		l.TTL = left(start, t.end)
		// Whoever keeps a renewable token alive moves the end; the next renewal
		// shows whether anybody does.
		l.Renewable, l.Capped = l.Renewable || t.movable(), !t.movable()
	}
	if !h.token.own && h.token != s.current {
		l.Capped = true // somebody has replaced it, and does not keep it alive any more
	}
	l.TTL = max(l.TTL, time.Millisecond) // 0 would mean that it has no end
	return l
}

// unleased is what the Rotator has to know of a credential that has no lease: when to
// read it again. The token has to last until then.
func (s *Source) unleased(a answer, t *token, start time.Time) rotation.Lease {
	after := s.refresh
	if a.kind == KindStatic {
		// Near its end the ttl is not exact, and Vault may be late: once a second
		// until there is a new password.
		after = max(a.ttl, 0) + time.Second
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !t.end.IsZero() && t.movable() {
		after = min(after, max(left(start, t.end)*2/3, time.Second))
	}
	return rotation.Lease{RefreshAfter: after}
}

// shorten has a lease that lasts longer than is wished end earlier: it is renewed with a
// small increment, which Vault counts from now.
func (s *Source) shorten(ctx context.Context, h *holding, start time.Time) *holding {
	if s.leaseTTL == 0 || !h.renewable || h.granted <= s.leaseTTL {
		return h
	}
	ctx, cancel := context.WithTimeout(ctx, s.conn.timeout)
	defer cancel()
	shorter, err := s.renewLease(ctx, h.token, h.id, s.leaseTTL, start)
	if err != nil {
		s.log.Warn("vaultsource: a new lease could not be shortened and may outlive this process by its whole length", "lease", h.id, "error", err)
		return h
	}
	return shorter
}

// renewLease asks for a lease to last increment from now, which is not before start.
func (s *Source) renewLease(ctx context.Context, t *token, id string, increment time.Duration, start time.Time) (*holding, error) {
	client, reply := s.conn.request(t.secret)
	secret, err := client.Sys().RenewWithContext(ctx, id, wholeSeconds(increment))
	if err == nil && (secret == nil || secret.LeaseID == "") {
		err = errEmpty
	}
	if err != nil {
		return nil, s.failed(t, request{renewLease, id}, err, reply)
	}
	return granted(secret, t, start), nil
}

// held returns a lease that is ours, or nil.
func (s *Source) held(id string) *holding {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leases[id]
}

// remember notes a lease, and drops those whose end has passed: they will not be
// renewed again, and not all are revoked.
func (s *Source) remember(h *holding, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.leases, func(_ string, h *holding) bool { return left(now, h.end) < 0 })
	s.leases[h.id] = h
}

// renewed notes what a renewal has granted, unless the lease was given back meanwhile.
func (s *Source) renewed(id string, h *holding, now time.Time) {
	s.mu.Lock()
	_, held := s.leases[id]
	delete(s.leases, id)
	s.mu.Unlock()
	if held {
		s.remember(h, now)
	}
}

func (s *Source) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.leases, id)
}

// holds counts the leases that hang from t; s.mu is held.
func (s *Source) holds(t *token) (n int) {
	for _, h := range s.leases {
		if h.token == t {
			n++
		}
	}
	return n
}
