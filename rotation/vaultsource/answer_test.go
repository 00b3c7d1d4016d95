package vaultsource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/hashicorp/vault/api"

	"github.com/vaultpool/vaultpool/rotation"
)

// What Vault 1.21.4 says, in its own words.
const (
	saysDenied       = "1 error occurred:\n\t* permission denied\n\n"
	saysInvalidToken = "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"
	saysNoRoute      = `no handler for route "nomount/creds/app". route entry not found.`
	saysUnsupported  = "1 error occurred:\n\t* unsupported path\n\n"
	saysUnknownRole  = "unknown role: nope"
	saysNotAllowed   = "1 error occurred:\n\t* \"app\" is not an allowed role\n\n"
	saysNoConnection = "1 error occurred:\n\t* failed to find entry for connection with name: \"nodb\"\n\n"
	saysBadSQL       = "1 error occurred:\n\t* failed to execute query: ERROR: syntax error at or near \"NONSENSE\" (SQLSTATE 42601)\n\n"
	saysDownAtIssue  = "1 error occurred:\n\t* unable to start transaction: failed to connect to `host=127.0.0.1 user=vaultadmin database=postgres`: dial error (dial tcp 127.0.0.1:45432: connect: connection refused)\n\n"
	saysDownAtRenew  = "failed to renew entry: resp: (*logical.Response)(nil) err: 1 error occurred:\n\t* failed to connect to `host=127.0.0.1 user=vaultadmin database=postgres`: dial error (dial tcp 127.0.0.1:45432: connect: connection refused)\n\n"
	saysDownAtRevoke = "failed to revoke entry: resp: (*logical.Response)(nil) err: failed to connect to `host=127.0.0.1 user=vaultadmin database=postgres`: dial error (dial tcp 127.0.0.1:45432: connect: connection refused)"
	saysOwns         = "failed to revoke entry: resp: (*logical.Response)(nil) err: ERROR: role \"v-token-app-sGP2\" cannot be dropped because some objects depend on it (SQLSTATE 2BP01)"
	saysRoleGone     = "failed to renew entry: resp: (*logical.Response)(nil) err: error during renew: could not find role with name \"app\""
	saysPastMax      = "failed to renew entry: resp: (*logical.Response)(nil) err: past the max TTL, cannot renew"
	saysQuota        = `request path "database/creds/app": rate limit quota exceeded`
	saysSealed       = "Vault is sealed"
	saysCapped       = `TTL of "30s" exceeded the effective max_ttl of "6s"; TTL value is capped accordingly`
)

