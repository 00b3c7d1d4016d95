package main

import (
	"fmt"
	"html"
	"os"
	"strings"
	"time"
)

// The timeline is a page of its own: faults as bars, with the time until all was well again in a paler colour, failures
// as dots below them, and each lane's p99 as a line.
const (
	pixelsPerSecond = 6
	barHeight       = 14
	dotRow          = 12
	chartHeight     = 70
	labelWidth      = 240
)

var laneColours = map[lane]string{pgOurs: "#1f5fbf", pgControl: "#8fb4e8", myOurs: "#b5470b", myControl: "#eab08a"}

// drawing is an SVG in the making.
type drawing struct {
	strings.Builder
	began time.Time
	y     int // where the next row begins
}

func (d *drawing) x(t time.Time) float64 {
	return labelWidth + t.Sub(d.began).Seconds()*pixelsPerSecond
}

func (d *drawing) add(format string, values ...any) { fmt.Fprintf(&d.Builder, format+"\n", values...) }

func (d *drawing) label(text string) {
	d.add(`<text x="4" y="%d">%s</text>`, d.y+barHeight-3, html.EscapeString(text))
}

// draw writes the page.
func (r *report) draw(file string) error {
	seconds := r.snapshot.seconds
	if len(seconds) == 0 {
		return fmt.Errorf("draw %s: the load did nothing", file)
	}
	d := &drawing{began: seconds[0].at, y: 10}
	d.bars(r.record.bars)
	d.dots(r.record.dots)
	for _, l := range lanes {
		d.line(l, seconds)
	}
	d.axis(seconds[len(seconds)-1].at)
	width := int(d.x(seconds[len(seconds)-1].at)) + 20
	page := fmt.Sprintf(`<!doctype html><meta charset="utf-8"><title>Fault suite, seed %d</title>
<style>body{font:13px sans-serif;margin:1em} svg{font:11px sans-serif} pre{overflow:auto}</style>
<h1>Fault suite, seed %d</h1>
<p>A bar is a fault, its pale end the time until all was well again; a dot is a failed operation; a line is the p99 of short queries in each second, cut at 100 ms.</p>
<div style="overflow-x:auto"><svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d">
%s</svg></div><pre>%s</pre>
`, r.seed, r.seed, width, d.y+20, d.String(), html.EscapeString(r.text()))
	if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
		return fmt.Errorf("draw the timeline: %w", err)
	}
	return nil
}

// bars has a row for each kind of fault.
func (d *drawing) bars(bars []bar) {
	rows := make(map[string]int)
	for _, b := range bars {
		y, known := rows[b.name]
		if !known {
			d.label(b.name)
			y = d.y
			rows[b.name] = y
			d.y += barHeight + 2
		}
		title := html.EscapeString(fmt.Sprintf("%s, %v", b.name, b.ended.Sub(b.began).Round(time.Millisecond)))
		d.add(`<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="#d8d8d8"/>`, d.x(b.began), y, max(d.x(b.over)-d.x(b.began), 2), barHeight)
		d.add(`<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="#c02828"><title>%s</title></rect>`, d.x(b.began), y, max(d.x(b.ended)-d.x(b.began), 2), barHeight, title)
	}
	d.y += barHeight
}

// dots has a row for each lane.
func (d *drawing) dots(failures []*failure) {
	for _, l := range lanes {
		d.label(string(l) + ", failures")
		for _, f := range failures {
			if f.Lane == l {
				d.add(`<circle cx="%.1f" cy="%d" r="2" fill="%s"><title>%s</title></circle>`,
					d.x(f.Ended), d.y+dotRow/2, laneColours[l], html.EscapeString(describe(f)))
			}
		}
		d.y += dotRow + 4
	}
	d.y += barHeight
}

// axis has a mark every ten seconds, and after an hour every ten minutes.
func (d *drawing) axis(end time.Time) {
	every := 10 * time.Second
	if end.Sub(d.began) > time.Hour {
		every = 10 * time.Minute
	}
	for t := d.began; !t.After(end); t = t.Add(every) {
		d.add(`<line x1="%[1]f" y1="0" x2="%[1]f" y2="%[2]d" stroke="#eee"/><text x="%[1]f" y="%[3]d" text-anchor="middle">%[4]v</text>`,
			d.x(t), d.y, d.y+barHeight, t.Sub(d.began))
	}
	d.y += barHeight
}

// line is a lane's p99, cut at 100 ms. Where no query succeeded it has a gap.
func (d *drawing) line(l lane, seconds []second) {
	const top = 100 * time.Millisecond
	d.label(string(l) + ", p99")
	bottom := d.y + chartHeight
	d.add(`<line x1="%d" y1="%d" x2="%.1f" y2="%d" stroke="#ccc"/>`, labelWidth, bottom, d.x(seconds[len(seconds)-1].at), bottom)
	var points []string
	flush := func() {
		if len(points) > 0 {
			d.add(`<polyline fill="none" stroke="%s" points="%s"/>`, laneColours[l], strings.Join(points, " "))
		}
		points = nil
	}
	for _, s := range seconds {
		p99 := s.p99[l]
		if p99 == 0 {
			flush()
			continue
		}
		height := float64(min(p99, top)) / float64(top) * chartHeight
		points = append(points, fmt.Sprintf("%.1f,%.1f", d.x(s.at), float64(bottom)-height))
	}
	flush()
	d.y = bottom + barHeight
}
