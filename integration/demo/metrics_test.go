package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
)

// Every metric that the dashboard shows moves in the demo, until it has shown all it has.
func TestMetricsOfTheDashboardMove(t *testing.T) {
	report := tellStory(t, postgresName)
	names := report.metrics.names()
	for _, name := range dashboardNames(t) {
		moves, there := names[name]
		switch {
		case !there:
			t.Errorf("%s is not there", name)
		case !moves:
			t.Errorf("%s does not move", name)
		}
	}
	if lost := report.story.lost; lost == nil || lost.requests == 0 {
		t.Errorf("the credential was not lost: %+v", lost)
	}
}

func TestStoryOnMariaDB(t *testing.T) {
	if lost := tellStory(t, mysqlName).story.lost; lost != nil {
		t.Errorf("the credential was lost, and the jobs' with it: %+v", lost)
	}
}

// tellStory runs the demo until it has shown all it has.
func tellStory(t *testing.T, database string) *report {
	t.Helper()
	told := errors.New("the story was told")
	report, _ := runUntil(t, options{database: database, outage: time.Second}, func(line string) error {
		if line == storyTold {
			return told
		}
		return nil
	})
	if report.reason != told.Error() {
		t.Fatalf("it ended because %s", report.reason)
	}
	if story := report.story; story.outage < time.Second || story.rush == nil {
		t.Errorf("not everything was shown: %+v", story)
	}
	return report
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