func TestClassify(t *testing.T) {
	const lease = "database/creds/app/n2M8CMFe3P9A"
	issue, renew := request{issueCredential, "database/creds/app"}, request{renewLease, lease}
	revoke, lookup := request{revokeLease, lease}, request{lookupToken, "auth/token/lookup-self"}
	check, prolong, enter := request{lookUpLease, lease}, request{renewToken, "auth/token/renew-self"}, request{logIn, "with a method"}
	for _, test := range []struct {
		request request
		status  int
		says    string
		kind    error
		advice  string
	}{
		{issue, 403, saysDenied, rotation.ErrDenied, `path "database/creds/app" { capabilities = ["read"] }`},
		{issue, 403, saysInvalidToken, rotation.ErrDenied, "the token has ended"},
		{issue, 404, saysNoRoute, rotation.ErrInvalid, "nothing is mounted there"},
		{issue, 404, saysUnsupported, rotation.ErrInvalid, "mount, creds and role"},
		{issue, 400, saysUnknownRole, rotation.ErrInvalid, "the role does not exist"},
		{issue, 405, "unsupported operation", rotation.ErrInvalid, "cannot be read"},
		{issue, 500, saysNotAllowed, rotation.ErrInvalid, "allowed_roles"},
		{issue, 500, saysNoConnection, rotation.ErrInvalid, "db_name"},
		{issue, 500, saysBadSQL, nil, ""},
		{issue, 500, saysDownAtIssue, nil, ""},
		{issue, 503, saysSealed, nil, ""},
		{issue, 429, saysQuota, nil, ""},
		{issue, 412, "required index state not present", nil, ""},

		{renew, 400, "lease not found", rotation.ErrLeaseGone, ""},
		{renew, 400, "lease expired", rotation.ErrLeaseGone, ""},
		{renew, 400, "lease is not renewable", rotation.ErrLeaseGone, ""},
		{renew, 400, "lease is expired and has failed previous revocation attempts", rotation.ErrLeaseGone, ""},
		{renew, 400, saysPastMax, rotation.ErrLeaseGone, ""},
		{renew, 400, "cannot renew lease, no valid associated token", rotation.ErrLeaseGone, ""},
		{renew, 400, saysDownAtRenew, nil, ""},
		{renew, 400, saysRoleGone, nil, ""},
		{renew, 403, saysDenied, rotation.ErrDenied, `path "sys/leases/renew" { capabilities = ["update"] }`},
		{renew, 403, saysInvalidToken, rotation.ErrDenied, "the token has ended"},
		{renew, 404, saysNoRoute, nil, ""},
		{renew, 503, saysSealed, nil, ""},

		{revoke, 400, saysOwns, nil, ""},
		{revoke, 400, saysDownAtRevoke, nil, ""},
		{revoke, 403, saysDenied, rotation.ErrDenied, `path "sys/leases/revoke/database/creds/app/*" { capabilities = ["update"] }`},
		{revoke, 503, saysSealed, nil, ""},

		{check, 400, "1 error occurred:\n\t* invalid lease\n\n", rotation.ErrLeaseGone, ""},
		{check, 503, saysSealed, nil, ""},
		{check, 403, saysDenied, rotation.ErrDenied, `path "sys/leases/lookup" { capabilities = ["update"] }`},
		{prolong, 400, "lease is not renewable", rotation.ErrInvalid, ""},
		{prolong, 403, saysDenied, rotation.ErrDenied, `path "auth/token/renew-self"`},
		{enter, 400, "invalid role or secret ID", rotation.ErrDenied, "role and secret"},
		{enter, 403, saysDenied, rotation.ErrDenied, "mount path"},
		{enter, 404, saysNoRoute, rotation.ErrInvalid, "mount path"},
		{enter, 503, saysSealed, nil, ""},

		{lookup, 403, saysDenied, rotation.ErrDenied, `path "auth/token/lookup-self"`},
		{lookup, 503, saysSealed, nil, ""},
	} {
		kind, advice := classify(test.request, test.status, plain([]string{test.says}))
		if !errors.Is(kind, test.kind) || !strings.Contains(advice, test.advice) || (test.advice == "") != (advice == "") {
			t.Errorf("%s, %d %q: %v, advice %q; want %v, %q", test.request.operation, test.status, test.says, kind, advice, test.kind, test.advice)
		}
	}
}

func TestTextsInOneLine(t *testing.T) {
	for says, want := range map[string]string{
		saysDenied:                 "permission denied",
		saysInvalidToken:           "permission denied, invalid token",
		saysPastMax:                "failed to renew entry: past the max TTL, cannot renew",
		saysSealed:                 "Vault is sealed",
		saysDownAtRenew:            "failed to renew entry: failed to connect to `host=127.0.0.1 user=vaultadmin database=postgres`: dial error (dial tcp 127.0.0.1:45432: connect: connection refused)",
		"":                         "no reason given",
		" \n ":                     "no reason given",
		strings.Repeat("é", 10000): strings.Repeat("é", maxText/2) + " …",
	} {
		if got := plain([]string{says}); got != want {
			t.Errorf("plain(%.40q) = %q, want %q", says, got, want)
		}
	}
	if got := plain(nil); got != "no reason given" {
		t.Errorf("plain(nil) = %q", got)
	}
}

