package rotation_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// leases is a source whose credentials have leases that are renewed and given back: what
// Vault is, in short.
type leases struct{ issued, revoked atomic.Int64 }

func (s *leases) Issue(context.Context) (rotation.Credential, rotation.Lease, error) {
	n := s.issued.Add(1)
	return rotation.NewCredential(fmt.Sprintf("v-app-%d", n), "secret"),
		rotation.Lease{ID: fmt.Sprintf("lease-%d", n), TTL: time.Hour, Renewable: true, Revocable: true}, nil
}

func (s *leases) Renew(_ context.Context, lease rotation.Lease, increment time.Duration) (rotation.Lease, error) {
	lease.TTL = increment
	return lease, nil
}

func (s *leases) Revoke(context.Context, rotation.Lease) error {
	s.revoked.Add(1)
	return nil
}

// A rotator issues a credential, keeps it current, and gives everything back.
func Example() {
	ctx := context.Background()
	source := &leases{}
	r, err := rotation.New(ctx, source, rotation.Config{IssueInterval: time.Millisecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("logging in as", r.Status().User)
	if err := r.Rotate(ctx); err != nil {
		fmt.Println(err)
	}
	fmt.Println("logging in as", r.Status().User)
	if err := r.Close(ctx); err != nil {
		fmt.Println(err)
	}
	fmt.Println("issued", source.issued.Load(), "and revoked", source.revoked.Load())
	// Output:
	// logging in as v-app-1
	// logging in as v-app-2
	// issued 2 and revoked 2
}

// Nothing is issued while a rotator is paused, for example during maintenance of the source.
func ExampleRotator_Pause() {
	ctx := context.Background()
	r, err := rotation.New(ctx, &leases{}, rotation.Config{IssueInterval: time.Millisecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = r.Close(ctx) }()

	resume := r.Pause()
	fmt.Println(r.Rotate(ctx))
	resume()
	fmt.Println(r.Rotate(ctx), r.Status().Generation)
	// Output:
	// rotator is paused
	// <nil> 2
}

// While there is no usable credential, whoever needs a login is told since when and why, at once.
func ExampleNoCredentialError() {
	ctx := context.Background()
	down := rotation.SourceFunc(func(context.Context) (rotation.Credential, rotation.Lease, error) {
		return rotation.Credential{}, rotation.Lease{}, errors.New("Vault is sealed")
	})
	r, err := rotation.Start(down, rotation.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = r.Close(ctx) }()

	err = r.Await(ctx)
	var none *rotation.NoCredentialError
	if errors.As(err, &none) {
		fmt.Println("none since", none.Since.Before(time.Now()), "because:", none.Reason, "/", none.Err)
	}
	// Output: none since true because: none issued yet / Vault is sealed
}

// A source that is not Vault: a function that makes a token which is good for a
// quarter of an hour and cannot be renewed.
func ExampleSourceFunc() {
	ctx := context.Background()
	tokens := 0
	source := rotation.SourceFunc(func(context.Context) (rotation.Credential, rotation.Lease, error) {
		tokens++
		token := fmt.Sprintf("token-%d", tokens)
		return rotation.NewCredential("app", token), rotation.Lease{TTL: 15 * time.Minute}, nil
	})

	r, err := rotation.New(ctx, source, rotation.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = r.Close(ctx) }()

	s := r.Status()
	fmt.Println(s.User, "generation", s.Generation, "next:", s.Next)
	// Output: app generation 1 next: rotate
}

// Events tell what a rotator does. A subscriber runs in a goroutine of its own.
func ExampleRotator_Subscribe() {
	ctx := context.Background()
	n := 0
	source := rotation.SourceFunc(func(context.Context) (rotation.Credential, rotation.Lease, error) {
		n++
		return rotation.NewCredential(fmt.Sprintf("app-%d", n), "secret"), rotation.Lease{TTL: time.Hour}, nil
	})
	r, err := rotation.New(ctx, source, rotation.Config{IssueInterval: time.Millisecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	r.Subscribe(func(e rotation.Event) { fmt.Printf("%s: generation %d\n", e.Kind, e.Generation) })

	_ = r.Rotate(ctx)
	_ = r.Close(ctx) // the last event has been delivered when it returns
	// Output:
	// issued: generation 2
	// published: generation 2
	// draining: generation 1
	// drained: generation 1
	// draining: generation 2
	// drained: generation 2
	// closed: generation 0
}

// A credential shows itself nowhere.
func ExampleCredential() {
	c := rotation.NewCredential("v-app-1", "s3cret")
	fmt.Println(c)
	fmt.Printf("%#v\n", struct{ Login rotation.Credential }{c})
	out, _ := json.Marshal(map[string]any{"login": c})
	fmt.Println(string(out))
	// Output:
	// v-app-1:[redacted]
	// struct { Login rotation.Credential }{Login:v-app-1:[redacted]}
	// {"login":"v-app-1:[redacted]"}
}
