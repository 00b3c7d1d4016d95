package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
)

// What stands still in the demo: what is constant, and what would count that it has failed. All of it is there from the start.
var stands = []string{
	"vaultpool_credential_usable", "vaultpool_leases_limit", "vaultpool_loop_stalled_seconds",
	"vaultpool_events_missed_total", "vaultpool_logins_paid_total",
}

// Every metric that the dashboard shows is there in the demo, and moves, but for those that must not.
func TestMetricsOfTheDashboardMove(t *testing.T) {
	runtime.LockOSThread() // as in main: the service ends with the thread that started it
	defer runtime.UnlockOSThread()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	screen := newScreen(null)
	defer screen.close()
	report, err := runDemo(t.Context(), options{database: postgresName, duration: 50 * time.Second, outage: time.Second}, screen)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report.text())
	for _, problem := range report.problems() {
		t.Error(problem)
	}
	names := report.metrics.names()
	for _, name := range dashboardNames(t) {
		moves, there := names[name]
		switch {
		case !there:
			t.Errorf("%s is not there", name)
		case !moves && !slices.Contains(stands, name):
			t.Errorf("%s does not move", name)
		}
	}
}

// dashboardNames returns the series that the dashboard's panels are about.
func dashboardNames(t *testing.T) (names []string) {
	t.Helper()
	root, err := repository()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs", "observability", "grafana-dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			expression, err := parser.NewParser(parser.Options{}).ParseExpr(strings.ReplaceAll(target.Expr, "$__rate_interval", "1m"))
			if err != nil {
				t.Fatal(err)
			}
			parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
				if selector, ok := node.(*parser.VectorSelector); ok && !slices.Contains(names, selector.Name) {
					names = append(names, selector.Name)
				}
				return nil
			})
		}
	}
	if len(names) < 15 {
		t.Fatalf("the dashboard shows %q only", names)
	}
	return names
}

// A series moves if its value changes, or if it comes later with one.
func TestMetricsAreRead(t *testing.T) {
	var m metrics
	if m.String() == "" || len(m.names()) != 0 {
		t.Errorf("nothing was read: %v", m.names())
	}
	for _, answer := range []string{
		"# HELP vaultpool_a x\nvaultpool_a{l=\"1 2\"} 1\nvaultpool_a{l=\"2\"} 1\nvaultpool_b 1e+06\nother 1\nvaultpool_d 0\n",
		"vaultpool_a{l=\"1 2\"} 1\nvaultpool_a{l=\"2\"} 2\nvaultpool_b 1e+06\nother 2\nvaultpool_c 3\nvaultpool_d 0\nvaultpool_e 0\n",
	} {
		if err := m.add(strings.NewReader(answer)); err != nil {
			t.Fatal(err)
		}
	}
	got := m.names()
	for name, want := range map[string]bool{"vaultpool_a": true, "vaultpool_b": false, "vaultpool_c": true, "vaultpool_d": false, "vaultpool_e": false} {
		if moves, there := got[name]; !there || moves != want {
			t.Errorf("%s: %v, %v", name, moves, there)
		}
	}
	if len(got) != 5 || !regexp.MustCompile(`^5 names .* 2 have moved`).MatchString(m.String()) {
		t.Errorf("%v: %s", got, &m)
	}
	if err := m.add(strings.NewReader("vaultpool_a x\n")); err == nil {
		t.Error("what is no number is read")
	}
}
