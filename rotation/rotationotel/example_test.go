package rotationotel_test

import (
	"context"
	"fmt"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/rotationotel"
)

// The global providers take the metrics and the spans of a rotator, until it is closed. A pool's is pool.Rotator().
func ExampleInstrument() {
	source := rotation.SourceFunc(func(context.Context) (rotation.Credential, rotation.Lease, error) {
		return rotation.NewCredential("app", "secret"), rotation.Lease{TTL: time.Hour}, nil
	})
	rotator, err := rotation.New(context.Background(), source, rotation.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = rotator.Close(context.Background()) }()

	stop, err := rotationotel.Instrument(rotator, rotationotel.Config{Pool: "orders"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop() // or when the rotator is closed, whichever comes first
	fmt.Println("every rotation is counted")
	// Output: every rotation is counted
}