func TestFailure(t *testing.T) {
	client, err := api.NewClient(nil)
	if err != nil {
		t.Fatal(err)
	}
	client.SetNamespace("team-a")
	c := &connection{base: client, address: "https://vault.example"}
	issue := request{issueCredential, "database/creds/app"}

	err = c.failed(issue, &api.ResponseError{
		HTTPMethod: http.MethodGet, URL: "https://user:" + canary + "@vault.example/v1/database/creds/app",
		StatusCode: 429, Errors: []string{saysQuota},
	}, &reply{retryAfter: 5 * time.Second})
	if got, want := err.Error(), `issue a credential from database/creds/app in Vault at https://vault.example, namespace team-a: Vault answers 429: `+saysQuota; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var after interface{ RetryAfter() time.Duration }
	if !errors.As(fmt.Errorf("wrapped: %w", err), &after) || after.RetryAfter() != 5*time.Second {
		t.Errorf("RetryAfter is not reachable")
	}
	response := new(api.ResponseError)
	if !errors.As(err, &response) || strings.Contains(response.Error(), canary) || strings.Contains(response.URL, "user") {
		t.Errorf("the answer is not reachable, or shows the password: %v", response)
	}

	err = c.failed(issue, &url.Error{Op: "Get", URL: "https://user:" + canary + "@vault.example", Err: context.DeadlineExceeded}, &reply{})
	if !errors.Is(err, context.DeadlineExceeded) || strings.Contains(fmt.Sprintf("%+v %#v", err, err), canary) {
		t.Errorf("got %#v", err)
	}
	for _, kind := range []error{rotation.ErrDenied, rotation.ErrInvalid, rotation.ErrLeaseGone} {
		if errors.Is(err, kind) {
			t.Errorf("a timeout is %v", kind)
		}
	}
}

