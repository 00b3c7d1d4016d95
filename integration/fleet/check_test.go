package fleet

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"
)

// What must hold.
const (
	mostOverMean = 1.3             // requests in a bin, once everybody has renewed
	mostRenewals = 3.0             // renewals in a bin after an outage, over what there are usually
	grace        = 2 * time.Minute // after an outage, until everybody has a credential again
)

// check is what must hold of a schedule.
func (r *run) check(t *testing.T) {
	t.Helper()
	if r.err != nil {
		t.Errorf("closing: %v", r.err)
	}
	if r.left > 0 {
		t.Errorf("%d leases are left after Close", r.left)
	}
	if r.outage == (span{}) {
		if got := r.overMean(); got > mostOverMean {
			t.Errorf("after the first hour the peak is %.2f times the mean of requests in %v, want at most %v", got, r.bin(), mostOverMean)
		}
		if len(r.losses) > 0 {
			t.Errorf("%d times an instance lost its lease, the first after %v", len(r.losses), r.losses[0].at)
		}
		return
	}
	if got := r.renewalsOverMean(); got > mostRenewals {
		t.Errorf("after the outage there are up to %.2f times as many renewals as usual in %v, want at most %v", got, r.renewalBin(), mostRenewals)
	}
	if r.without > 0 {
		t.Errorf("%d instances are without a credential %v after the outage", r.without, grace)
	}
	r.checkLosses(t)
}

// checkLosses sees that leases ended in the outage, and at no other time.
func (r *run) checkLosses(t *testing.T) {
	t.Helper()
	in, outside := r.lostIn()
	if outside > 0 {
		first := r.losses[slices.IndexFunc(r.losses, func(l loss) bool { return !r.inOutage(l) })]
		t.Errorf("%d leases ended before or after the outage with no successor; one after %v, replaced after %v", outside, first.at, first.back)
	}
	if in == 0 {
		t.Error("nobody lost a lease in the outage: it shows nothing of those who do")
	}
}

// checkIsSeen sees that a schedule without jitter does not pass: that the bins show a burst.
func (r *run) checkIsSeen(t *testing.T) {
	t.Helper()
	if got := r.overMean(); r.outage == (span{}) && got <= mostOverMean {
		t.Errorf("the peak of a schedule without jitter is %.2f times the mean: the bins of %v hide it", got, r.bin())
	}
	if r.outage == (span{}) {
		return
	}
	if got := r.renewalsOverMean(); got <= mostRenewals {
		t.Errorf("a schedule without jitter makes %.2f times as many renewals as usual: the bins of %v hide it", got, r.renewalBin())
	}
}

// bin is a minute for 10,000 instances, and as much longer for fewer that chance disturbs it no more.
func (r *run) bin() time.Duration { return r.minutes(10_000) }

// renewalBin is shorter, since what must hold is less sharp.
func (r *run) renewalBin() time.Duration { return r.minutes(3000) }

// minutes is at most 20: in 40, in which everybody renews once, nothing is seen.
func (r *run) minutes(instances int) time.Duration {
	return time.Duration(min(max(instances/r.instances, 1), 20)) * time.Minute
}

// overMean is the peak of all requests over their mean, once everybody has renewed.
func (r *run) overMean() float64 {
	requests := r.all(span{settled, r.length}, r.bin())
	return requests.peak() / requests.mean()
}

// renewalsOverMean is the peak of the renewals that succeed after the outage, over the mean before it.
func (r *run) renewalsOverMean() float64 {
	before := r.servedIn(span{settled, r.outage.from}, r.renewalBin(), renew)
	after := r.servedIn(span{r.outage.to, r.length}, r.renewalBin(), renew)
	return after.peak() / before.mean()
}

// summary is the run in one line.
func (r *run) summary() string {
	if r.outage == (span{}) {
		return fmt.Sprintf("peak %.2f times the mean in bins of %v; %d losses, %d leases left; took %v",
			r.overMean(), r.bin(), len(r.losses), r.left, r.took.Round(time.Millisecond))
	}
	in, outside := r.lostIn()
	median, last := r.back()
	return fmt.Sprintf("after the outage renewals peak at %.2f times their mean in bins of %v; %d lost their lease, half were back after %v, the last after %v; %d lost it at another time; %d leases left; took %v",
		r.renewalsOverMean(), r.renewalBin(), in, median, last, outside, r.left, r.took.Round(time.Millisecond))
}

// lostIn counts the leases that ended in the outage without a successor, and those that did at any other time.
func (r *run) lostIn() (in, outside int) {
	for _, l := range r.losses {
		if r.inOutage(l) {
			in++
		} else {
			outside++
		}
	}
	return in, outside
}

// lastMoment is how far apart the engine's attempts are just before the end of a lease. What
// ends so soon after the outage may be lost to it.
const lastMoment = time.Second

func (r *run) inOutage(l loss) bool {
	return r.outage.from <= l.at && l.at <= r.outage.to+lastMoment
}

// back is how long after the outage's end those who lost a lease in it had one again: half of
// them, and all of them.
func (r *run) back() (median, last time.Duration) {
	var after []time.Duration
	for _, l := range r.losses {
		switch {
		case !r.inOutage(l):
		case l.back == 0:
			after = append(after, math.MaxInt64) // never
		default:
			after = append(after, l.back-r.outage.to)
		}
	}
	if len(after) == 0 {
		return 0, 0
	}
	slices.Sort(after)
	return after[len(after)/2], after[len(after)-1]
}
