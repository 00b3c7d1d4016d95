package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Both databases' benchmarks run on real servers, ours without a failure and with nothing left behind, which is what
// bench returns an error for.
func TestBench(t *testing.T) {
	for _, c := range []struct{ db, file, conns, ours, recipe string }{
		{"postgres", "postgresql", "4,6", "pgvault", "BeforeConnect + Reset()"},
		{"mysql", "mysql", "6", "mysqlvault", "BeforeConnect + closing the idle"},
	} {
		t.Run(c.db, func(t *testing.T) {
			docs := t.TempDir()
			o, err := parseOptions([]string{
				"-db=" + c.db, "-conns=" + c.conns, "-rounds=1", "-run=4s", "-interval=4s", "-docs=" + docs,
				"-only=^(" + c.ours + "|" + regexp.QuoteMeta(c.recipe) + ")$", "-alternations=5", "-blocks=1", "-slice=1ms",
			})
			if err != nil {
				t.Fatal(err)
			}
			var out, progress bytes.Buffer
			if err := bench(t.Context(), o, &out, &progress); err != nil {
				t.Errorf("%v\n%s%s", err, progress.String(), out.String())
			}
			for _, n := range o.sizes {
				section := sectionOf(out.String(), fmt.Sprintf("## While credentials rotate: %d connections", n))
				for _, name := range []string{c.ours, c.recipe} {
					if cells := row(section, name); len(cells) < 11 || cells[2] != "0" {
						t.Errorf("no row of %s at %d connections that says that 0 failed:\n%s", name, n, out.String())
					}
				}
				if cells := row(section, c.recipe); len(cells) > 7 && cells[7] == "0" {
					t.Errorf("nobody paid for a login of %s: %q", c.recipe, cells)
				}
				checkLogins(t, section, c.ours, o.at(n))
				checkImage(t, filepath.Join(docs, fmt.Sprintf("%s-%d.png", c.file, n)), 2)
			}
			checkDocument(t, filepath.Join(docs, c.file+".md"), out.String())
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

// checkLogins looks for the row of ours in the table of logins: it logs in once for each connection and each proof.
func checkLogins(t *testing.T, section, ours string, o options) {
	t.Helper()
	_, table, _ := strings.Cut(section, "Logins at the database")
	cells := row(table, ours)
	if len(cells) != 8 {
		t.Errorf("no row of the logins of %s:\n%s", ours, section)
		return
	}
	most, err := strconv.Atoi(cells[3])
	if err != nil || most < 1 || most > 2*o.conns+2 {
		t.Errorf("at most %q logins in a second with %d connections", cells[3], o.conns)
	}
	rate := (&env{options: o}).pacedRate()
	if want := fmt.Sprintf("%.2f", float64(most)/rate); cells[4] != want {
		t.Errorf("%d logins in a second are %q times the paced rate of %v, not %s", most, cells[4], rate, want)
	}
}

// checkDocument checks that a document holds the report, and nothing that is only true here.
func checkDocument(t *testing.T, file, report string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
		return
	}
	if !strings.Contains(string(text), strings.TrimSpace(report)) || !strings.HasPrefix(string(text), "# ") {
		t.Errorf("the document does not hold what was printed:\n%s", text)
	}
	for _, private := range []string{filepath.Dir(file), os.TempDir()} {
		if strings.Contains(string(text), private) {
			t.Errorf("the document tells %q:\n%s", private, text)
		}
	}
}

// sectionOf returns what is below a heading.
func sectionOf(out, heading string) string {
	_, below, _ := strings.Cut(out, heading+"\n")
	section, _, _ := strings.Cut(below, "\n## ")
	return section
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
