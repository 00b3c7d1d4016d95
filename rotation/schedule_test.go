package rotation

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

var testConfig = Config{DrainTimeout: 5 * time.Minute, IssueInterval: time.Second}

// epoch has no monotonic reading: both clocks of an instant are then the wall's,
// and skew moves the wall against a second instant that was read with it.
var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func after(d time.Duration) instant { return instant{t: epoch.Add(d)} }

// hazard 41: time has passed as soon as either clock says so.
func TestInstantBelievesTheFasterClock(t *testing.T) {
	for _, c := range []struct {
		name string
		mono time.Duration // what the monotonic clock saw
		jump time.Duration // what the wall clock was moved by meanwhile
		want time.Duration
	}{
		{"no jump", 10 * time.Second, 0, 10 * time.Second},
		{"suspended for an hour", 10 * time.Second, time.Hour, time.Hour + 10*time.Second},
		{"wall set back an hour", 10 * time.Second, -time.Hour, 10 * time.Second},
		{"wall set back a little", 10 * time.Second, -time.Second, 10 * time.Second},
		{"wall set forward a little", 10 * time.Second, time.Nanosecond, 10*time.Second + 1},
		{"nothing", 0, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := instant{t: time.Now()} // with a monotonic reading
			end := instant{t: start.t.Add(c.mono), skew: c.jump}
			if got := end.since(start); got != c.want {
				t.Errorf("since = %v, want %v", got, c.want)
			}
			if got := start.add(c.want).since(start); got != c.want {
				t.Errorf("add then since = %v, want %v", got, c.want)
			}
			if got := end.until(start.add(time.Minute)); got != time.Minute-c.want {
				t.Errorf("until a minute after the start = %v, want %v", got, time.Minute-c.want)
			}
		})
	}
	// A jump before the anchor was taken is no jump.
	anchor := instant{t: time.Now(), skew: time.Hour}
	if got := anchor.add(time.Second).since(anchor); got != time.Second {
		t.Errorf("after an earlier jump since = %v, want 1s", got)
	}
}

// hazard 41
func TestTermEndsAtItsBoundary(t *testing.T) {
	granted := newTerm(after(0), Lease{TTL: time.Hour}, 0)
	for _, c := range []struct {
		term term
		now  instant
		left time.Duration
	}{
		{granted, after(0), time.Hour},
		{granted, after(time.Hour - 1), 1},
		{granted, after(time.Hour), 0},
		{granted, after(2 * time.Hour), -time.Hour},
		{granted, instant{epoch, time.Hour - 1}, 1},
		{granted, instant{epoch, time.Hour}, 0},
		{granted, instant{epoch.Add(time.Hour - 1), -24 * time.Hour}, 1},
		{granted, instant{epoch.Add(time.Hour), -24 * time.Hour}, 0},
		{newTerm(after(0), Lease{}, 0), after(1000 * time.Hour), math.MaxInt64},
	} {
		if got := c.term.left(c.now); got != c.left {
			t.Errorf("left(%v, skew %v) = %v, want %v", c.now.t.Sub(epoch), c.now.skew, got, c.left)
		}
		if got := c.term.expired(c.now); got != (c.left <= 0) {
			t.Errorf("expired with %v left = %v", c.left, got)
		}
	}
	if got := granted.expires(); !got.Equal(epoch.Add(time.Hour)) {
		t.Errorf("expires = %v", got)
	}
	if got := newTerm(after(0), Lease{}, 0).expires(); !got.IsZero() {
		t.Errorf("a lease without an end expires at %v", got)
	}
}

