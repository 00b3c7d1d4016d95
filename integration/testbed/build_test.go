package testbed

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// newBuilder returns a testbed without servers, good for builds, and what it says about them.
func newBuilder(t *testing.T) (*Bed, *bytes.Buffer) {
	t.Helper()
	dir, err := newTempDir()
	if err != nil {
		t.Fatal(err)
	}
	progress := new(bytes.Buffer)
	bed := &Bed{options: Options{Progress: progress}, processes: newProcesses(), names: newNames(), dir: dir}
	t.Cleanup(func() {
		if err := bed.Close(); err != nil {
			t.Error(err)
		}
	})
	return bed, progress
}

// writeModule makes a module with a program that prints the text.
func writeModule(t *testing.T, dir, text string) {
	t.Helper()
	for name, content := range map[string]string{
		"go.mod":  "module example.com/program\n\ngo 1.25\n",
		"main.go": "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Print(" + text + ") }\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSeveralThatNeedABuildBuildOnce(t *testing.T) {
	source, base := t.TempDir(), t.TempDir()
	writeModule(t, source, `"first"`)
	var group sync.WaitGroup
	builders := make([]*bytes.Buffer, 4)
	for i := range builders {
		bed, progress := newBuilder(t)
		builders[i] = progress
		group.Go(func() {
			binary, err := bed.cachedBuild(t.Context(), source, base)
			if err != nil {
				t.Error(err)
				return
			}
			if output, err := exec.CommandContext(t.Context(), binary).Output(); err != nil || string(output) != "first" {
				t.Errorf("built something else: %q %v", output, err)
			}
		})
	}
	group.Wait()
	built := 0
	for _, progress := range builders {
		built += strings.Count(progress.String(), "done after")
	}
	if built != 1 {
		t.Errorf("built %d times", built)
	}

	writeModule(t, source, `"second"`)
	bed, progress := newBuilder(t)
	binary, err := bed.cachedBuild(t.Context(), source, base)
	if err != nil {
		t.Fatal(err)
	}
	if output, err := exec.CommandContext(t.Context(), binary).Output(); err != nil || string(output) != "second" {
		t.Errorf("a changed source was not built: %q %v", output, err)
	}
	if !strings.Contains(progress.String(), "done after") {
		t.Errorf("said nothing about the build: %q", progress)
	}
}

func TestUnusedBuildsAreRemoved(t *testing.T) {
	source, base := t.TempDir(), t.TempDir()
	for name, age := range map[string]time.Duration{"ancient": 31 * 24 * time.Hour, "recent": 29 * 24 * time.Hour} {
		binary := filepath.Join(base, name, "devvault")
		if err := os.Mkdir(filepath.Dir(binary), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(binary, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		used := time.Now().Add(-age)
		if err := os.Chtimes(binary, used, used); err != nil {
			t.Fatal(err)
		}
	}
	writeModule(t, source, `""`)
	bed, _ := newBuilder(t)
	if _, err := bed.cachedBuild(t.Context(), source, base); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(base, "ancient")); err == nil {
		t.Error("a build that nobody used for 31 days is still there")
	}
	if _, err := os.Stat(filepath.Join(base, "recent")); err != nil {
		t.Error("a build that was used 29 days ago is gone")
	}
}

func TestBrokenBuildIsExplained(t *testing.T) {
	source, base := t.TempDir(), t.TempDir()
	writeModule(t, source, "undefinedName")
	bed, _ := newBuilder(t)
	for range 2 { // the second attempt finds no half-made binary
		if _, err := bed.cachedBuild(t.Context(), source, base); err == nil || !strings.Contains(err.Error(), "undefinedName") {
			t.Errorf("want the compiler's complaint, got: %v", err)
		}
	}
}

func TestWaitForAnotherBuildEndsWithItsContext(t *testing.T) {
	bed, progress := newBuilder(t)
	lock := filepath.Join(t.TempDir(), "lock")
	unlock, err := bed.lockBuild(t.Context(), lock)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := bed.lockBuild(ctx, lock); err == nil {
		t.Error("got a lock that is held")
	}
	if !strings.Contains(progress.String(), "waiting for another process") {
		t.Errorf("said nothing about the wait: %q", progress)
	}
}

func TestCancelledBuildLeavesNothing(t *testing.T) {
	source, base := t.TempDir(), t.TempDir()
	writeModule(t, source, `"late"`)
	bed, _ := newBuilder(t)
	t.Setenv("GOCACHE", t.TempDir()) // a build without it takes long enough to be cancelled in the midst
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	finished := make(chan error, 1)
	go func() {
		_, err := bed.cachedBuild(ctx, source, base)
		finished <- err
	}()
	for { // until something is being compiled
		if begun, _ := filepath.Glob(bed.dir.join("go-build*/*/*")); len(begun) > 0 {
			break
		}
		select {
		case err := <-finished:
			t.Fatalf("the build ended before it was cancelled: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if err := <-finished; !errors.Is(err, context.Canceled) {
		t.Errorf("want the context's error, got: %v", err)
	}
	if err := bed.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(bed.dir.path); err == nil {
		t.Error("the build's temporary files are still there")
	}
	if built, _ := filepath.Glob(filepath.Join(base, "*", "devvault*")); len(built) != 0 {
		t.Errorf("the build made %q", built)
	}
}
