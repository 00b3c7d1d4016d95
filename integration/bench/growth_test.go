package main

import (
	"bytes"
	"strconv"
	"strings"
	"testing"
)

// What a socket costs does not depend on how many there are, and is little; and no number of sockets or of pools needs
// another goroutine.
func TestGrowth(t *testing.T) {
	for _, n := range growthSizes {
		r, err := grow(t.Context(), n, 1)
		if err != nil {
			t.Fatal(err)
		}
		if r.bytes <= 0 || r.bytes > 256 {
			t.Errorf("%d sockets take %.0f bytes each, and at most 256 are allowed", n, r.bytes)
		}
		if want := (goroutines{rotator: 1}); r.goroutines != want {
			t.Errorf("%d sockets: goroutines %+v, not %+v", n, r.goroutines, want)
		}
		if r.current <= 0 || r.rotated <= 0 {
			t.Errorf("%d sockets: Current took %v and Rotate %v", n, r.current, r.rotated)
		}
	}
}

func TestGrowth_Report(t *testing.T) {
	docs := t.TempDir()
	o, err := parseOptions([]string{"-part=growth", "-quick", "-docs=" + docs})
	if err != nil {
		t.Fatal(err)
	}
	var out, progress bytes.Buffer
	if err := bench(t.Context(), o, &out, &progress); err != nil {
		t.Fatal(err)
	}
	for _, n := range growthSizes {
		cells := row(out.String(), strconv.Itoa(n))
		if len(cells) != 9 || strings.Join(cells[5:8], " ") != "1 0 0" {
			t.Errorf("the row of %d sockets is %q:\n%s", n, cells, out.String())
		}
	}
	checkDocument(t, docs+"/growth.md", out.String())
}
