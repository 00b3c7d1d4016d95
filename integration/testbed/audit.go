package testbed

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/hashicorp/vault/api"
)

const auditDevice = "canary"

// startAudit has Vault write down everything that it is asked and answers, unhashed.
func (v *Vault) startAudit(ctx context.Context, path string) error {
	err := v.Client.Sys().EnableAuditWithOptionsWithContext(ctx, auditDevice, &api.EnableAuditOptions{
		Type: "file", Options: map[string]string{"file_path": path, "log_raw": "true"},
	})
	if err != nil {
		return fmt.Errorf("have Vault keep an audit log: %w", err)
	}
	v.audit = path
	return nil
}

// Secrets returns every password and token that Vault has handed out or been given so far. It needs Options.Audit;
// on an existing Vault, whose audit log is none of ours, it returns none.
func (v *Vault) Secrets() ([]string, error) {
	if v.audit == "" {
		return nil, nil
	}
	f, err := os.Open(v.audit)
	if err != nil {
		return nil, fmt.Errorf("read Vault's audit log: %w", err)
	}
	defer func() { _ = f.Close() }()
	found := make(map[string]bool)
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var entry any
		if err := json.Unmarshal(lines.Bytes(), &entry); err != nil {
			break // the last line may be half there
		}
		collectSecrets(entry, found)
	}
	var secrets []string
	for secret := range found {
		secrets = append(secrets, secret)
	}
	if len(secrets) == 0 {
		return nil, errors.New("read Vault's audit log: it holds no secret, which cannot be")
	}
	return secrets, lines.Err()
}

// collectSecrets finds the texts that are called like secrets, however deep.
func collectSecrets(v any, found map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			if text, ok := inner.(string); ok {
				switch key {
				case "password", "client_token", "secret_id", "token":
					if len(text) >= 12 { // shorter ones would be found by chance
						found[text] = true
					}
				}
				continue
			}
			collectSecrets(inner, found)
		}
	case []any:
		for _, inner := range v {
			collectSecrets(inner, found)
		}
	}
}
