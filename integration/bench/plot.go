package main

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
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

// title names the run and its slowest queries.
func (t *trace) title() string {
	var r result
	r.measure(t.samples, &load{})
	return fmt.Sprintf("%s: p99.9 %s ms, max %s ms", t.name, ms(r.p999), ms(r.max))
}

const (
	plotDPI    = 96
	plotWidth  = 1000 // pixels
	panelPixel = 190
	headPixel  = 58
	plotBin    = 20 * time.Millisecond
)

var (
	queryColour    = color.NRGBA{R: 0x1f, G: 0x5f, B: 0xa8, A: 0xff}
	rotationColour = color.NRGBA{R: 0xd0, G: 0x40, B: 0x20, A: 0xff}
	gridColour     = color.NRGBA{R: 0xdd, G: 0xdd, B: 0xdd, A: 0xff}
	inkColour      = color.NRGBA{R: 0x30, G: 0x30, B: 0x30, A: 0xff}
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
		} else {
			p.X.Tick.Label.Color = color.Transparent // the same as below
		}
		panels[i] = []*plot.Plot{p}
	}
	canvas := vgimg.NewWith(vgimg.UseDPI(plotDPI), vgimg.UseWH(pixels(plotWidth), pixels(headPixel+panelPixel*len(traces))))
	c := draw.New(canvas)
	c.FillText(heading(14, draw.XLeft), vg.Point{X: c.Min.X + pixels(12), Y: c.Max.Y - pixels(8)}, title)
	c.FillText(note(), vg.Point{X: c.Min.X + pixels(12), Y: c.Max.Y - pixels(34)},
		fmt.Sprintf("Each point is the slowest query of %v; a line marks the beginning of a rotation.", plotBin))
	tiles := draw.Tiles{Rows: len(traces), Cols: 1, PadTop: pixels(headPixel), PadY: pixels(2), PadLeft: pixels(8), PadRight: pixels(14), PadBottom: pixels(6)}
	for i, tile := range plot.Align(panels, tiles, c) {
		panels[i][0].Draw(tile[0])
	}
	return encode(canvas.Image())
}

// encode writes a PNG of 256 colours, the blends with white of those that are drawn with, which takes a quarter of the
// space.
func encode(full image.Image) ([]byte, error) {
	palette := color.Palette{color.White, gridColour}
	for _, c := range []color.NRGBA{queryColour, rotationColour, inkColour} {
		for level := 1; level <= 84; level++ {
			blend := func(v uint8) uint8 { return uint8(255 - (255-int(v))*level/84) }
			palette = append(palette, color.NRGBA{R: blend(c.R), G: blend(c.G), B: blend(c.B), A: 0xff})
		}
	}
	nearest := make(map[color.Color]uint8)
	small := image.NewPaletted(full.Bounds(), palette)
	for y := full.Bounds().Min.Y; y < full.Bounds().Max.Y; y++ {
		for x := full.Bounds().Min.X; x < full.Bounds().Max.X; x++ {
			c := full.At(x, y)
			i, known := nearest[c]
			if !known {
				i = uint8(palette.Index(c))
				nearest[c] = i
			}
			small.SetColorIndex(x, y, i)
		}
	}
	var text bytes.Buffer
	err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&text, small)
	return text.Bytes(), err
}

func pixels(n int) vg.Length { return vg.Length(n) * vg.Inch / plotDPI }

func sans(size vg.Length) font.Font {
	return font.From(font.Font{Typeface: "Liberation", Variant: "Sans"}, size)
}

func heading(size vg.Length, align text.XAlignment) text.Style {
	f := sans(size)
	f.Weight = 3 // bold
	return text.Style{Color: inkColour, Font: f, XAlign: align, YAlign: draw.YTop, Handler: plot.DefaultTextHandler}
}

func note() text.Style {
	return text.Style{Color: inkColour, Font: sans(9), XAlign: draw.XLeft, YAlign: draw.YTop, Handler: plot.DefaultTextHandler}
}

// panel plots one run.
func panel(t *trace, run time.Duration, bottom, top float64) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.Title.TextStyle, p.Title.Padding = t.title(), heading(10, draw.XCenter), pixels(4)
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
	most := make(map[time.Duration]time.Duration) // by the middle of the bin
	for _, s := range samples {
		bin := s.at.Truncate(plotBin) + plotBin/2
		most[bin] = max(most[bin], s.took)
	}
	for bin, took := range most {
		points = append(points, plotter.XY{X: bin.Seconds(), Y: milliseconds(took)})
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
		ticks = append(ticks, plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'f', -1, 64)})
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
