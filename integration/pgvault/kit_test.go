package pgvault_test

import (
	"testing"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
)

type (
	recorder   = kit.Recorder
	logs       = kit.Logs
	gate       = kit.Gate
	vaultProxy = kit.VaultProxy
)

const patience = kit.Patience

var (
	check         = kit.Check
	eventually    = kit.Eventually
	within        = kit.Within
	newRecorder   = kit.NewRecorder
	newVaultProxy = kit.NewVaultProxy
	list          = kit.List
)

func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	return kit.Receive(t, what, from)
}