func TestPlan(t *testing.T) {
	const h, m = time.Hour, time.Minute
	renewable := Lease{TTL: h, Renewable: true}
	fixed := Lease{TTL: h}
	for _, c := range []struct {
		name  string
		lease Lease
		now   time.Duration
		do    action
		in    time.Duration
		why   string
	}{
		{"renewable, fresh", renewable, 0, actRenew, 37 * m, ""},
		{"renewable, just before", renewable, 37*m - 1, actRenew, 1, ""},
		{"renewable, due", renewable, 37 * m, actRenew, 0, ""},
		{"renewable, late but before the margin", renewable, 55*m - 1, actRenew, -18*m + 1, ""},
		{"renewable, at the margin", renewable, 55 * m, actRotate, 0, "renewal keeps failing"},
		{"renewable, over", renewable, 61 * m, actRotate, -6 * m, "renewal keeps failing"},
		{"not renewable, fresh", fixed, 0, actRotate, 55 * m, "lease end"}, // hazard 20
		{"not renewable, due", fixed, 55 * m, actRotate, 0, "lease end"},
		{"capped", Lease{TTL: h, Renewable: true, Capped: true}, 0, actRotate, 55 * m, "lease ceiling"}, // hazard 19
		{"short: a fifth of the lease, not DrainTimeout", Lease{TTL: 10 * time.Second}, 0, actRotate, 8 * time.Second, "lease end"},
		{"no end, nothing to do", Lease{}, 1000 * h, actNothing, math.MaxInt64, ""},
		{"no end, renewable: nothing to renew", Lease{Renewable: true}, 0, actNothing, math.MaxInt64, ""},
		{"refresh", Lease{RefreshAfter: m}, 0, actRefresh, m, "refresh"},
		{"refresh due", Lease{RefreshAfter: m}, m, actRefresh, 0, "refresh"},
		{"refresh before the end", Lease{TTL: h, RefreshAfter: 10 * m}, 0, actRefresh, 10 * m, "refresh"},
		{"as long as can be", Lease{TTL: math.MaxInt64, Renewable: true}, 0, actRenew, longest/3*2 - longest/20, ""},
		{"as long as can be, refreshed", Lease{RefreshAfter: math.MaxInt64}, 0, actRefresh, longest, "refresh"},
		{"refresh after the end", Lease{TTL: h, RefreshAfter: 2 * h}, 0, actRotate, 55 * m, "lease end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			do, in, why := plan(after(c.now), newTerm(after(0), c.lease, 0), testConfig)
			if do != c.do || in != c.in || why != c.why {
				t.Errorf("plan = %v in %v because %q, want %v in %v because %q", do, in, why, c.do, c.in, c.why)
			}
		})
	}
}

// hazard 42: what is due is spread, and never later than it has to be.
func TestPlanSpreads(t *testing.T) {
	const most = 1 - 1e-9
	for _, c := range []struct {
		lease           Lease
		earliest, later time.Duration // with jitter 0 and jitter 1
	}{
		{Lease{TTL: 5 * time.Minute, Renewable: true}, 185 * time.Second, 215 * time.Second},
		{Lease{TTL: time.Hour}, 55 * time.Minute, 52*time.Minute + 30*time.Second},
		{Lease{RefreshAfter: 2 * time.Minute}, 2 * time.Minute, 126 * time.Second},
		{Lease{RefreshAfter: 24 * time.Hour}, 24 * time.Hour, 24*time.Hour + 10*time.Second}, // a static role's password changes then
	} {
		_, first, _ := plan(after(0), newTerm(after(0), c.lease, 0), testConfig)
		_, last, _ := plan(after(0), newTerm(after(0), c.lease, most), testConfig)
		if first != c.earliest || (last-c.later).Abs() > time.Millisecond {
			t.Errorf("%+v: between %v and %v, want %v and %v", c.lease, first, last, c.earliest, c.later)
		}
	}
	// Many may have been issued at the same moment: these come at any time.
	low, high := time.Hour, time.Duration(0)
	for jitter := 0.0; jitter < 1; jitter += 1.0 / 1024 {
		_, in, _ := plan(after(0), newTerm(after(0), Lease{TTL: time.Hour, Renewable: true}, jitter), testConfig)
		low, high = min(low, in), max(high, in)
	}
	if low > 2*time.Minute || low < 100*time.Second || high < 42*time.Minute || high > 43*time.Minute {
		t.Errorf("first renewals from %v to %v", low, high)
	}
	renewed := newTerm(after(0), Lease{TTL: time.Hour, Renewable: true}, 0).
		renewed(after(0), Lease{TTL: time.Hour, Renewable: true}, time.Hour, most)
	if _, in, _ := plan(after(0), renewed, testConfig); (in - 43*time.Minute).Abs() > time.Millisecond {
		t.Errorf("renewed again after %v, want 43m", in)
	}
}

