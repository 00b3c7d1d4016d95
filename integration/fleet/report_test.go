package fleet

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	calmPlot  = "fleet.png"
	roughPlot = "fleet-outage.png"
	closePlot = "fleet-recovery.png" // the time round the outage
)

// writeReport writes fleet.md and its plots.
func writeReport(folder string, runs []*run) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	var calm, rough []*run // ours first
	for _, r := range runs {
		if r.outage == (span{}) {
			calm = append(calm, r)
		} else {
			rough = append(rough, r)
		}
	}
	for name, draw := range map[string]func() ([]byte, error){
		calmPlot:  func() ([]byte, error) { return drawRuns(calm) },
		roughPlot: func() ([]byte, error) { return drawRuns(rough) },
		closePlot: func() ([]byte, error) { return drawRecovery(rough[0]) },
	} {
		image, err := draw()
		if err != nil {
			return fmt.Errorf("draw %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(folder, name), image, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(folder, "fleet.md"), report(calm, rough), 0o644)
}

func report(calm, rough []*run) []byte {
	var b bytes.Buffer
	s := rough[0].settings
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# A fleet that starts together\n")
	p("%s instances of a service start at the same moment and take their database login from one Vault: leases of %s, renewable up to a",
		thousands(float64(s.instances)), hours(defaultTTL))
	p("ceiling of %s. Each is a `rotation.Rotator` with the zero `Config` and no pool, for %s of virtual time (`testing/synctest`). The Vault is",
		hours(maxTTL), hours(s.length))
	p("simulated: it answers at once and counts by the minute. In the second run it refuses connections from hour %s to hour %s. The *naive* schedule",
		hour(s.outage.from), hour(s.outage.to))
	p("beside it renews after exactly two thirds of the TTL, tries again every %v, and takes a new credential when the lease has ended or its", naiveRetry)
	p("ceiling is reached: no jitter. In the plots a minute without requests is drawn at the bottom. Written by `make fleet`.\n")

	p("## No outage\n")
	p("Requests per minute from hour 1 to hour %s, when every instance has renewed at least once.\n", hour(calm[0].length))
	p("| | mean | peak | peak over mean |\n| --- | ---: | ---: | ---: |")
	for _, r := range calm {
		from := span{settled, r.length}
		row(p, r.name+", all requests", r.all(from, time.Minute), r.all(from, time.Minute).mean())
		row(p, r.name+", renewals", r.servedIn(from, time.Minute, renew), r.servedIn(from, time.Minute, renew).mean())
	}
	p("\n![Requests per minute without an outage](%s)\n", calmPlot)

	p("## Vault is away for %v\n", minutes(outageLength))
	p("Requests per minute from the end of the outage on. The mean is that from hour 1 until the outage.\n")
	p("| | mean before | peak after | peak over mean |\n| --- | ---: | ---: | ---: |")
	for _, r := range rough {
		before, after := span{settled, r.outage.from}, span{r.outage.to, r.length}
		row(p, r.name+", all requests", r.all(after, time.Minute), r.all(before, time.Minute).mean())
		for _, k := range []kind{renew, issueWithout, issue, revoke} {
			row(p, fmt.Sprintf("%s, %s", r.name, k), r.servedIn(after, time.Minute, k), r.servedIn(before, time.Minute, k).mean())
		}
	}
	p("\n| | lost their lease in the outage | half were back after | the last | lost it later | failed requests per minute in the outage: mean | peak |")
	p("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
	for _, r := range rough {
		in, outside := r.lostIn()
		median, last := r.back()
		failed := r.failedIn(r.outage, time.Minute, issue, issueWithout, renew, revoke)
		p("| %s | %s | %v | %v | %s | %s | %s |", r.name, thousands(float64(in)), median.Round(100*time.Millisecond), last.Round(100*time.Millisecond),
			thousands(float64(outside)), number(failed.mean()), number(failed.peak()))
	}
	p("\nWho lost its lease in the outage, or within a second of its end, is counted there; failed requests are those that met no Vault.\n")
	p("![Requests per minute with an outage](%s)\n", roughPlot)
	p("![%s: requests by kind, round the outage](%s)\n", rough[0].name, closePlot)

	p("## How it was run\n")
	p("| | |\n| --- | --- |")
	p("| instances | %s |", thousands(float64(s.instances)))
	p("| `default_ttl`, `max_ttl` | %s, %s |", hours(defaultTTL), hours(maxTTL))
	p("| virtual time | %s |", hours(s.length))
	p("| outage | hour %s to hour %s |", hour(s.outage.from), hour(s.outage.to))
	p("| instances in a bubble | %d |", bubble)
	p("| requests made | %s without, %s with the outage; naive %s and %s |", requests(calm[0]), requests(rough[0]), requests(calm[1]), requests(rough[1]))
	p("| leases left after Close | %d and %d |", calm[0].left, rough[0].left)
	p("| Go | %s, %s/%s, %d cores |", strings.TrimPrefix(runtime.Version(), "go"), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0))
	p("| took | %v without, %v with the outage; naive %v and %v |", seconds(calm[0]), seconds(rough[0]), seconds(calm[1]), seconds(rough[1]))
	return b.Bytes()
}

// row compares the peak of some requests with the mean of what there are usually, unless there
// are next to none.
func row(p func(string, ...any), what string, s series, mean float64) {
	ratio := "–"
	if mean >= 10 {
		ratio = fmt.Sprintf("%.2f", s.peak()/mean)
	}
	p("| %s | %s | %s | %s |", what, number(mean), number(s.peak()), ratio)
}

func requests(r *run) string {
	return thousands(r.all(span{0, r.length}, time.Minute).total())
}

func seconds(r *run) time.Duration { return r.took.Round(time.Second) }

func hour(d time.Duration) string { return fmt.Sprintf("%g", d.Hours()) }

func hours(d time.Duration) string {
	if d == time.Hour {
		return "1 hour"
	}
	return hour(d) + " hours"
}

func minutes(d time.Duration) string { return fmt.Sprintf("%g minutes", d.Minutes()) }

// number has a decimal only where it matters.
func number(f float64) string {
	if f > 0 && f < 100 && f != float64(int(f)) {
		return fmt.Sprintf("%.1f", f)
	}
	return thousands(f)
}

func thousands(f float64) string {
	s := fmt.Sprintf("%.0f", f)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
