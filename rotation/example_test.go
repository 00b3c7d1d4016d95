package rotation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

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
