package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strconv"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// sample is one query, as its caller saw it.
type sample struct {
	at   time.Duration // when it began, from the end of the warm-up
	took time.Duration
}

// trace is all queries of one run, and when it rotated.
type trace struct {
	name      string
	samples   []sample
	rotations []time.Duration // when each began
}

const (
	plotDPI    = 96
	plotWidth  = 1000 // pixels
	panelPixel = 190
	headPixel  = 50
	plotBin    = 20 * time.Millisecond
)

var (
	queryColour    = color.NRGBA{R: 0x1f, G: 0x5f, B: 0xa8, A: 0xff}
	rotationColour = color.NRGBA{R: 0xd0, G: 0x40, B: 0x20, A: 0xff}
	gridColour     = color.Gray{Y: 0xe4}
	inkColour      = color.Gray{Y: 0x30}
)

// drawLatency returns a PNG: for each run a panel with the slowest query of each bin, over time, all with the same axes,
// and a line where a rotation began.
func drawLatency(title string, run time.Duration, traces []*trace) ([]byte, error) {
	top, bottom := latencyRange(traces)
	panels := make([][]*plot.Plot, len(traces))
	for i, t := range traces {
		p, err := panel(t, run, bottom, top)
		if err != nil {
			return nil, fmt.Errorf("plot %s: %w", t.name, err)
		}
		if i == len(traces)-1 {
			p.X.Label.Text = "time (s)"
		}
		panels[i] = []*plot.Plot{p}
	}
	canvas := vgimg.NewWith(vgimg.UseDPI(plotDPI), vgimg.UseWH(pixels(plotWidth), pixels(headPixel+panelPixel*len(traces))))
	c := draw.New(canvas)
	c.FillText(heading(14, draw.XLeft), vg.Point{X: c.Min.X + pixels(12), Y: c.Max.Y - pixels(8)}, title)
	c.FillText(note(), vg.Point{X: c.Min.X + pixels(12), Y: c.Max.Y - pixels(30)},
		fmt.Sprintf("Each point is the slowest query of %v; a line marks the beginning of a rotation.", plotBin))
	tiles := draw.Tiles{Rows: len(traces), Cols: 1, PadTop: pixels(headPixel), PadY: pixels(8), PadLeft: pixels(8), PadRight: pixels(14), PadBottom: pixels(6)}
	for i, tile := range plot.Align(panels, tiles, c) {
		panels[i][0].Draw(tile[0])
	}
	var image bytes.Buffer
	_, err := vgimg.PngCanvas{Canvas: canvas}.WriteTo(&image)
	return image.Bytes(), err
}

func pixels(n int) vg.Length { return vg.Length(n) * vg.Inch / plotDPI }

func sans(size vg.Length) font.Font {
	return font.From(font.Font{Typeface: "Liberation", Variant: "Sans"}, size)
}

func heading(size vg.Length, align text.XAlignment) text.Style {
	f := sans(size)
	f.Weight = 2 // bold
	return text.Style{Color: inkColour, Font: f, XAlign: align, YAlign: draw.YTop, Handler: plot.DefaultTextHandler}
}

func note() text.Style {
	return text.Style{Color: inkColour, Font: sans(9), XAlign: draw.XLeft, YAlign: draw.YTop, Handler: plot.DefaultTextHandler}
}

// panel plots one run.
func panel(t *trace, run time.Duration, bottom, top float64) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.Title.TextStyle, p.Title.Padding = t.name, heading(10, draw.XCenter), pixels(3)
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Label.TextStyle.Font, axis.Tick.Label.Font = sans(9), sans(8)
		axis.Label.TextStyle.Color, axis.Tick.Label.Color = inkColour, inkColour
		axis.Color, axis.Tick.Color = inkColour, inkColour
		axis.Padding = 0
	}
	p.Y.Label.Text = "latency (ms)"
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, decades(bottom, top)
	p.X.Tick.Marker = seconds(run)

	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = gridColour, gridColour
	p.Add(grid)
	for _, at := range t.rotations {
		line, err := plotter.NewLine(plotter.XYs{{X: at.Seconds(), Y: bottom}, {X: at.Seconds(), Y: top}})
		if err != nil {
			return nil, err
		}
		line.Color, line.Width = rotationColour, pixels(1)
		p.Add(line)
	}
	points, err := plotter.NewScatter(slowest(t.samples))
	if err != nil {
		return nil, err
	}
	points.GlyphStyle = draw.GlyphStyle{Color: queryColour, Radius: pixels(1) * 3 / 2, Shape: draw.CircleGlyph{}}
	p.Add(points)
	// Last, since Add widens them.
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, run.Seconds(), bottom, top
	return p, nil
}

// slowest is the slowest query of each bin, in seconds and milliseconds.
func slowest(samples []sample) (points plotter.XYs) {
	most := make(map[time.Duration]time.Duration)
	for _, s := range samples {
		most[s.at/plotBin] = max(most[s.at/plotBin], s.took)
	}
	for bin, took := range most {
		points = append(points, plotter.XY{X: (bin*plotBin + plotBin/2).Seconds(), Y: milliseconds(took)})
	}
	slices.SortFunc(points, func(a, b plotter.XY) int { return int(math.Copysign(1, a.X-b.X)) })
	return points
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// latencyRange is the decades that hold all points.
func latencyRange(traces []*trace) (top, bottom float64) {
	least, most := math.Inf(1), 0.0
	for _, t := range traces {
		for _, p := range slowest(t.samples) {
			least, most = min(least, p.Y), max(most, p.Y)
		}
	}
	if most == 0 {
		return 1, 0.1
	}
	return math.Pow(10, math.Ceil(math.Log10(most)+0.01)), math.Pow(10, math.Floor(math.Log10(least)))
}

// decades has a tick with a number at each power of ten.
func decades(bottom, top float64) plot.ConstantTicks {
	var ticks plot.ConstantTicks
	for v := bottom; v <= top*1.001; v *= 10 {
		ticks = append(ticks, plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'g', 3, 64)})
	}
	return ticks
}

// seconds has about fifteen ticks.
func seconds(run time.Duration) plot.ConstantTicks {
	step := max(1, int(run.Seconds())/15)
	var ticks plot.ConstantTicks
	for s := 0; s <= int(run.Seconds()); s += step {
		ticks = append(ticks, plot.Tick{Value: float64(s), Label: strconv.Itoa(s)})
	}
	return ticks
}
