package rotation

import (
	"fmt"
	"log/slog"
	"time"
)

// Config tunes a Rotator. The zero value is right for most: every field that is
// 0 takes the default given beside it.
type Config struct {
	// DrainTimeout is how long connections of a replaced credential may go on
	// before they are ended. Default 5 minutes. It is shortened where the lease
	// leaves less: a rotation that is due starts DrainTimeout before the end of the
	// lease, but no more than a fifth of the longest TTL it was granted.
	DrainTimeout time.Duration
	// RenewIncrement is what each renewal asks for, at least. Default: the TTL first
	// granted. It is never less than what was granted before, since Vault counts it
	// from now: a smaller one would shorten the lease.
	RenewIncrement time.Duration
	// IssueInterval is the least time between two issues. Default 1 second, or a
	// quarter of the lease if that is less, but at least 100 ms. It doubles, up to a
	// minute, with every credential in a row that had to be replaced before its time.
	IssueInterval time.Duration
	// MaxUnrevoked is how many leases may exist at once, the current one included.
	// Default 5, least 2. When it is reached nothing is issued until one is gone.
	MaxUnrevoked int
	// StartTimeout bounds New's wait for the first credential, beside its context.
	// Default 30 seconds.
	StartTimeout time.Duration
	// ProbeTimeout bounds one attempt to log in with a new credential. Default 10
	// seconds; less where the old one ends before.
	ProbeTimeout time.Duration
	// CloseTimeout is how long an adapter's Close may take, where the caller gives
	// no deadline. Default 10 seconds.
	CloseTimeout time.Duration
	// Logger gets every event: failures as warnings, the rest as info and debug.
	// Default: none.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	for _, f := range []struct {
		name  string
		field *time.Duration
		def   time.Duration
	}{
		{"DrainTimeout", &c.DrainTimeout, 5 * time.Minute},
		{"RenewIncrement", &c.RenewIncrement, 0},
		{"IssueInterval", &c.IssueInterval, time.Second},
		{"StartTimeout", &c.StartTimeout, 30 * time.Second},
		{"ProbeTimeout", &c.ProbeTimeout, 10 * time.Second},
		{"CloseTimeout", &c.CloseTimeout, 10 * time.Second},
	} {
		if *f.field < 0 {
			return c, fmt.Errorf("rotation.Config.%s is %v: it must not be negative; 0 means the default", f.name, *f.field)
		}
		if *f.field == 0 {
			*f.field = f.def
		}
	}
	if c.MaxUnrevoked == 0 {
		c.MaxUnrevoked = 5
	}
	if c.MaxUnrevoked < 2 {
		return c, fmt.Errorf("rotation.Config.MaxUnrevoked is %d: it must be at least 2, since the old and the new lease exist side by side; 0 means the default", c.MaxUnrevoked)
	}
	return c, nil
}
