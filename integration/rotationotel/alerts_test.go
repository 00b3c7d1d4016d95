package rotationotel_test

import (
	"context"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
)

// The alerts are evaluated by Prometheus' own engine over three hours of one pool. Something goes wrong after the first.
const (
	scrape = 15 * time.Second
	onset  = time.Hour
	end    = 3 * time.Hour
)

// course is how one series goes.
type course func(at time.Duration) float64

// site is the series of one pool: name and the one label beside the usual ones, as name{label="value"}.
type site map[series]course

type series struct{ name, label, value string }

func constant(v float64) course { return func(time.Duration) float64 { return v } }

// steps rises by one at each of these times.
func steps(times ...time.Duration) course {
	return func(at time.Duration) (n float64) {
		for _, step := range times {
			if at >= step {
				n++
			}
		}
		return n
	}
}

// rising rises by one every so often from onset on.
func rising(every time.Duration) course {
	return func(at time.Duration) float64 { return math.Max(0, math.Floor(float64(at-onset)/float64(every))) }
}

// afterOnset is one thing first, and another then.
func afterOnset(before, after course) course {
	return func(at time.Duration) float64 {
		if at < onset {
			return before(at)
		}
		return after(at)
	}
}

// leaseLeft is a lease of an hour that is renewed when two thirds of it are over, until renewals stop.
func leaseLeft(stop time.Duration) course {
	const every = 40 * time.Minute
	return func(at time.Duration) float64 {
		renewed := min(at, stop).Truncate(every)
		return (time.Hour - (at - renewed)).Seconds()
	}
}

func less(c course, by time.Duration) course {
	return func(at time.Duration) float64 { return c(at) - by.Seconds() }
}

func outcome(value string) series {
	return series{"vaultpool_revocations_total", "vaultpool_outcome", value}
}

func failure(value string) series {
	return series{"vaultpool_failures_total", "vaultpool_failure", value}
}

func gauge(name string) series { return series{name: "vaultpool_" + name} }

// healthy has what happens in ordinary life: renewals, a rotation that drains for five minutes, a Vault that restarts and a
// revocation that is done at the second attempt.
func healthy() site {
	return site{
		gauge("credential_usable"):          constant(1),
		gauge("lease_time_left_seconds"):    leaseLeft(end),
		gauge("rotation_time_left_seconds"): less(leaseLeft(end), 5*time.Minute),
		gauge("loop_stalled_seconds"):       constant(0),
		gauge("leases_limit"):               constant(5),
		gauge("leases_unrevoked"): func(at time.Duration) float64 {
			if at > 80*time.Minute && at < 85*time.Minute {
				return 2
			}
			return 1
		},
		gauge("events_missed_total"): constant(0),
		gauge("renewals_total"):      steps(40*time.Minute, 80*time.Minute, 2*time.Hour, 160*time.Minute),
		series{"vaultpool_rotations_total", "vaultpool_reason", "lease_ceiling"}: steps(80 * time.Minute),
		outcome("ok"):             steps(85 * time.Minute),
		outcome("failed"):         steps(84 * time.Minute),
		outcome("abandoned"):      constant(0),
		failure("issue_failed"):   steps(70*time.Minute, 70*time.Minute+time.Second),
		failure("renew_failed"):   steps(70*time.Minute, 71*time.Minute),
		failure("rejected"):       constant(0),
		failure("probe_failed"):   constant(0),
		failure("same_lease"):     constant(0),
		failure("drain_deadline"): constant(0),
	}
}

