package rotation

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// What LogIn does with each kind of error, and how often it tries.
func TestLogIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		tries := 0
		with := func(ctx context.Context, errs ...error) error {
			tries = 0
			return p.a.LogIn(ctx, func(*Generation) error {
				tries++
				return errs[min(tries, len(errs))-1]
			})
		}
		ctx := context.Background()
		if err := with(ctx, nil); err != nil || tries != 1 {
			t.Errorf("a login that succeeds: %d tries, error %v", tries, err)
		}
		network := errors.New("connection reset")
		if err := with(ctx, network); !errors.Is(err, network) || tries != 1 {
			t.Errorf("another failure: %d tries, error %v", tries, err)
		}
		if err := with(ctx, ErrStale, ErrStale, ErrStale, ErrStale, nil); err != nil || tries != 5 {
			t.Errorf("a generation that was replaced: %d tries, error %v", tries, err)
		}
		if err := with(ctx, ErrEnded, nil); err != nil || tries != 2 {
			t.Errorf("a credential that ended meanwhile: %d tries, error %v", tries, err)
		}
		g.wantCurrent(1)
		if err := with(ctx, ErrRefused, nil); err != nil || tries != 2 {
			t.Errorf("a refused login: %d tries, error %v", tries, err)
		}
		g.wantCurrent(2)
		if err := with(ctx, ErrRefused); !errors.Is(err, ErrRefused) || tries != 4 {
			t.Errorf("a login that is always refused: %d tries, error %v", tries, err)
		}
	})
}

// Without a credential LogIn waits within its context, and says both when that is in vain.
func TestLogInWithoutCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		first, err := p.a.Current()
		if err != nil {
			t.Fatal(err)
		}
		g.source.set(func(s *fakeSource) {
			s.onIssue = func(int) error { time.Sleep(5 * time.Second); return nil }
		})
		p.a.Refused(first, ErrRefused)
		try := func(*Generation) error { return nil }
		hurry, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var none *NoCredentialError
		if err := p.a.LogIn(hurry, try); !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &none) {
			t.Errorf("in a hurry: %v", err)
		}
		if err := p.a.LogIn(context.Background(), try); err != nil {
			t.Errorf("with time: %v", err)
		}
		g.wantCurrent(2)
	})
}

func TestProbed(t *testing.T) {
	network := errors.New("connection reset")
	for _, test := range []struct {
		err  error
		want ProbeResult
	}{
		{nil, ProbeResult{Accepted: 1}},
		{ErrRefused, ProbeResult{Refused: 1, Err: ErrRefused}},
		{network, ProbeResult{Unknown: 1, Err: network}},
	} {
		if got := Probed(test.err); got != test.want {
			t.Errorf("%v: %+v", test.err, got)
		}
	}
}