// hazards 25 and 42: renewals that fail are tried soon at first, and then so seldom, and so spread, that a fleet does
// not come all at once when Vault is back.
func TestRenewalBackoff(t *testing.T) {
	const h, m, most = time.Hour, time.Minute, 1 - 1e-9
	for _, c := range []struct {
		n          int
		full, rest time.Duration
		asked      time.Duration
		from, to   time.Duration // with jitter 1 and 0, in this order or the other
	}{
		{1, h, 18 * m, 0, 125 * time.Millisecond, 250 * time.Millisecond},
		{1, 5 * time.Second, time.Second, 0, 50 * time.Millisecond, 100 * time.Millisecond},
		{7, h, 18 * m, 0, 8 * time.Second, 16 * time.Second},
		{7, h, 18 * m, m, m, 66 * time.Second},
		{8, h, 12 * m, 0, 710 * time.Second, 715 * time.Second},
		{8, h, 2 * m, 0, 110 * time.Second, 115 * time.Second},
		{8, 5 * m, 16 * time.Second, 0, 12 * time.Second, 14 * time.Second},
		{8, h, time.Second, 0, 30 * time.Second, 30 * time.Second},
		{8, h, -m, 0, 30 * time.Second, 30 * time.Second},
		{8, 24 * h, 8 * h, 0, 15 * m, 45 * m},
		{8, h, 12 * m, 20 * m, 20 * m, 22 * m},
		{99, 24 * h, 8 * h, 0, 15 * m, 45 * m},
	} {
		one, other := renewalBackoff(c.n, c.full, c.rest, c.asked, 0), renewalBackoff(c.n, c.full, c.rest, c.asked, most)
		low, high := min(one, other), max(one, other)
		if (low-c.from).Abs() > time.Millisecond || (high-c.to).Abs() > time.Millisecond {
			t.Errorf("%+v: between %v and %v", c, low, high)
		}
	}
}

// Whatever is granted, a rotation starts in time for the drain, and no step is
// skipped on the way there.
func TestPlanLeavesTimeToDrain(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		c := Config{DrainTimeout: time.Duration(1 + dice.Int64N(int64(time.Hour)))}
		l := Lease{TTL: time.Duration(1 + dice.Int64N(int64(10*time.Hour))), Renewable: dice.IntN(2) == 0, Capped: dice.IntN(3) == 0}
		tm := newTerm(after(0), l, dice.Float64())
		now := after(time.Duration(dice.Int64N(int64(l.TTL))))
		do, in, _ := plan(now, tm, c)
		lead := min(c.DrainTimeout, l.TTL/5)
		at := tm.left(now) - in // what is left when it starts
		switch {
		case do == actRotate && at < lead:
			t.Fatalf("lease %+v, drain %v, age %v: rotates with %v left, less than %v", l, c.DrainTimeout, now.since(tm.anchor), at, lead)
		case do == actRotate && at > lead+lead/2 && in > 0:
			t.Fatalf("lease %+v, drain %v: rotates with %v left, more than %v", l, c.DrainTimeout, at, lead+lead/2)
		case do == actRenew && at < l.TTL/5 && in > 0:
			t.Fatalf("lease %+v, drain %v: renews only with %v left", l, c.DrainTimeout, at)
		case do == actNothing:
			t.Fatalf("lease %+v: nothing to do", l)
		}
	}
}