// ill is what each alert is for.
var ill = map[string]site{
	"VaultpoolCredentialLost": {gauge("credential_usable"): afterOnset(constant(1), constant(0))},
	"VaultpoolLeaseAboutToEnd": {
		gauge("lease_time_left_seconds"):    leaseLeft(onset),
		gauge("rotation_time_left_seconds"): less(leaseLeft(onset), 5*time.Minute),
	},
	"VaultpoolRotationOverdue": {
		gauge("lease_time_left_seconds"):    leaseLeft(onset),
		gauge("rotation_time_left_seconds"): less(leaseLeft(onset), 5*time.Minute),
	},
	"VaultpoolSourceFailing":      {failure("issue_failed"): rising(30 * time.Second)},
	"VaultpoolLoopStalled":        {gauge("loop_stalled_seconds"): func(at time.Duration) float64 { return max(0, (at - onset).Seconds()) }},
	"VaultpoolRevocationsFailing": {outcome("failed"): rising(4 * time.Minute)},
	"VaultpoolLeaseAbandoned":     {outcome("abandoned"): steps(onset + time.Minute)},
	"VaultpoolUnrevokedNearLimit": {gauge("leases_unrevoked"): afterOnset(constant(1), constant(4))},
	"VaultpoolEventsMissed":       {gauge("events_missed_total"): steps(onset + time.Minute)},
	"VaultpoolConnectionsEnded":   {failure("drain_deadline"): steps(onset + time.Minute)},
}

// Each alert fires when it should, not before, and is silent while all is well.
func TestAlerts(t *testing.T) {
	t.Parallel()
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 10_000_000, Timeout: kit.Patience, LookbackDelta: 5 * time.Minute, Parser: promQL})
	t.Cleanup(func() { kit.Check(t, engine.Close()) })
	alerts := loadAlerts(t)
	for _, a := range alerts {
		if at, fires := firesAt(t, engine, a, healthy()); fires {
			t.Errorf("%s fires after %v while all is well", a.Alert, at)
		}
		sick := healthy()
		maps.Copy(sick, ill[a.Alert])
		switch at, fires := firesAt(t, engine, a, sick); {
		case ill[a.Alert] == nil:
			t.Errorf("%s: nobody says when it should fire", a.Alert)
		case !fires:
			t.Errorf("%s does not fire when it should", a.Alert)
		case at < onset || at > onset+time.Hour:
			t.Errorf("%s fires after %v, not within an hour of %v", a.Alert, at, onset)
		default:
			t.Logf("%s fires %v after the onset", a.Alert, at-onset)
		}
	}
	for name := range ill {
		if !slices.ContainsFunc(alerts, func(a alert) bool { return a.Alert == name }) {
			t.Errorf("there is no alert %s", name)
		}
	}
}

// While a credential is about to end the alert says so before it has ended, and half of the reserve is left.
func TestLeaseAlertIsInTime(t *testing.T) {
	t.Parallel()
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 10_000_000, Timeout: kit.Patience, LookbackDelta: 5 * time.Minute, Parser: promQL})
	t.Cleanup(func() { kit.Check(t, engine.Close()) })
	for _, a := range loadAlerts(t) {
		if a.Alert != "VaultpoolLeaseAboutToEnd" {
			continue
		}
		sick := healthy()
		maps.Copy(sick, ill[a.Alert])
		at, _ := firesAt(t, engine, a, sick)
		left := time.Duration(leaseLeft(onset)(at) * float64(time.Second))
		if left > 150*time.Second || left < 150*time.Second-2*scrape {
			t.Errorf("it fires %v before the end, want 2m30s", left)
		}
	}
}

// Renewals that fail are repeated for half a minute, and then every quarter to three quarters of an hour. The alert goes on
// as long as they fail, however long the lease is, and ends soon after.
func TestSourceAlertLastsAsLongAsTheFault(t *testing.T) {
	t.Parallel()
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 10_000_000, Timeout: kit.Patience, LookbackDelta: 5 * time.Minute, Parser: promQL})
	t.Cleanup(func() { kit.Check(t, engine.Close()) })
	times := []time.Duration{}
	for range 8 {
		times = append(times, onset+time.Minute)
	}
	for at := onset + 30*time.Minute; at < end; at += 30 * time.Minute {
		times = append(times, at)
	}
	for _, a := range loadAlerts(t) {
		if a.Alert != "VaultpoolSourceFailing" {
			continue
		}
		sick := healthy()
		maps.Copy(sick, site{failure("renew_failed"): steps(times...), gauge("renewals_total"): steps(40 * time.Minute)})
		a.For = ""
		for _, at := range []time.Duration{onset + 5*time.Minute, onset + 20*time.Minute, onset + 90*time.Minute, end - time.Minute} {
			if !holds(t, engine, a, sick, at) {
				t.Errorf("it is over %v after the onset, and renewals still fail", at-onset)
			}
		}
		mended := onset + 90*time.Minute
		maps.Copy(sick, site{failure("renew_failed"): steps(times[:9]...), gauge("renewals_total"): steps(40*time.Minute, mended)})
		if holds(t, engine, a, sick, mended+time.Minute) {
			t.Error("it goes on after a renewal that succeeded")
		}
	}
}

