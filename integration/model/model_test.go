// Package model drives the engine through random histories, in bubbles in which time
// is free, and compares what it does with what a lease's source and a connection's
// server know. More histories: go test ./model -rapid.checks=10000.
package model

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

// TestModel checks the properties of world_test.go.
func TestModel(t *testing.T) {
	m := &judge{t: t, known: make(map[string]verdict)}
	rapid.Check(t, func(rt *rapid.T) {
		h := histories.Draw(rt, "history")
		if v := m.judge(h); v.property != "" {
			rt.Logf("\n%v\nwhat happened:\n%s", h, v.story)
			rt.Fatalf("property %s\n%s", v.property, v.what)
		}
	})
}

type verdict struct{ property, what, story string }

// judge remembers what it found. The engine's jitter is not ours to draw, so that the
// same history may go well the next time: what has failed stays failed, or it could
// be neither shrunk nor shown; and what is tried after that is tried several times,
// for the same property.
type judge struct {
	t      *testing.T
	known  map[string]verdict
	wanted string // the property that failed first
}

func (m *judge) judge(h history) verdict {
	key := h.String()
	if v, ok := m.known[key]; ok {
		return v
	}
	attempts := 1
	if m.wanted != "" {
		attempts = 5
	}
	for range attempts {
		if v := m.once(h); v.property != "" {
			m.wanted, m.known[key] = v.property, v
			return v
		}
	}
	return verdict{}
}

func (m *judge) once(h history) (v verdict) {
	w := m.bubble(h)
	var others []string
	for _, x := range w.violations {
		switch {
		case m.wanted != "" && x.property != m.wanted:
		case v.property == "":
			v = verdict{property: x.property, what: x.what}
		default:
			others = append(others, x.property+": "+x.what)
		}
	}
	if len(others) > 5 {
		others = append(others[:5], "…")
	}
	if v.property == "" {
		return v
	}
	v.what = strings.Join(append([]string{v.what}, others...), "\n")
	v.story = w.told()
	return v
}

// bubble lives a history through. It ends when every goroutine has.
func (m *judge) bubble(h history) (w *world) {
	defer func() {
		if v := recover(); v != nil {
			w.wrong(nothing, "the bubble does not end: %v", fmt.Sprint(v))
		}
	}()
	synctest.Test(m.t, func(t *testing.T) {
		w = newWorld(h)
		w.live(t)
	})
	return w
}
