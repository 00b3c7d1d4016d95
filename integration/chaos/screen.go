package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// screen writes lines, and in a terminal keeps one live line below them. Elsewhere the live line is written like the
// others, every tenth time.
type screen struct {
	out      io.Writer
	terminal bool

	mu    sync.Mutex // held while writing: lines must not mix
	shown string     // the live line
	lives int
}

func newScreen(out *os.File) *screen {
	info, err := out.Stat()
	return &screen{out: out, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

const (
	eraseLine  = "\r\x1b[K"
	everyTenth = 10
	liveWidth  = 150
)

// printf writes a line, or several, that stay.
func (s *screen) printf(format string, values ...any) {
	text := fmt.Sprintf(format, values...)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shown != "" {
		text = eraseLine + text
	}
	s.write(text + "\n" + s.shown)
}

// Write takes whole lines, as the testbed writes them.
func (s *screen) Write(lines []byte) (int, error) {
	s.printf("%s", strings.TrimSuffix(string(lines), "\n"))
	return len(lines), nil
}

// live replaces the live line.
func (s *screen) live(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lives++
	switch {
	case s.terminal:
		s.shown = cut(line, liveWidth)
		s.write(eraseLine + s.shown)
	case s.lives%everyTenth == 0:
		s.write(line + "\n")
	}
}

// clear removes the live line.
func (s *screen) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shown != "" {
		s.write(eraseLine)
	}
	s.shown = ""
}

func (s *screen) write(text string) { _, _ = io.WriteString(s.out, text) } // nowhere left to report it

// liveLine is what a second looks like.
func liveLine(elapsed time.Duration, now snapshot) string {
	var b strings.Builder
	b.WriteString(clock(elapsed))
	for _, l := range lanes {
		fmt.Fprintf(&b, "  %s", l)
		if s := now.status[l]; l.isOurs() && s != nil {
			current, old := 0, 0
			for _, g := range s.Generations {
				if g.ID == s.Generation {
					current += g.Connections
				} else {
					old += g.Connections
				}
			}
			fmt.Fprintf(&b, " gen %d %4.1fs %d+%d", s.Generation, s.LeaseLeft, current, old)
		}
		t := now.totals[l]
		fmt.Fprintf(&b, " ok %d failed %d p99 %s", t.OK+t.Long, t.Failed, milliseconds(now.ticks[l].P99))
	}
	return b.String()
}

func clock(d time.Duration) string {
	seconds := int(d.Round(time.Second).Seconds())
	return fmt.Sprintf("%d:%02d", seconds/60, seconds%60)
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1fms", float64(d)/float64(time.Millisecond))
}