// hazard 19: a grant well short of what was asked for is the ceiling.
func TestRenewedTermNoticesTheCeiling(t *testing.T) {
	base := newTerm(after(0), Lease{TTL: time.Hour, Renewable: true}, 0)
	for _, c := range []struct {
		granted time.Duration
		known   bool
		capped  bool
	}{
		{time.Hour, false, false},
		{54 * time.Minute, false, false},
		{54*time.Minute - 1, false, true},
		{time.Second, false, true},
		{2 * time.Hour, false, false},
		{time.Hour, true, true},
	} {
		got := base.renewed(after(37*time.Minute), Lease{TTL: c.granted, Renewable: true, Capped: c.known}, time.Hour, 0.5)
		if got.capped != c.capped {
			t.Errorf("granted %v of an hour: capped = %v, want %v", c.granted, got.capped, c.capped)
		}
		if got.left(after(37*time.Minute)) != c.granted || got.full != max(time.Hour, c.granted) || got.jitter != 0.5 {
			t.Errorf("granted %v: term is %+v", c.granted, got)
		}
	}
	if got := base.renewed(after(0), Lease{TTL: time.Hour}, time.Hour, 0); got.renewable {
		t.Error("an answer that is not renewable is renewed again")
	}
}

func TestNearAndDrainFor(t *testing.T) {
	hour := newTerm(after(0), Lease{TTL: time.Hour}, 0)
	short := newTerm(after(0), Lease{TTL: 8 * time.Second}, 0)
	endless := newTerm(after(0), Lease{}, 0)
	for _, c := range []struct {
		name  string
		term  term
		age   time.Duration
		near  bool
		drain time.Duration
	}{
		{"half an hour left", hour, 30 * time.Minute, false, 5 * time.Minute},
		{"the lead left", hour, 55 * time.Minute, false, 5*time.Minute - 2*time.Second},
		{"half the lead left", hour, 57*time.Minute + 30*time.Second, false, 2*time.Minute + 28*time.Second},
		{"less", hour, 57*time.Minute + 30*time.Second + 1, true, 2*time.Minute + 28*time.Second - 1},
		{"the margin left", hour, time.Hour - 2*time.Second, true, 0},
		{"less than the margin left", hour, time.Hour - 1, true, 0},
		{"over", hour, time.Hour, true, 5 * time.Second},
		{"long over", hour, 5 * time.Hour, true, 5 * time.Second},
		{"short", short, 6400 * time.Millisecond, false, 1200 * time.Millisecond},
		{"short, near", short, 7200*time.Millisecond + 1, true, 400*time.Millisecond - 1},
		{"short, over", short, 8 * time.Second, true, 2 * time.Second},
		{"no end", endless, 1000 * time.Hour, false, 5 * time.Minute},
	} {
		if got := c.term.near(after(c.age), testConfig); got != c.near {
			t.Errorf("%s: near = %v, want %v", c.name, got, c.near)
		}
		if got := c.term.drainFor(after(c.age), testConfig); got != c.drain {
			t.Errorf("%s: drainFor = %v, want %v", c.name, got, c.drain)
		}
	}
}

// hazard 39: a password that is changed every few seconds does not have its successor wait ever longer.
func TestFair(t *testing.T) {
	for lease, want := range map[Lease]time.Duration{
		{TTL: time.Hour}: 30 * time.Minute,
		{TTL: time.Hour, RefreshAfter: time.Second}: 30 * time.Minute,
		{}:                              time.Minute,
		{RefreshAfter: 6 * time.Second}: 3 * time.Second,
		{RefreshAfter: time.Hour}:       time.Minute,
	} {
		if got := newTerm(readClocks(), lease, 0).fair(); got != want {
			t.Errorf("fair of %+v is %v, want %v", lease, got, want)
		}
	}
}
