package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/rotationhttp"
)

// operatorsOf mounts the pages of a rotator whose users are v-1, v-2 and so on.
func operatorsOf(t *testing.T, allowRotate bool) (*rotation.Rotator, http.Handler) {
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
