package model

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// TestMain has rapid leave no files: the engine's jitter is not in them. What a
// failure prints is the history and what happened.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.nofailfile", "true"); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