// holds reports whether an alert's expression holds at a moment.
func holds(t *testing.T, engine *promql.Engine, a alert, of site, at time.Duration) bool {
	t.Helper()
	query, err := engine.NewInstantQuery(context.Background(), of.storage(), nil, a.Expr, time.UnixMilli(at.Milliseconds()))
	kit.Check(t, err)
	defer query.Close()
	result := query.Exec(context.Background())
	kit.Check(t, result.Err)
	vector, err := result.Vector()
	kit.Check(t, err)
	return len(vector) > 0
}

// firesAt evaluates an alert as Prometheus does: it fires once its expression has held at each evaluation for as long as
// it says.
func firesAt(t *testing.T, engine *promql.Engine, a alert, of site) (time.Duration, bool) {
	t.Helper()
	held := time.Duration(0)
	if a.For != "" {
		parsed, err := model.ParseDuration(a.For)
		kit.Check(t, err)
		held = time.Duration(parsed)
	}
	query, err := engine.NewRangeQuery(context.Background(), of.storage(), nil, a.Expr, time.UnixMilli(0), time.UnixMilli(end.Milliseconds()), scrape)
	kit.Check(t, err)
	defer query.Close()
	result := query.Exec(context.Background())
	kit.Check(t, result.Err)
	matrix, err := result.Matrix()
	kit.Check(t, err)
	first, fires := end, false
	for _, series := range matrix {
		since, last := int64(-1), int64(-1)
		for _, point := range series.Floats {
			if since < 0 || point.T-last > scrape.Milliseconds() {
				since = point.T
			}
			if last = point.T; last-since >= held.Milliseconds() {
				first, fires = min(first, time.Duration(last)*time.Millisecond), true
				break
			}
		}
	}
	return first, fires
}

func (s site) storage() storage.Queryable {
	var all []storage.Series
	for key, value := range s {
		set := labels.FromStrings(model.MetricNameLabel, key.name, "job", "shop", "instance", "shop-1:8080", "vaultpool_pool", "orders")
		if key.label != "" {
			set = labels.NewBuilder(set).Set(key.label, key.value).Labels()
		}
		var samples []chunks.Sample
		for at := time.Duration(0); at <= end; at += scrape {
			samples = append(samples, sample{at.Milliseconds(), value(at)})
		}
		all = append(all, storage.NewListSeries(set, samples))
	}
	slices.SortFunc(all, func(a, b storage.Series) int { return labels.Compare(a.Labels(), b.Labels()) })
	return &storage.MockQueryable{MockQuerier: &storage.MockQuerier{
		SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
			return &found{series: slices.DeleteFunc(slices.Clone(all), func(one storage.Series) bool {
				return slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(one.Labels().Get(m.Name)) })
			})}
		},
	}}
}

// found is a storage.SeriesSet.
type found struct {
	series []storage.Series
	at     int
}

func (f *found) Next() bool                        { f.at++; return f.at <= len(f.series) }
func (f *found) At() storage.Series                { return f.series[f.at-1] }
func (f *found) Err() error                        { return nil }
func (f *found) Warnings() annotations.Annotations { return nil }

// sample is a chunks.Sample.
type sample struct {
	t int64
	v float64
}

func (s sample) T() int64                      { return s.t }
func (s sample) ST() int64                     { return 0 }
func (s sample) F() float64                    { return s.v }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample           { return s }
