package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

// plainWidth is enough for every line where there is no terminal.
const plainWidth = 1000

// screen writes lines, and in a terminal keeps one live line below them, which is redrawn in place. Elsewhere the live
// line is written like the others. One goroutine does all the writing.
type screen struct {
	out      *os.File
	terminal bool

	jobs chan func() // nil ends the goroutine
	done chan struct{}

	shown string // the live line; only the goroutine touches it
}

func newScreen(out *os.File) *screen {
	_, terminal := terminalWidth(out)
	s := &screen{out: out, terminal: terminal, jobs: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for job := range s.jobs {
			if job == nil {
				return
			}
			job()
		}
	}()
	return s
}

// printf writes a line, or several, that stay.
func (s *screen) printf(format string, values ...any) {
	text := fmt.Sprintf(format, values...)
	s.do(func() {
		if s.shown != "" {
			text = eraseLine + text
		}
		s.write(text + "\n" + s.shown)
	})
}

// Write takes whole lines, as the testbed writes them.
func (s *screen) Write(lines []byte) (int, error) {
	s.printf("%s", strings.TrimSuffix(string(lines), "\n"))
	return len(lines), nil
}

// live replaces the live line. It is given the number of columns that there are.
func (s *screen) live(line func(width int) string) {
	s.do(func() {
		if !s.terminal {
			s.write(line(plainWidth) + "\n")
			return
		}
		width, _ := terminalWidth(s.out)
		s.shown = cut(line(width), width-1) // a full last column makes some terminals wrap
		s.write(eraseLine + s.shown)
	})
}

// clear removes the live line.
func (s *screen) clear() {
	s.do(func() {
		if s.shown != "" {
			s.write(eraseLine)
		}
		s.shown = ""
	})
}

// close returns when everything is written. What comes after it is lost.
func (s *screen) close() {
	s.clear()
	s.do(nil)
	<-s.done
}

func (s *screen) do(job func()) {
	select {
	case s.jobs <- job:
	case <-s.done:
	}
}

// eraseLine goes to the first column and erases the line.
const eraseLine = "\r\x1b[K"

func (s *screen) write(text string) { _, _ = io.WriteString(s.out, text) } // nowhere left to report it

func cut(text string, columns int) string {
	if columns < 1 || utf8.RuneCountInString(text) <= columns {
		return text
	}
	return string([]rune(text)[:columns])
}
