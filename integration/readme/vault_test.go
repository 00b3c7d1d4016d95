package readme_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
)

// Where there is no vault command, this test's program takes its place for the few of its subcommands that
// the documents use, over Vault's own client.

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != "vault" {
		os.Exit(m.Run())
	}
	if err := vault(os.Args[1:]); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, strings.Join(os.Args, " ")+":", err)
		os.Exit(2)
	}
}

// invocation is the command's words: what it is to do, its flags, and the rest.
type invocation struct {
	verb  string // "write", "policy write"
	flags map[string]string
	words []string
	data  map[string]any // of words with an equals sign
}

var groups = []string{"auth", "kv", "lease", "policy", "secrets", "token"}

func parse(args []string) *invocation {
	in := &invocation{verb: args[0], flags: make(map[string]string), data: make(map[string]any)}
	args = args[1:]
	for _, group := range groups {
		if in.verb == group {
			in.verb, args = in.verb+" "+args[0], args[1:]
			break
		}
	}
	for _, arg := range args {
		key, value, isPair := strings.Cut(arg, "=")
		switch {
		case strings.HasPrefix(arg, "-"):
			in.flags[strings.TrimPrefix(key, "-")] = value
		case isPair:
			in.data[key] = value
		default:
			in.words = append(in.words, arg)
		}
	}
	return in
}

func vault(args []string) error {
	client, err := api.NewClient(nil) // address and token are in the environment
	if err != nil {
		return err
	}
	in, ctx := parse(args), context.Background()
	var secret *api.Secret
	switch in.verb {
	case "auth enable":
		err = client.Sys().EnableAuthWithOptionsWithContext(ctx, in.words[0], &api.MountInput{Type: in.words[0]})
	case "secrets enable":
		kind, options := in.words[0], map[string]string{}
		if kind == "kv-v2" {
			kind, options["version"] = "kv", "2"
		}
		path := in.flags["path"]
		if path == "" {
			path = kind
		}
		err = client.Sys().MountWithContext(ctx, path, &api.MountInput{Type: kind, Options: options})
	case "policy write":
		var rules []byte
		if rules, err = os.ReadFile(in.words[1]); err == nil {
			err = client.Sys().PutPolicyWithContext(ctx, in.words[0], string(rules))
		}
	case "token create":
		secret, err = client.Auth().Token().CreateWithContext(ctx, &api.TokenCreateRequest{
			Policies: []string{in.flags["policy"]}, Period: in.flags["period"],
			NoParent: has(in, "orphan"), NoDefaultPolicy: has(in, "no-default-policy"),
		})
	case "kv put":
		_, err = client.KVv2(in.flags["mount"]).Put(ctx, in.words[0], in.data)
	case "lease revoke":
		err = client.Sys().RevokeWithOptionsWithContext(ctx, &api.RevokeOptions{
			LeaseID: in.words[0], Prefix: has(in, "prefix"), Force: has(in, "force"), Sync: has(in, "sync"),
		})
	case "write":
		secret, err = client.Logical().WriteWithContext(ctx, in.words[0], in.data)
	case "read":
		secret, err = client.Logical().ReadWithContext(ctx, in.words[0])
	case "list":
		secret, err = client.Logical().ListWithContext(ctx, in.words[0])
	default:
		return errors.New("the documents' vault command does not know this")
	}
	if err != nil {
		return err
	}
	return in.show(secret)
}

func has(in *invocation, flag string) bool {
	_, ok := in.flags[flag]
	return ok
}

// show prints the one field that was asked for; nobody reads the rest.
func (in *invocation) show(secret *api.Secret) error {
	field, ok := in.flags["field"]
	if !ok {
		return nil
	}
	if secret == nil {
		return errors.New("no answer")
	}
	value := secret.Data[field]
	if field == "token" && secret.Auth != nil {
		value = secret.Auth.ClientToken
	}
	if value == nil {
		return fmt.Errorf("the answer has no %s", field)
	}
	_, err := fmt.Println(value)
	return err
}
