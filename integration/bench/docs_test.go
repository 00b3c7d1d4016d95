package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gonum.org/v1/plot"
)

func labels(ticks plot.ConstantTicks) (all []string) {
	for _, tick := range ticks {
		all = append(all, tick.Label)
	}
	return all
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "bin/bench"},
		{[]string{"-tls", "-conns=10,50", "-docs=docs/benchmarks"}, "bin/bench -tls -conns=10,50 -docs=docs/benchmarks"},
		{[]string{"-docs=/home/somebody/out"}, "bin/bench -docs=out"},
		{[]string{"-docs", "/home/somebody/out"}, "bin/bench -docs out"},
		{[]string{"-only=raw|it's"}, `bin/bench '-only=raw|it'\''s'`},
	} {
		if got := commandLine(c.args); got != c.want {
			t.Errorf("%q: %s, not %s", c.args, got, c.want)
		}
	}
}

func TestDocument_Names(t *testing.T) {
	for _, c := range []struct{ args, title, name string }{
		{"", "pgvault on PostgreSQL", "postgresql"},
		{"-tls -part=steady", "pgvault on PostgreSQL, over TLS", "postgresql-tls"},
		{"-db=mysql -tls", "mysqlvault on MariaDB, over TLS", "mysql-tls"},
		{"-part=growth", "Cost of growth", "growth"},
		{"-part=vault", "Requests at Vault, with PostgreSQL", "vault"},
		{"-part=vault -db=mysql", "Requests at Vault, with MariaDB", "vault-mysql"},
	} {
		o, err := parseOptions(strings.Fields(c.args))
		if err != nil {
			t.Fatal(err)
		}
		if title, name := newDocument(o, nil).title(); title != c.title || name != c.name {
			t.Errorf("%s: %q in %q, not %q in %q", c.args, title, name, c.title, c.name)
		}
	}
}

// Nothing is written unless it is wanted, nor over an older document where there is no report.
func TestDocument_Write(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	o, err := parseOptions([]string{"-part=growth", "-docs=" + dir})
	if err != nil {
		t.Fatal(err)
	}
	d := newDocument(o, []string{"-part=growth"})
	if err := d.write(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("an empty document was written")
	}
	d.text.WriteString("\n## Report\n\n")
	link := d.add("50", "What it shows", []byte("image"))
	if link != "![What it shows](growth-50.png)" {
		t.Errorf("the image is shown by %s", link)
	}
	d.servers = []string{"Server 1"}
	if err := d.write(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "growth.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Cost of growth\n\nMeasured on ", "\n\n    bin/bench -part=growth\n\n- ", " CPUs", "\n- Server 1\n\n## Report\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if image, err := os.ReadFile(filepath.Join(dir, "growth-50.png")); err != nil || string(image) != "image" {
		t.Errorf("the image is %q, error %v", image, err)
	}
	d.docs = ""
	d.images = map[string][]byte{"other.png": nil}
	if err := d.write(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "other.png")); err == nil {
		t.Error("a document was written that nobody has asked for")
	}
}
