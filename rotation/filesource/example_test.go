package filesource_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/filesource"
)

// Something else writes a JSON file and replaces it; the rotator follows.
func ExampleNew() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "filesource-example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	write := func(user string) {
		path := filepath.Join(dir, "db.json")
		_ = os.WriteFile(path+".new", []byte(`{"username": "`+user+`", "password": "s3cret"}`), 0o600)
		_ = os.Rename(path+".new", path)
	}

	write("app-1")
	source, err := filesource.New(filesource.Config{File: filepath.Join(dir, "db.json"), Interval: 50 * time.Millisecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	rotator, err := rotation.New(ctx, source, rotation.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = rotator.Close(ctx) }()
	fmt.Println("logging in as", rotator.Status().User)

	published := make(chan rotation.Event)
	rotator.Subscribe(func(e rotation.Event) {
		if e.Kind == rotation.Published {
			published <- e
		}
	})
	write("app-2")
	e := <-published
	fmt.Println(e.Reason+": logging in as", rotator.Status().User)
	// Output:
	// logging in as app-1
	// source changed: logging in as app-2
}
