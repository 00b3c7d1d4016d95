package vaultsource

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// defaultTimeout bounds a request where the client that was given has no
// timeout: an issue must end some day, although nothing cancels it. It is also
// the api package's own default.
const defaultTimeout = 60 * time.Second

// connection is how Vault is reached. It does not change once it is made.
type connection struct {
	base    *api.Client            // without a token; copied for each request
	token   func() (string, error) // nil where the source logs in
	agent   bool                   // a Vault Agent or Proxy, which may add a token
	address string                 // for messages: without user and password
	timeout time.Duration
}

// connect makes the connection without sending anything.
func connect(config Config) (*connection, error) {
	if config.Client != nil {
		return fromClient(config)
	}
	return fromEnvironment(config)
}

func fromClient(config Config) (*connection, error) {
	if config.Address != "" || config.Namespace != "" || config.CACert != "" || config.TokenFile != "" {
		return nil, errors.New("both Client and one of Address, Namespace, CACert and TokenFile are set: set these on the client instead")
	}
	client := config.Client
	// Not Clone: that shares the http.Client, whose transport could not be
	// wrapped then, and writes to the transport where it dials a unix socket.
	c := client.CloneConfig()
	agent := c.AgentAddress != "" || isSocket(c.Address)
	c.Address, c.AgentAddress = client.Address(), "" // SetAddress changes neither alone
	conn, err := build(c, agent)
	if err != nil {
		return nil, err
	}
	if client.Token() == "" && !conn.agent && config.Auth == nil {
		return nil, errors.New("the Vault client that was given has no token: set VAULT_TOKEN before it is made, or call its SetToken, or set Auth")
	}
	conn.token = func() (string, error) { return client.Token(), nil }
	conn.base.SetHeaders(client.Headers()) // the namespace is one of them
	return conn, nil
}

func fromEnvironment(config Config) (*connection, error) {
	c := api.DefaultConfig() // reads VAULT_*
	if c.Error != nil {
		return nil, fmt.Errorf("read the VAULT_* environment: %w", hideURL(c.Error))
	}
	if config.Address != "" {
		c.Address, c.AgentAddress = config.Address, ""
	}
	if u, err := url.Parse(config.Address); err == nil && u.User != nil {
		return nil, errors.New("the Vault address holds a user or a password: no parameter may hold a secret (VAULT_ADDR may)")
	}
	if config.CACert != "" {
		if err := c.ConfigureTLS(&api.TLSConfig{CACert: config.CACert}); err != nil {
			return nil, fmt.Errorf("read the CA certificates for Vault in %s: %w", config.CACert, err)
		}
	}
	if t, ok := c.HttpClient.Transport.(*http.Transport); ok {
		// Requests are minutes apart: nothing that stays open in between has to be
		// closed some day, or turns out to be dead when it is needed.
		t.DisableKeepAlives = true
	}
	conn, err := build(c, c.AgentAddress != "")
	if err != nil {
		return nil, err
	}
	if config.Auth == nil {
		if conn.token, err = environmentToken(config, conn.agent); err != nil {
			return nil, err
		}
	}
	if config.Namespace != "" {
		conn.base.SetNamespace(config.Namespace)
	}
	return conn, nil
}

// build makes the base client from a configuration that is ours to change.
func build(c *api.Config, agent bool) (*connection, error) {
	address := c.Address
	if c.AgentAddress != "" {
		address = c.AgentAddress
	}
	if err := checkAddress(address); err != nil {
		return nil, err
	}
	// Reading creds makes a user each time: whether to try again after a lost
	// answer is for the Rotator to say, which counts what it has asked for.
	c.MaxRetries = 0
	if c.Timeout <= 0 {
		c.Timeout = defaultTimeout
	}
	client, err := api.NewClient(c)
	if err != nil {
		return nil, fmt.Errorf("make a Vault client: %w", hideURL(err))
	}
	c.HttpClient.Transport = once{c.HttpClient.Transport}
	client.ClearToken() // it is set for each request
	// With VAULT_WRAP_TTL the answer would not show the lease it made.
	client.SetWrappingLookupFunc(func(string, string) string { return "" })
	return &connection{base: client, agent: agent || isSocket(address), address: displayed(address), timeout: c.Timeout}, nil
}

func isSocket(address string) bool { return strings.HasPrefix(address, "unix:") }

// request returns a client for one request with this token. What Vault sends
// beside the answer is in the reply.
func (c *connection) request(token string) (*api.Client, *reply) {
	r := new(reply)
	client := c.base.WithResponseCallbacks(func(response *api.Response) {
		r.retryAfter = parseRetryAfter(response.Header.Get("Retry-After"), time.Now())
		r.age = parseRetryAfter(response.Header.Get("Age"), time.Now())
	})
	client.SetToken(token)
	return client, r
}

type reply struct {
	retryAfter time.Duration
	age        time.Duration // of an answer out of a Vault Agent's cache (RFC 9111, section 5.1)
}

// parseRetryAfter takes seconds or a date, as HTTP has it; 0 if there is neither.
func parseRetryAfter(header string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(header); err == nil {
		return max(date.Sub(now), 0)
	}
	return 0
}

// once keeps net/http from sending a request twice. When an answer is lost on a
// connection that was used before, it repeats what it takes for idempotent, a
// GET for one; but not a request with a body that it cannot rewind.
type once struct{ next http.RoundTripper }

func (o once) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.Body != nil && request.Body != http.NoBody {
		return o.next.RoundTrip(request)
	}
	r := *request
	r.Body, r.GetBody = io.NopCloser(strings.NewReader("")), nil
	return o.next.RoundTrip(&r)
}

// hideURL replaces url.Parse's complaint, which quotes passwords with the rest.
func hideURL(err error) error {
	if errors.As(err, new(*url.Error)) {
		return errors.New("one of its URLs cannot be parsed")
	}
	return err
}
