package main

import (
	"bytes"
	"image/png"
	"os"
	"slices"
	"testing"
	"time"
)

// checkImage checks that a plot has that many panels.
func checkImage(t *testing.T, file string, panels int) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
		return
	}
	checkPlot(t, text, panels)
}

func checkPlot(t *testing.T, text []byte, panels int) {
	t.Helper()
	config, err := png.DecodeConfig(bytes.NewReader(text))
	if err != nil || config.Width != plotWidth || config.Height != headPixel+panels*panelPixel {
		t.Errorf("the plot is %d by %d pixels, error %v", config.Width, config.Height, err)
	}
}

// A run that rotates has a line for each rotation, and one that does not has none.
func TestDrawLatency(t *testing.T) {
	var samples []sample
	for i := range 2000 {
		samples = append(samples, sample{at: time.Duration(i) * time.Millisecond, took: time.Duration(100+i) * time.Microsecond})
	}
	still := &trace{"still", samples, nil}
	turning := &trace{"turning", samples, []time.Duration{500 * time.Millisecond, 1500 * time.Millisecond}}
	text, err := drawLatency("Latency", 2*time.Second, []*trace{still, turning})
	if err != nil {
		t.Fatal(err)
	}
	checkPlot(t, text, 2)
	image, err := png.Decode(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for panel, want := range []int{0, 2} {
		y := headPixel + panel*panelPixel + panelPixel/2
		var lines []int // where one begins
		red := false
		for x := range plotWidth {
			r, g, b, _ := image.At(x, y).RGBA()
			was := red
			if red = r > 0xc000 && g < 0xc000 && b < 0xc000; red && !was {
				lines = append(lines, x)
			}
		}
		if len(lines) != want {
			t.Errorf("panel %d has lines at %v, not %d", panel, lines, want)
		}
		if len(lines) == 2 && lines[1]-lines[0] < 400 {
			t.Errorf("half of the time apart, the lines are at %v", lines)
		}
	}
}

func TestSlowest(t *testing.T) {
	const ms = time.Millisecond
	points := slowest([]sample{{41 * ms, 2 * ms}, {0, 1 * ms}, {19 * ms, 3 * ms}, {5 * ms, 2 * ms}})
	if len(points) != 2 || points[0].X != 0.01 || points[0].Y != 3 || points[1].X != 0.05 || points[1].Y != 2 {
		t.Errorf("the slowest of each bin are %v", points)
	}
	for _, c := range []struct {
		took        []time.Duration
		bottom, top float64
	}{
		{nil, 0.1, 1},
		{[]time.Duration{ms / 2, 20 * ms}, 0.1, 100},
		{[]time.Duration{ms, 10 * ms}, 1, 100}, // nothing lies on the upper edge
	} {
		var samples []sample
		for i, took := range c.took {
			samples = append(samples, sample{time.Duration(i) * time.Second, took})
		}
		if top, bottom := latencyRange([]*trace{{samples: samples}}); top != c.top || bottom != c.bottom {
			t.Errorf("%v are plotted from %v to %v, not from %v to %v", c.took, bottom, top, c.bottom, c.top)
		}
	}
	if ticks := decades(0.1, 100); !slices.Equal(labels(ticks), []string{"0.1", "1", "10", "100"}) {
		t.Errorf("ticks %v", ticks)
	}
	if ticks := seconds(60 * time.Second); len(ticks) != 16 || ticks[15].Label != "60" {
		t.Errorf("ticks of a minute: %v", ticks)
	}
}
