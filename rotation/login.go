package rotation

import (
	"context"
	"errors"
	"fmt"
)

// LogIn calls try with the current generation until it succeeds, where trying again
// helps. An error of try's that wraps ErrStale (from [Conn.Bind]: it was replaced
// meanwhile) has it called with the next one; one that wraps ErrRefused, which is
// reported as by Refused, or ErrEnded, once the rotation that follows is over, as it
// is where there is no credential to begin with. LogIn waits for that within ctx, as
// Await does, and for three rotations at most. It returns any other error as it is.
func (a *Attachment) LogIn(ctx context.Context, try func(g *Generation) error) error {
	const patience = 3
	for rotations := 0; ; {
		g, err := a.Current()
		if err == nil {
			err = a.try(g, try)
		}
		var none *NoCredentialError
		switch {
		case err == nil:
			return nil
		case errors.Is(err, ErrStale):
			continue // it is never current again, so this ends
		case !errors.As(err, &none) && !errors.Is(err, ErrRefused) && !errors.Is(err, ErrEnded), rotations == patience:
			return err
		}
		rotations++
		if waited := a.Await(ctx); waited != nil {
			return inVain(waited, err)
		}
	}
}

// inVain is what to say when waiting was in vain: also why we waited, unless that is
// the same.
func inVain(waited, err error) error {
	var none *NoCredentialError
	if errors.As(waited, &none) && errors.As(err, &none) {
		return waited
	}
	return fmt.Errorf("%w; after: %w", waited, err)
}

func (a *Attachment) try(g *Generation, try func(*Generation) error) error {
	err := try(g)
	if errors.Is(err, ErrRefused) {
		a.Refused(g, err)
	}
	return err
}

// Probed says what an attempt to log in to one host means for the credential: an
// error that wraps ErrRefused speaks against it, any other says nothing, nil for it.
func Probed(err error) ProbeResult {
	switch {
	case err == nil:
		return ProbeResult{Accepted: 1}
	case errors.Is(err, ErrRefused):
		return ProbeResult{Refused: 1, Err: err}
	default:
		return ProbeResult{Unknown: 1, Err: err}
	}
}
