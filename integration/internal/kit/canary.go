package kit

import (
	"fmt"
	"strings"
	"sync"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
)

// corpus is everything that the library has said to the tests of this process: what it logged, and its events with
// their errors, as text with every detail that fmt finds.
var corpus struct {
	mu   sync.Mutex
	text strings.Builder
}

// Heard adds to what is searched for secrets at the end.
func Heard(values ...any) {
	corpus.mu.Lock()
	defer corpus.mu.Unlock()
	for _, v := range values {
		fmt.Fprintf(&corpus.text, "%v %+v %#v\n", v, v, v)
	}
}

// HeardStatus is Heard for a snapshot of a rotator.
func HeardStatus(r *rotation.Rotator) {
	s := r.Status()
	Heard(s, s.LastError)
}

// CheckHeard returns an error if a secret that this Vault was given or handed out was heard from the library. It does
// not show it.
func CheckHeard(bed *testbed.Bed) error {
	secrets, err := bed.Vault.Secrets()
	if err != nil {
		return err
	}
	corpus.mu.Lock()
	text := corpus.text.String()
	corpus.mu.Unlock()
	for _, secret := range secrets {
		if i := strings.Index(text, secret); i >= 0 {
			around := strings.ReplaceAll(text[max(0, i-200):min(len(text), i+len(secret)+200)], secret, "*THE SECRET*")
			return fmt.Errorf("hazard 45: a secret that Vault handed out was heard from the library: %s", around)
		}
	}
	return nil
}
