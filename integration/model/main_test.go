package model

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// checks is how many histories there are unless -rapid.checks says.
const checks = "200"

// TestMain has rapid leave no files: the engine's jitter is not in them. What a
// failure prints is the history and what happened.
func TestMain(m *testing.M) {
	flag.Parse()
	set := map[string]string{"rapid.nofailfile": "true", "rapid.checks": checks}
	flag.Visit(func(f *flag.Flag) { delete(set, f.Name) })
	for name, value := range set {
		if err := flag.Set(name, value); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}
