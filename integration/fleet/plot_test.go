package fleet

import (
	"bytes"
	"image/color"
	"math"
	"strconv"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

const (
	plotDPI    = 96
	plotWidth  = 11 * vg.Inch
	plotHeight = 4.4 * vg.Inch
	plotMargin = 0.15 * vg.Inch

	leastDrawn = 1 // on a logarithmic axis, where 0 is nowhere
)

var (
	oursColour   = color.NRGBA{R: 0x1b, G: 0x5e, B: 0xa6, A: 0xff}
	naiveColour  = color.NRGBA{R: 0xe6, G: 0x7e, B: 0x22, A: 0xff}
	lostColour   = color.NRGBA{R: 0xc0, G: 0x1c, B: 0x28, A: 0xff}
	issueColour  = color.NRGBA{R: 0x2e, G: 0x8b, B: 0x57, A: 0xff}
	failedColour = color.Gray{Y: 0x80}
	outageColour = color.NRGBA{R: 0xf6, G: 0xd5, B: 0xd5, A: 0xff}
	gridColour   = color.Gray{Y: 0xdd}
)

// curve is a line to draw, by the minute.
type curve struct {
	name string
	series
	colour color.Color
	width  vg.Length
}

// drawRuns returns a PNG of all requests of two runs, ours first, failed ones included.
func drawRuns(runs []*run) ([]byte, error) {
	whole := span{0, runs[0].length}
	return chart(runs[0], "Requests at Vault per minute, "+thousands(float64(runs[0].instances))+" instances", whole, 6*time.Hour, []curve{
		{runs[1].name, runs[1].all(whole, time.Minute), naiveColour, 0.7},
		{runs[0].name, runs[0].all(whole, time.Minute), oursColour, 1},
	})
}

// drawRecovery returns a PNG of a run's requests by kind, round its outage.
func drawRecovery(r *run) ([]byte, error) {
	s := span{r.outage.from - 30*time.Minute, min(r.outage.to+2*time.Hour, r.length)}
	return chart(r, r.name+": requests at Vault per minute, round the outage", s, 30*time.Minute, []curve{
		{"failed", r.failedIn(s, time.Minute, issue, issueWithout, renew, revoke), failedColour, 1},
		{"renew", r.servedIn(s, time.Minute, renew), oursColour, 1.5},
		{"issue, with a lease", r.servedIn(s, time.Minute, issue), issueColour, 1.5},
		{"issue, without a lease", r.servedIn(s, time.Minute, issueWithout), lostColour, 1.5},
	})
}

// chart draws curves over a span of a run, on a logarithmic axis.
func chart(r *run, title string, s span, tick time.Duration, curves []curve) ([]byte, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, "hours since all of them started", "requests per minute"
	p.Title.TextStyle.Font, p.Title.Padding = sans(13), vg.Points(8)
	p.Y.Scale = plot.LogScale{}
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Label.TextStyle.Font, axis.Tick.Label.Font = sans(11), sans(10)
		axis.Padding = 0
	}
	top := powerAbove(curves)
	if r.outage != (span{}) {
		shade, err := shaded(r.outage, top)
		if err != nil {
			return nil, err
		}
		p.Add(shade)
		p.Legend.Add("Vault is away", shade)
	}
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = gridColour, gridColour
	p.Add(grid)
	for _, c := range curves {
		line, err := c.line(s.from)
		if err != nil {
			return nil, err
		}
		p.Add(line)
		p.Legend.Add(c.name, line)
	}
	p.Legend.Top, p.Legend.TextStyle.Font, p.Legend.Padding = true, sans(10), vg.Points(3)
	p.X.Tick.Marker, p.Y.Tick.Marker = every(tick, s), powersOfTen(top)
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = s.from.Hours(), s.to.Hours(), leastDrawn, top
	return png(p)
}

func png(p *plot.Plot) ([]byte, error) {
	canvas := vgimg.NewWith(vgimg.UseDPI(plotDPI), vgimg.UseWH(plotWidth, plotHeight))
	p.Draw(draw.Crop(draw.New(canvas), plotMargin, -2*plotMargin, plotMargin, -plotMargin))
	var image bytes.Buffer
	_, err := vgimg.PngCanvas{Canvas: canvas}.WriteTo(&image)
	return image.Bytes(), err
}

func sans(size vg.Length) font.Font {
	return font.From(font.Font{Typeface: "Liberation", Variant: "Sans"}, size)
}

func (c curve) line(from time.Duration) (*plotter.Line, error) {
	points := make(plotter.XYs, len(c.series))
	for i, n := range c.series {
		points[i] = plotter.XY{X: from.Hours() + float64(i)/60, Y: max(n, leastDrawn)}
	}
	line, err := plotter.NewLine(points)
	if err != nil {
		return nil, err
	}
	line.Color, line.Width = c.colour, vg.Points(float64(c.width))
	return line, nil
}

func shaded(s span, top float64) (*plotter.Polygon, error) {
	from, to := s.from.Hours(), s.to.Hours()
	area, err := plotter.NewPolygon(plotter.XYs{{X: from, Y: leastDrawn}, {X: to, Y: leastDrawn}, {X: to, Y: top}, {X: from, Y: top}})
	if err != nil {
		return nil, err
	}
	area.Color, area.Width = outageColour, 0
	return area, nil
}

// powerAbove is the power of ten above all peaks.
func powerAbove(curves []curve) float64 {
	most := 1.0
	for _, c := range curves {
		most = max(most, c.peak())
	}
	return math.Pow(10, math.Floor(math.Log10(most))+1)
}

func powersOfTen(top float64) (ticks plot.ConstantTicks) {
	for v := 1.0; v <= top; v *= 10 {
		ticks = append(ticks, plot.Tick{Value: v, Label: thousands(v)})
	}
	return ticks
}

func every(step time.Duration, s span) (ticks plot.ConstantTicks) {
	for at := s.from; at <= s.to; at += step {
		ticks = append(ticks, plot.Tick{Value: at.Hours(), Label: strconv.FormatFloat(at.Hours(), 'g', -1, 64)})
	}
	return ticks
}
