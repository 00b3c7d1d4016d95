package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

// Both databases' benchmarks run on real servers, ours without a failure and with nothing left behind, which is what
// bench returns an error for.
func TestBench(t *testing.T) {
	for _, c := range []struct{ db, ours, recipe string }{
		{"postgres", "pgvault", "BeforeConnect + Reset()"},
		{"mysql", "mysqlvault", "BeforeConnect + closing the idle"},
	} {
		t.Run(c.db, func(t *testing.T) {
			o, err := parseOptions([]string{
				"-db=" + c.db, "-conns=6", "-rounds=1", "-run=4s", "-interval=4s",
				"-only=^(" + c.ours + "|" + regexp.QuoteMeta(c.recipe) + ")$", "-alternations=5", "-blocks=1", "-slice=1ms",
			})
			if err != nil {
				t.Fatal(err)
			}
			var out, progress bytes.Buffer
			if err := bench(t.Context(), o, &out, &progress); err != nil {
				t.Errorf("%v\n%s%s", err, progress.String(), out.String())
			}
			for _, name := range []string{c.ours, c.recipe} {
				if cells := row(out.String(), name); len(cells) < 12 || cells[2] != "0" {
					t.Errorf("no row of %s that says that 0 failed:\n%s", name, out.String())
				}
			}
			if cells := row(out.String(), c.recipe); len(cells) > 9 && cells[9] == "0" {
				t.Errorf("nobody paid for a login of %s: %q", c.recipe, cells)
			}
			for _, setup := range o.db.setups(&env{options: o}) {
				for _, r := range setup.results() {
					if cells := row(out.String(), r.title()); len(cells) < 8 {
						t.Errorf("no row of %q:\n%s", r.title(), out.String())
					}
				}
			}
		})
	}
}

// row returns the cells of the first row of a table that has this name.
func row(out, name string) []string {
	for line := range strings.Lines(out) {
		if cells := strings.Split(strings.TrimSpace(line), "|"); len(cells) > 1 && strings.TrimSpace(cells[1]) == name {
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			return cells
		}
	}
	return nil
}
