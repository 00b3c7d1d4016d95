package rotationhttp_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/rotationhttp"
)

// The page and the checks below a path of one's own. A pgvault.Pool's rotator is pool.Rotator().
func ExampleHandler() {
	ctx := context.Background()
	source := rotation.SourceFunc(func(context.Context) (rotation.Credential, rotation.Lease, error) {
		return rotation.NewCredential("app", "secret"), rotation.Lease{TTL: time.Hour}, nil
	})
	rotator, err := rotation.New(ctx, source, rotation.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}

	mux := http.NewServeMux()
	mux.Handle("/ops/database/", http.StripPrefix("/ops/database",
		rotationhttp.Handler(rotator, rotationhttp.Config{Title: "Orders database"})))

	check := func(path string) {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, path, http.NoBody))
		body, _ := io.ReadAll(w.Body)
		fmt.Printf("%s: %d %s", path, w.Code, body)
	}
	check("/ops/database/healthz")
	check("/ops/database/readyz")
	_ = rotator.Close(ctx)
	check("/ops/database/healthz")
	// Output:
	// /ops/database/healthz: 200 alive
	// /ops/database/readyz: 200 ready
	// /ops/database/healthz: 503 closed
}
