package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// A rotator has a token that is not 15 minutes old at any time, through attempts that fail, and never ends what is
// open because of one.
func TestTokenIsNeverTooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var signed atomic.Int64 // when, in ns
		calls := 0
		sign := func(_ context.Context, endpoint, region, user string) (string, error) {
			if calls++; calls%3 == 0 {
				return "", errors.New("no credentials for now")
			}
			if endpoint != "db:5432" || region != "r" || user != "app" {
				t.Errorf("signed for %s, %s, %s", endpoint, region, user)
			}
			signed.Store(time.Now().UnixNano())
			return fmt.Sprint("token-", calls), nil
		}
		r, err := rotation.New(t.Context(), iamSource(sign, "db:5432", "r", "app"), rotation.Config{})
		if err != nil {
			t.Fatal(err)
		}
		for begin := time.Now(); time.Since(begin) < 6*time.Hour; time.Sleep(time.Second) {
			if age := time.Since(time.Unix(0, signed.Load())); age > 14*time.Minute {
				t.Errorf("the token is %v old", age)
				break
			}
			if s := r.Status(); !s.Usable || !s.Expires.IsZero() {
				t.Errorf("%+v", s)
				break
			}
		}
		if s := r.Status(); s.Generation < 30 || s.Generation > 40 {
			t.Errorf("%d tokens in 6 hours", s.Generation)
		}
		if err := r.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
