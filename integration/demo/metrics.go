package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// metrics is what the service's /metrics has said so far.
type metrics struct {
	scrapes int
	series  map[string]*extent // by name with labels, as in the text
}

// extent is where the values of one series have been.
type extent struct {
	least, most float64
	late        bool // it was not there from the start
}

// add takes one answer, in Prometheus' text format.
func (m *metrics) add(answer io.Reader) error {
	if m.series == nil {
		m.series = make(map[string]*extent)
	}
	lines := bufio.NewScanner(answer)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		space := strings.LastIndexByte(line, ' ') // no timestamps: values come last
		if strings.HasPrefix(line, "#") || space < 0 {
			continue
		}
		value, err := strconv.ParseFloat(line[space+1:], 64)
		if err != nil {
			return fmt.Errorf("read a metric: %q: %w", line, err)
		}
		e := m.series[line[:space]]
		if e == nil {
			e = &extent{least: value, most: value, late: m.scrapes > 0}
			m.series[line[:space]] = e
		}
		e.least, e.most = min(e.least, value), max(e.most, value)
	}
	m.scrapes++
	return lines.Err()
}

// names says of each metric of ours whether a series of it has moved.
func (m *metrics) names() map[string]bool {
	found := make(map[string]bool)
	for key, e := range m.series {
		name, _, _ := strings.Cut(key, "{")
		if strings.HasPrefix(name, "vaultpool_") {
			found[name] = found[name] || e.least != e.most || e.late && e.most != 0
		}
	}
	return found
}

// String is for the summary. What stands still is constant, or counts what goes wrong.
func (m *metrics) String() string {
	names, moved := m.names(), 0
	for _, moves := range names {
		if moves {
			moved++
		}
	}
	return fmt.Sprintf("%d names at /metrics, %d have moved; %d failures counted", len(names), moved, int(m.total("vaultpool_failures_total")))
}

// total is the sum of a counter's series.
func (m *metrics) total(name string) (sum float64) {
	for key, e := range m.series {
		if strings.HasPrefix(key, name+"{") {
			sum += e.most
		}
	}
	return sum
}

// scrape reads /metrics once, as Prometheus would.
func (s *service) scrape(ctx context.Context, into *metrics) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+"/metrics", http.NoBody)
	if err != nil {
		return err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("scrape the service: %s", response.Status)
	}
	return into.add(response.Body)
}