func TestRetryAfterHeader(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": 0, "5": 5 * time.Second, "0": 0, "-5": 0, "1m": 0, "soon": 0, "99999999999999999999": 0,
		now.Add(time.Minute).Format(http.TimeFormat):  time.Minute,
		now.Add(-time.Minute).Format(http.TimeFormat): 0,
	} {
		if got := parseRetryAfter(header, now); got != want {
			t.Errorf("Retry-After: %q gives %v, want %v", header, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	login := func() map[string]any { return map[string]any{"username": "v-app", "password": canary} }
	leased := func(change func(*api.Secret)) *api.Secret {
		s := &api.Secret{LeaseID: "database/creds/app/x", LeaseDuration: 20, Renewable: true, Data: login()}
		change(s)
		return s
	}
	static := func(ttl any) *api.Secret {
		data := login()
		data["ttl"], data["last_vault_rotation"] = ttl, "2026-03-01T12:00:00Z"
		return &api.Secret{Data: data}
	}
	kv2 := func(data any) *api.Secret {
		return &api.Secret{Data: map[string]any{"data": data, "metadata": map[string]any{"version": json.Number("3")}}}
	}
	for name, test := range map[string]struct {
		secret *api.Secret
		kind   Kind
		ttl    time.Duration
	}{
		"dynamic role":             {leased(func(*api.Secret) {}), KindDynamic, 0},
		"static role":              {static(json.Number("3600")), KindStatic, time.Hour},
		"static role, fraction":    {static(json.Number("0.25")), KindStatic, 250 * time.Millisecond}, // hazard 39
		"static role, overdue":     {static(json.Number("-3")), KindStatic, -3 * time.Second},         // hazard 39
		"KV version 2":             {kv2(login()), KindKV2, 0},
		"KV version 1":             {&api.Secret{Data: login(), LeaseDuration: 2764800}, KindKV1, 0}, // hazard 40: announced, but none
		"KV version 1 with a ttl":  {&api.Secret{Data: map[string]any{"username": "v-app", "password": canary, "ttl": "1h"}}, KindKV1, 0},
		"KV version 1 with a data": {&api.Secret{Data: map[string]any{"username": "v-app", "password": canary, "data": map[string]any{}}}, KindKV1, 0},
	} {
		a, err := Config{}.fields().parse(test.secret)
		if err != nil || a.kind != test.kind || a.ttl != test.ttl || a.credential.Username() != "v-app" || a.credential.Password() != canary {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
	own := Config{UsernameField: "user", PasswordField: "pass"}.fields()
	if a, err := own.parse(kv2(map[string]any{"user": "u", "pass": "p"})); err != nil || a.credential.Username() != "u" || a.credential.Password() != "p" {
		t.Errorf("fields of another name: %v, %v", a, err)
	}
	for name, test := range map[string]struct {
		secret *api.Secret
		want   string
	}{
		"key pair":    {leased(func(s *api.Secret) { s.Data = map[string]any{"username": "u", "rsa_private_key": canary} }), "rsa_private_key, username"},
		"no user":     {leased(func(s *api.Secret) { s.Data["username"] = "" }), "password, username"},
		"not a text":  {leased(func(s *api.Secret) { s.Data["password"] = map[string]any{"is": canary} }), "password, username"},
		"nothing":     {leased(func(s *api.Secret) { s.Data = nil }), "no fields at all"},
		"wrapped":     {leased(func(s *api.Secret) { s.Data, s.WrapInfo = nil, &api.SecretWrapInfo{Token: canary} }), "wrapped"},
		"no duration": {leased(func(s *api.Secret) { s.LeaseDuration = 0 }), "less than a second"},
		"no ttl":      {static("soon"), "ttl"},
		"other names": {kv2(map[string]any{"db_user": "u", "db_pass": canary}), "db_pass, db_user"},
		"KV 2, gone":  {kv2(nil), "data, metadata"},
	} {
		if _, err := (Config{}).fields().parse(test.secret); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v, want an error with %q", name, err, test.want)
		}
	}
}

func TestParseBound(t *testing.T) {
	asked := time.Now()
	data := func(ttl any, expires any) map[string]any {
		return map[string]any{"ttl": ttl, "expire_time": expires, "renewable": true}
	}
	if b, err := parseBound(data(json.Number("0"), nil), asked); err != nil || !b.end.IsZero() {
		t.Errorf("a root token ends at %v, %v", b.end, err)
	}
	b, err := parseBound(data(json.Number("60"), "2026-03-01T12:00:00Z"), asked)
	if err != nil || b.end.Sub(asked) != 59500*time.Millisecond || !b.renewable {
		t.Errorf("60 s give %v, renewable %t, %v", b.end.Sub(asked), b.renewable, err)
	}
	// Less than a second is left: that is an end, not none.
	if b, err := parseBound(data(json.Number("0"), "2026-03-01T12:00:00Z"), asked); err != nil || b.end.IsZero() {
		t.Errorf("ttl 0 gives %v, %v", b.end, err)
	}
	if _, err := parseBound(data("soon", "2026-03-01T12:00:00Z"), asked); err == nil {
		t.Error("no error for a ttl that is not a number")
	}
}

func TestLeftTakesTheEarlierClock(t *testing.T) {
	now := time.Now()
	if got := left(now, now.Add(time.Hour)); got != time.Hour {
		t.Errorf("got %v", got)
	}
	end := now.Add(time.Hour)
	// After a suspend of 50 minutes the monotonic clock is behind, and after the
	// wall clock was set back by as much that one is.
	for _, skew := range []time.Duration{50 * time.Minute, -50 * time.Minute} {
		then := now
		if skew < 0 {
			then = now.Add(-skew) // what the monotonic clock says
		}
		moveWall(&then, skew)
		if got := left(then, end); got != 10*time.Minute {
			t.Errorf("wall clock moved by %v: got %v", skew, got)
		}
	}
}

// moveWall moves the wall clock's part of a reading, for which package time has
// no function.
func moveWall(t *time.Time, by time.Duration) {
	const seconds = 30 // where they begin in the first word, below the bit for "has a monotonic part"
	wall, before := (*uint64)(unsafe.Pointer(t)), *t
	*wall += uint64(by/time.Second) << seconds
	if t.Sub(before) != 0 || t.Round(0).Sub(before.Round(0)) != by {
		panic("package time has another layout now")
	}
}

func TestWholeSeconds(t *testing.T) {
	for d, want := range map[time.Duration]int{
		0: 1, time.Millisecond: 1, time.Second: 1, time.Second + 1: 2, 90 * time.Minute: 5400,
	} {
		if got := wholeSeconds(d); got != want {
			t.Errorf("wholeSeconds(%v) = %d, want %d", d, got, want)
		}
	}
}
