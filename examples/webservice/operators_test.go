package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/rotationhttp"
)

// newRotator has users v-1, v-2 and so on.
func newRotator(t *testing.T) *rotation.Rotator {
	t.Helper()
	issued := 0
	source := rotation.SourceFunc(func(context.Context) (rotation.Credential, rotation.Lease, error) {
		issued++
		return rotation.NewCredential(fmt.Sprint("v-", issued), "the password"), rotation.Lease{}, nil
	})
	rotator, err := rotation.New(t.Context(), source, rotation.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return rotator
}

// operatorsOf mounts the pages of one.
func operatorsOf(t *testing.T, allowRotate bool) (*rotation.Rotator, http.Handler) {
	t.Helper()
	rotator := newRotator(t)
	mux := http.NewServeMux()
	stop, err := mountOperators(mux, rotator, allowRotate)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(rotator.Close(context.WithoutCancel(t.Context())), stop()); err != nil {
			t.Error(err)
		}
	})
	return rotator, mux
}

func TestOperatorsPages(t *testing.T) {
	_, pages := operatorsOf(t, false)
	for target, want := range map[string]string{
		"/vaultpool/": "<!doctype html>",
		"/healthz":    "alive",
		"/readyz":     "ready",
		"/metrics":    "vaultpool_credential_usable",
	} {
		answer := ask(t, pages, "GET", target, "")
		if answer.Code != http.StatusOK || !strings.Contains(answer.Body.String(), want) {
			t.Errorf("%s: got %d %s, want 200 with %q", target, answer.Code, answer.Body, want)
		}
		if strings.Contains(answer.Body.String(), "the password") {
			t.Errorf("%s shows the password", target)
		}
	}
}

func TestStatus(t *testing.T) {
	_, pages := operatorsOf(t, false)
	var report rotationhttp.Report
	answer := ask(t, pages, "GET", "/vaultpool/status", "")
	if err := json.Unmarshal(answer.Body.Bytes(), &report); err != nil {
		t.Fatalf("read %s: %v", answer.Body, err)
	}
	if report.State != rotationhttp.Ready || report.Generation != 1 || report.User != "v-1" || report.AllowRotate {
		t.Errorf("got %s", answer.Body)
	}
}

// The credential is replaced by who reaches the page only where -allow-rotate says so.
func TestAllowRotate(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		rotator, pages := operatorsOf(t, allowed)
		before := rotator.Status().Generation
		answer := ask(t, pages, "POST", "/vaultpool/rotate", "")
		if got := rotator.Status().Generation != before; got != allowed {
			t.Errorf("with -allow-rotate=%v: replaced %v, answered %d %s", allowed, got, answer.Code, answer.Body)
		}
	}
}

// At an address of their own, operators' pages are not at the service's.
func TestOperatorsListen(t *testing.T) {
	rotator := newRotator(t)
	ctx, cancel := context.WithCancel(t.Context())
	log, logged := io.Pipe()
	cfg := config{listen: "127.0.0.1:0", operators: "127.0.0.1:0", requestTimeout: time.Second, drainTimeout: time.Second}
	ended := make(chan error, 1)
	go func() {
		err := serveDatabase(ctx, cfg, &database{store: &memory{}, rotator: rotator}, slog.New(slog.NewJSONHandler(logged, nil)))
		ended <- errors.Join(err, rotator.Close(context.WithoutCancel(ctx)), logged.Close())
	}()
	addresses := make(map[string]string) // by whom they are for
	lines := json.NewDecoder(log)
	for len(addresses) < 2 {
		var line struct {
			Address string `json:"address"`
			For     string `json:"for"`
		}
		if err := lines.Decode(&line); err != nil {
			t.Fatal(err)
		}
		addresses[line.For] = line.Address
	}
	go func() { _, _ = io.Copy(io.Discard, log) }()
	for _, target := range []string{"/vaultpool/", "/metrics", "/readyz"} {
		if code := statusOf(t, "http://"+addresses[""]+target); code != http.StatusNotFound {
			t.Errorf("everybody gets %d for %s", code, target)
		}
		if code := statusOf(t, "http://"+addresses["operators"]+target); code != http.StatusOK {
			t.Errorf("operators get %d for %s", code, target)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func statusOf(t *testing.T, url string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	return answer.StatusCode
}
