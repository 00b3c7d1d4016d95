package testbed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	buildTags    = "minimal"
	buildLDFlags = "-s -w"
	unusedFor    = 30 * 24 * time.Hour // after that, a cached binary of another version is removed
)

// devvaultBinary returns the path of integration/devvault's binary for its present source. What no
// earlier run has built is built now; several processes that need it at once build it once.
func (b *Bed) devvaultBinary(ctx context.Context) (string, error) {
	source, err := devvaultSource(ctx)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory for the devvault binary: %w", err)
	}
	return b.cachedBuild(ctx, source, filepath.Join(cache, "vaultpool", "devvault"))
}

// cachedBuild builds the main package in source to base/<hash of the source>/devvault.
func (b *Bed) cachedBuild(ctx context.Context, source, base string) (string, error) {
	hash, err := sourceHash(source)
	if err != nil {
		return "", err
	}
	binary := filepath.Join(base, hash, "devvault")
	if useCached(binary) {
		return binary, nil
	}
	if err := os.MkdirAll(filepath.Dir(binary), 0o755); err != nil {
		return "", fmt.Errorf("make the cache directory of the devvault binary: %w", err)
	}
	unlock, err := b.lockBuild(ctx, filepath.Join(base, hash, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if useCached(binary) { // somebody else built it while we waited
		return binary, nil
	}
	if err := b.buildDevvault(ctx, source, binary); err != nil {
		return "", err
	}
	removeUnused(base, hash)
	return binary, nil
}

// useCached reports whether the binary is there, and marks it as used today.
func useCached(binary string) bool {
	now := time.Now()
	return os.Chtimes(binary, now, now) == nil
}

// devvaultSource finds the module's directory beside this source file, or through the go command.
func devvaultSource(ctx context.Context) (string, error) {
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		if source := filepath.Join(filepath.Dir(filepath.Dir(file)), "devvault"); isModule(source) {
			return source, nil
		}
	}
	const module = "github.com/vaultpool/vaultpool/integration"
	output, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("find the source of devvault: go list -m %s: %w", module, err)
	}
	source := filepath.Join(strings.TrimSpace(string(output)), "devvault")
	if !isModule(source) {
		return "", fmt.Errorf("find the source of devvault: %s has no go.mod; a checkout of the repository is needed", source)
	}
	return source, nil
}

func isModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

// sourceHash depends on everything that decides what the binary will be.
func sourceHash(source string) (string, error) {
	hash := sha256.New()
	_, _ = fmt.Fprintln(hash, runtime.Version(), runtime.GOOS, runtime.GOARCH, buildTags, buildLDFlags)
	entries, err := os.ReadDir(source)
	if err != nil {
		return "", fmt.Errorf("read the source of devvault: %w", err)
	}
	for _, entry := range entries { // sorted by name
		name := entry.Name()
		isSource := strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go")
		if !isSource && name != "go.mod" && name != "go.sum" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return "", fmt.Errorf("read the source of devvault: %w", err)
		}
		_, _ = fmt.Fprintln(hash, name, len(text))
		_, _ = hash.Write(text)
	}
	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}

// lockBuild waits until no other process builds the same binary. The kernel drops the lock with the
// process that holds it.
func (b *Bed) lockBuild(ctx context.Context, path string) (unlock func(), err error) {
	lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of the devvault build: %w", err)
	}
	start, told := time.Now(), time.Time{}
	for {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = lock.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock the devvault build: %w", err), lock.Close())
		}
		if time.Since(told) >= progressInterval {
			told = time.Now()
			b.progressf("waiting for another process that builds Vault … %s", time.Since(start).Round(time.Second))
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for the devvault build of another process: %w", context.Cause(ctx)), lock.Close())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

const progressInterval = 5 * time.Second

// buildDevvault compiles into a temporary name, so that an interrupted build leaves no broken binary.
func (b *Bed) buildDevvault(ctx context.Context, source, binary string) error {
	start := time.Now()
	b.progressf("building Vault (the first time only: downloads 500 MB and takes some minutes) …")
	unfinished := binary + ".unfinished"
	command := exec.Command("go", "build", "-v", "-tags", buildTags, "-ldflags", buildLDFlags, "-o", unfinished, ".") //nolint:noctx // runTool watches the context
	command.Dir = source
	// An interrupted go build leaves its temporary files; here Close removes them.
	command.Env = append(os.Environ(), "GOWORK=off", "TMPDIR="+b.dir.path, "GOTMPDIR="+b.dir.path)
	log := b.dir.join("devvault-build.log")

	stop := b.reportBuild(start, log)
	err := b.processes.runTool(ctx, processSpec{
		name: "go build in " + source, command: command, logFile: log, deathSig: syscall.SIGKILL,
	})
	stop()
	if err != nil {
		return fmt.Errorf("build the development Vault: %w", err)
	}
	if err := os.Rename(unfinished, binary); err != nil {
		return fmt.Errorf("put the devvault binary in its place: %w", err)
	}
	b.progressf("building Vault: done after %s", time.Since(start).Round(time.Second))
	return nil
}

// reportBuild says every five seconds how far the build is, which it sees in the output of go build -v.
func (b *Bed) reportBuild(start time.Time, log string) (stop func()) {
	quit, finished := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(finished)
		ticker := time.NewTicker(progressInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				downloaded, compiled := countBuild(log)
				b.progressf("building Vault … %s: %d modules downloaded, %d packages compiled",
					time.Since(start).Round(time.Second), downloaded, compiled)
			case <-quit:
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-finished
	}
}

func countBuild(log string) (downloaded, compiled int) {
	text, err := os.ReadFile(log)
	if err != nil {
		return 0, 0 // only for the progress line
	}
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.HasPrefix(line, "go: downloading "):
			downloaded++
		case !strings.HasPrefix(line, "go: "):
			compiled++
		}
	}
	return downloaded, compiled
}

// removeUnused removes the binaries of other versions that nobody has used for a month.
func removeUnused(base, keep string) {
	found, _ := filepath.Glob(filepath.Join(base, "*", "devvault"))
	for _, binary := range found {
		dir := filepath.Dir(binary)
		info, err := os.Stat(binary)
		if err != nil || filepath.Base(dir) == keep || time.Since(info.ModTime()) < unusedFor {
			continue
		}
		_ = os.RemoveAll(dir) // only to save space
	}
}
