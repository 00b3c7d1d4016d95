package main

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// A user that has come to its ceiling is not renewed for nothing, which would mean for ever: the pool is told that it is
// gone. PostgreSQL is not asked.
func TestRenewBeyondTheCeiling(t *testing.T) {
	issuer := &issuer{ttl: time.Minute, maxTTL: time.Hour}
	for id, want := range map[string]error{
		fmt.Sprintf("app_%d_X", time.Now().Add(-time.Hour).Unix()): rotation.ErrLeaseGone,
		"somebody": rotation.ErrInvalid,
	} {
		if _, err := issuer.Renew(t.Context(), rotation.Lease{ID: id}, time.Minute); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", id, err, want)
		}
	}
}
