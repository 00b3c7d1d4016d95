//nolint:thelper // these are the cases themselves: what fails is in them
package conformance

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/rotation"
)

var closeCases = []testCase{
	{name: "Hazard44_CloseInMidRotation", run: closeInMidRotation},
	{name: "Hazard44_CloseTwice", run: closeTwice},
	{name: "Hazard55_SubscriberHangsOrPanics", run: subscriberHangsOrPanics},
}

// points are where a rotation may be when its pool is closed.
var points = []struct {
	name  string
	waits bool // Close has to wait there
	// reach begins a rotation and returns once it is at the point, with what lets it go on.
	reach func(t *testing.T, s *service) (goOn func())
}{
	{"issue in flight", true, func(t *testing.T, s *service) func() {
		t.Helper()
		answers := s.vault.Hold(s.role.CredsPath)
		go func() { _ = s.Rotator.Rotate(context.Background()) }() // ends with the close
		answers.Queue(t, 1)
		return answers.Open
	}},
	{"probe", false, func(t *testing.T, s *service) func() {
		t.Helper()
		s.wire.gate.ShutFor(1)
		go func() { _ = s.Rotator.Rotate(context.Background()) }()
		s.wire.gate.Queue(t, 1)
		return s.wire.gate.Open
	}},
	{"draining", true, func(t *testing.T, s *service) func() {
		t.Helper()
		held := s.conn(t)
		s.rotate(t)
		return func() { _ = held.Close() }
	}},
	{"revocation", true, func(t *testing.T, s *service) func() {
		t.Helper()
		answers := s.vault.Hold(revoke)
		s.rotate(t)
		answers.Queue(t, 1)
		return answers.Open
	}},
}

// Wherever a rotation is when the pool is closed, nothing is left of either lease.
func closeInMidRotation(t *testing.T, a *Adapter) {
	for _, point := range points {
		t.Run(point.name, func(t *testing.T) {
			t.Parallel()
			s := open(t, a, setup{wired: true, maxConns: 4})
			s.fill(t, 3)
			goOn := point.reach(t, s)
			closed := make(chan error, 1)
			go func() { closed <- s.close() }()
			kit.Eventually(t, "the pool is closed", func(ctx context.Context) bool {
				conn, err := s.Conn(ctx)
				if err == nil {
					_ = conn.Close()
				}
				return err != nil
			})
			if point.waits {
				select {
				case err := <-closed:
					t.Fatalf("Close did not wait: %v", err)
				case <-time.After(300 * time.Millisecond): // in which it could have returned
				}
			}
			goOn()
			kit.Check(t, kit.Receive(t, "Close", closed))
			s.checkNothingLeft(t)
			if err := s.Rotator.Rotate(t.Context()); !errors.Is(err, rotation.ErrClosed) {
				t.Errorf("Rotate on a closed pool returned %v", err)
			}
		})
	}
}

// Closing twice, and at the same time, is closing once.
func closeTwice(t *testing.T, a *Adapter) {
	s := open(t, a, setup{})
	kit.Check(t, s.PingContext(t.Context()))
	var closers sync.WaitGroup
	for range 4 {
		closers.Go(func() {
			if err := s.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
	closers.Wait()
	if n := s.revocations(); n != 1 {
		t.Errorf("%d revocations, not 1", n)
	}
	s.checkNothingLeft(t)
	if !s.Rotator.Status().Closed {
		t.Error("the rotator is not closed")
	}
}

// A subscriber that hangs or panics stops neither rotation nor the other subscribers, and Close keeps its bound.
func subscriberHangsOrPanics(t *testing.T, a *Adapter) {
	var g kit.Gate
	s := open(t, a, setup{rotation: rotation.Config{CloseTimeout: 2 * time.Second}, mayReport: true})
	t.Cleanup(g.Open)
	g.Shut()
	s.Rotator.Subscribe(func(rotation.Event) { _ = g.Pass(context.Background()) })
	s.Rotator.Subscribe(func(rotation.Event) { panic("a user's mistake") })
	s.fill(t, 2)
	for id := range uint64(2) {
		s.rotate(t)
		s.events.Wait(t, rotation.Revoked, id+1)
	}
	if n := len(s.events.Of(rotation.SubscriberFailed, 0)); n != 1 {
		t.Errorf("%d subscribers were reported to have failed, not 1", n)
	}
	kit.Within(t, 10*time.Second, "Close", func() { _ = s.close() })
	g.Open()
}
