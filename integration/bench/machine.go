package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
)

// machine describes what this runs on. What a system does not tell is left out.
func machine() []string {
	lines := []string{fmt.Sprintf("%d CPUs%s", runtime.NumCPU(), prefixed(", ", field("/proc/cpuinfo", "model name")))}
	if kilobytes, err := strconv.Atoi(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB")); err == nil {
		lines = append(lines, fmt.Sprintf("%.1f GiB of memory", float64(kilobytes)/(1<<20)))
	}
	system := strings.Trim(field("/etc/os-release", "PRETTY_NAME"), `"`)
	if system == "" {
		system = runtime.GOOS
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease") // nothing, where there is none
	kernel, _, _ := strings.Cut(string(release), "-")       // whoever built it is of no interest
	return append(lines, system+prefixed(", kernel ", strings.TrimSpace(kernel)), runtime.Version()+" "+runtime.GOOS+"/"+runtime.GOARCH)
}

func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

// field returns what follows a name and ":" or "=" in the first line of a file that begins with it.
func field(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), name); ok {
			return strings.TrimSpace(strings.TrimLeft(rest, " \t:="))
		}
	}
	return ""
}

// drivers are the versions of the modules that the figures depend on.
func drivers() (lines []string) {
	wanted := []string{"github.com/jackc/pgx/v5", "github.com/go-sql-driver/mysql", "github.com/hashicorp/vault/api"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil
	}
	for _, module := range info.Deps {
		if slices.Contains(wanted, module.Path) {
			lines = append(lines, module.Path+" "+module.Version)
		}
	}
	return lines
}

// commandLine is how this was started, by `make bench` or a build like it. Of a directory or file that is only here, it
// tells the last part.
func commandLine(args []string) string {
	words := []string{"bin/bench"}
	for _, arg := range args {
		name, value, ok := strings.Cut(arg, "=")
		switch {
		case ok && filepath.IsAbs(value):
			arg = name + "=" + filepath.Base(value)
		case filepath.IsAbs(arg):
			arg = filepath.Base(arg)
		}
		if strings.Trim(arg, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=,./") != "" {
			arg = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
		words = append(words, arg)
	}
	return strings.Join(words, " ")
}
