package rotationotel_test

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/rotationotel"
)

// Of a pool it is pool.Rotator(), of a *sql.DB mysqlvault.RotatorOf(db).
func ExampleInstrument() {
	ctx := context.Background()
	source := rotation.SourceFunc(func(context.Context) (rotation.Credential, rotation.Lease, error) {
		return rotation.NewCredential("v-orders-1", "secret"), rotation.Lease{TTL: time.Hour}, nil
	})
	rotator, err := rotation.New(ctx, source, rotation.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	// The global providers: what the program has set with otel.SetMeterProvider and SetTracerProvider.
	_, err = rotationotel.Instrument(rotator, rotationotel.Config{
		Pool:       "orders",
		Attributes: []attribute.KeyValue{attribute.String("deployment.environment.name", "production")},
	})
	fmt.Println("instrumented:", err == nil)
	fmt.Println("closed:", rotator.Close(ctx) == nil) // ends the reports, too

	// Output:
	// instrumented: true
	// closed: true
}
