package fleet

import (
	"bytes"
	"image/color"
	"strconv"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

const (
	plotWidth  = 11 * vg.Inch
	plotHeight = 4.2 * vg.Inch

	leastDrawn = 1 // on a logarithmic axis, where 0 is nowhere
)

var (
	oursColour   = color.NRGBA{R: 0x1b, G: 0x5e, B: 0xa6, A: 0xff}
	naiveColour  = color.NRGBA{R: 0xe6, G: 0x7e, B: 0x22, A: 0xff}
	outageColour = color.NRGBA{R: 0xf3, G: 0xc6, B: 0xc6, A: 0xff}
	lineColour   = color.Gray{Y: 0xdd}
)

// draw returns a PNG of the requests of some runs of one length, ours first, over time.
func draw(runs []*run) ([]byte, error) {
	p := plot.New()
	s := runs[0].settings
	p.Title.Text = "Requests at Vault per minute, " + thousands(float64(s.instances)) + " instances"
	p.X.Label.Text = "hours since all of them started"
	p.Y.Label.Text = "requests per minute"
	p.Y.Scale = plot.LogScale{}
	p.Title.TextStyle.Font = sans(13)
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Label.TextStyle.Font, axis.Tick.Label.Font = sans(11), sans(10)
		axis.Padding = 0
	}

	top := ceiling(runs)
	if s.outage != (span{}) {
		shade, err := shaded(s.outage, top)
		if err != nil {
			return nil, err
		}
		p.Add(shade)
		p.Legend.Add("Vault is away", shade)
	}
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = lineColour, lineColour
	p.Add(grid)
	for i := len(runs) - 1; i >= 0; i-- { // ours on top
		line, err := curve(runs[i])
		if err != nil {
			return nil, err
		}
		p.Add(line)
		p.Legend.Add(runs[i].name, line)
	}
	p.Legend.Top, p.Legend.TextStyle.Font = true, sans(10)
	p.Legend.YOffs = vg.Points(-4)
	p.X.Tick.Marker, p.Y.Tick.Marker = everySixHours(s.length), powersOfTen(top)
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, s.length.Hours(), leastDrawn, top

	w, err := p.WriterTo(plotWidth, plotHeight, "png")
	if err != nil {
		return nil, err
	}
	var image bytes.Buffer
	_, err = w.WriteTo(&image)
	return image.Bytes(), err
}

func sans(size vg.Length) font.Font {
	return font.From(font.Font{Typeface: "Liberation", Variant: "Sans"}, size)
}

// curve is all requests of a run, failed ones included.
func curve(r *run) (*plotter.Line, error) {
	requests := r.all(span{0, r.length}, time.Minute)
	points := make(plotter.XYs, len(requests))
	for i, n := range requests {
		points[i] = plotter.XY{X: float64(i) / 60, Y: max(n, leastDrawn)}
	}
	line, err := plotter.NewLine(points)
	if err != nil {
		return nil, err
	}
	line.Color, line.Width = oursColour, vg.Points(1)
	if r.name == theirs {
		line.Color, line.Width = naiveColour, vg.Points(0.7)
	}
	return line, nil
}

func shaded(s span, top float64) (*plotter.Polygon, error) {
	from, to := s.from.Hours(), s.to.Hours()
	area, err := plotter.NewPolygon(plotter.XYs{{X: from, Y: leastDrawn}, {X: to, Y: leastDrawn}, {X: to, Y: top}, {X: from, Y: top}})
	if err != nil {
		return nil, err
	}
	area.Color, area.LineStyle.Width = outageColour, 0
	return area, nil
}

// ceiling is the power of ten above all peaks.
func ceiling(runs []*run) float64 {
	top := 10.0
	for _, r := range runs {
		for peak := r.all(span{0, r.length}, time.Minute).peak(); top < peak; {
			top *= 10
		}
	}
	return top
}

func powersOfTen(top float64) (ticks plot.ConstantTicks) {
	for v := 1.0; v <= top; v *= 10 {
		ticks = append(ticks, plot.Tick{Value: v, Label: thousands(v)})
	}
	return ticks
}

func everySixHours(length time.Duration) (ticks plot.ConstantTicks) {
	for h := 0; h <= int(length.Hours()); h += 6 {
		ticks = append(ticks, plot.Tick{Value: float64(h), Label: strconv.Itoa(h)})
	}
	return ticks
}
