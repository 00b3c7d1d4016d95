package model

import (
	"fmt"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/vaultpool/vaultpool/rotation"
)

// history is everything that is drawn: a configuration, what the source grants, and
// what happens. It is plain data, so that it can be shrunk and printed.
type history struct {
	config rotation.Config
	shape  shape
	steps  []step
	abrupt bool // it is closed in the middle of things, not when all is well
	late   bool // an issue is under way then that takes longer than Close may
	held   bool // a connection is in use when it is closed
}

// shape is what the source grants.
type shape struct {
	static    bool          // one credential for all, which changes now and then
	sameUser  bool          // static, and only the password changes
	bare      bool          // the source only issues
	sweeps    bool          // the pools are Sweepers
	ttl       time.Duration // 0: no end
	ceiling   time.Duration // as Vault's max_ttl; 0: none
	renewable bool
	revocable bool
	capped    bool // the source says that the ceiling is reached
	refresh   time.Duration
}

func (s shape) String() string {
	var b strings.Builder
	flag := func(set bool, name string) {
		if set {
			b.WriteString(" " + name)
		}
	}
	flag(s.static, "static")
	flag(s.sameUser, "same user")
	flag(s.bare, "bare")
	flag(s.sweeps, "sweeping pools")
	_, _ = fmt.Fprintf(&b, " ttl=%v", s.ttl)
	flag(s.ceiling > 0, fmt.Sprint("ceiling=", s.ceiling))
	flag(s.renewable, "renewable")
	flag(s.revocable, "revocable")
	flag(s.capped, "capped")
	flag(s.refresh > 0, fmt.Sprint("refresh=", s.refresh))
	return strings.TrimSpace(b.String())
}

// unit is the time on which something happens.
func (s shape) unit() time.Duration {
	switch {
	case s.ttl > 0:
		return s.ttl
	case s.refresh > 0:
		return s.refresh
	default:
		return time.Minute
	}
}

// verb is what a step does.
type verb string

const (
	pass       verb = "pass"        // d passes
	connect    verb = "connect"     // pool n opens a connection, which goes idle
	hold       verb = "hold"        // … which stays in use: long, leaked or hijacked
	release    verb = "release"     // close the nth connection
	refuse     verb = "refuse"      // pool n reports a refusal of what is current, rightly or not
	rotate     verb = "rotate"      // Rotate, with the timeout d
	pause      verb = "pause"       //
	resume     verb = "resume"      //
	attach     verb = "attach"      // a second pool comes
	detach     verb = "detach"      // and goes
	suspect    verb = "suspect"     // pool n reports that a session was refused something
	kill       verb = "kill"        // the current credential is taken away at the source
	change     verb = "change"      // the source says that it changed
	notify     verb = "notify"      // … and it did not
	down       verb = "down"        // no database can be reached
	up         verb = "up"          // and again
	issueFault verb = "issue fault" // the next n calls go as fault says
	renewFault verb = "renew fault"
	dropFault  verb = "revoke fault"
	checkFault verb = "check fault"
	probeFault verb = "probe fault"
	endFault   verb = "end fault"
	heal       verb = "heal"  // all faults are over
	shut       verb = "close" // Close, with the timeout d, while the rest goes on
)

// fault is how a call goes.
type fault string

const (
	fine    fault = "late" // no fault; only the delay
	fails   fault = "fails"
	denied  fault = "denied"
	invalid fault = "invalid"
	later   fault = "retry after" // d
	cached  fault = "the same lease again"
	gone    fault = "gone"
	less    fault = "grants less"
	lost    fault = "answer lost" // done, but an error all the same
	refused fault = "refused"
	unknown fault = "unknown"
	hangs   fault = "hangs" // until its context is done
	deaf    fault = "deaf"  // for d, whatever its context says
	panics  fault = "panics"
)

type step struct {
	do    verb
	n     int
	d     time.Duration
	fault fault
}

func (s step) String() string {
	switch s.do {
	case pass, rotate, shut:
		return fmt.Sprintf("%s %v", s.do, s.d)
	case connect, hold, release, refuse, suspect:
		return fmt.Sprintf("%s %d", s.do, s.n)
	case issueFault, renewFault, dropFault, checkFault, probeFault, endFault:
		return fmt.Sprintf("%s: the next %d: %s, %v", s.do, s.n, s.fault, s.d)
	default:
		return string(s.do)
	}
}

func (h history) String() string {
	var b strings.Builder
	c := h.config
	_, _ = fmt.Fprintf(&b, "grants %v\nconfig DrainTimeout=%v MaxUnrevoked=%d IssueInterval=%v ProbeTimeout=%v RenewIncrement=%v\n",
		h.shape, c.DrainTimeout, c.MaxUnrevoked, c.IssueInterval, c.ProbeTimeout, c.RenewIncrement)
	for i, s := range h.steps {
		_, _ = fmt.Fprintf(&b, "%3d. %v\n", i+1, s)
	}
	_, _ = fmt.Fprintf(&b, "     closed abruptly: %v, a late issue under way: %v, a connection in use: %v\n", h.abrupt, h.late, h.held)
	return b.String()
}

func durations(ds ...time.Duration) *rapid.Generator[time.Duration] { return rapid.SampledFrom(ds) }

// oneIn draws true once in n times. An integer of a range would not do: small ones are
// drawn more often.
func oneIn(n int) *rapid.Generator[bool] {
	bools := make([]bool, n)
	bools[n-1] = true
	return rapid.SampledFrom(bools)
}

// histories draws histories; the simplest of everything comes first, since that is
// what shrinking goes for.
var histories = rapid.Custom(func(t *rapid.T) history {
	h := history{shape: shapes.Draw(t, "shape")}
	h.config = rotation.Config{
		DrainTimeout:  durations(5*time.Minute, 10*time.Second, time.Second, 100*time.Millisecond).Draw(t, "DrainTimeout"),
		MaxUnrevoked:  rapid.SampledFrom([]int{5, 3, 2}).Draw(t, "MaxUnrevoked"),
		IssueInterval: durations(time.Second, 50*time.Millisecond, 10*time.Second).Draw(t, "IssueInterval"),
		ProbeTimeout:  durations(10*time.Second, time.Second).Draw(t, "ProbeTimeout"),
	}
	if h.shape.renewable {
		h.config.RenewIncrement = rapid.SampledFrom([]time.Duration{0, 2 * h.shape.ttl}).Draw(t, "RenewIncrement")
	}
	for range 4 { // a slice has five elements on average
		h.steps = append(h.steps, rapid.SliceOfN(steps(h.shape.unit()), 0, 15).Draw(t, "steps")...)
	}
	h.abrupt = oneIn(3).Draw(t, "abrupt")
	h.late = h.abrupt && rapid.Bool().Draw(t, "late")
	h.held = rapid.Bool().Draw(t, "held")
	return h
})

var shapes = rapid.Custom(func(t *rapid.T) shape {
	if oneIn(5).Draw(t, "static") {
		return shape{
			static: true, bare: rapid.Bool().Draw(t, "bare"), sameUser: rapid.Bool().Draw(t, "same user"),
			refresh: durations(time.Minute, 5*time.Second, 20*time.Minute).Draw(t, "refresh"),
		}
	}
	s := shape{
		ttl:       durations(30*time.Minute, time.Minute, 10*time.Second, time.Second, 0).Draw(t, "ttl"),
		renewable: rapid.Bool().Draw(t, "renewable"),
		revocable: !oneIn(8).Draw(t, "not revocable"),
		bare:      oneIn(10).Draw(t, "bare"),
		sweeps:    oneIn(4).Draw(t, "sweeps"),
	}
	if s.ttl > 0 {
		s.ceiling = s.ttl * time.Duration(rapid.SampledFrom([]int{0, 1, 2, 5}).Draw(t, "ceiling"))
		s.capped = rapid.Bool().Draw(t, "capped")
	} else {
		s.renewable = false
	}
	if oneIn(8).Draw(t, "refreshed") {
		s.refresh = max(s.ttl/3, 5*time.Second)
	}
	return s
})

var faultsOf = map[verb][]fault{
	issueFault: {fails, fine, denied, invalid, later, cached, panics},
	renewFault: {fails, fine, denied, later, gone, less, lost, panics},
	dropFault:  {fails, fine, denied, later, lost, panics},
	checkFault: {fails, fine, denied, later, hangs, panics},
	probeFault: {refused, unknown, hangs, deaf, panics},
	endFault:   {fails, hangs, deaf, panics},
}

// common makes the likelier verbs likelier.
var common = []verb{
	pass, pass, pass, pass, pass, pass, connect, connect, hold, hold, release, rotate, refuse, kill, change,
	issueFault, issueFault, renewFault, renewFault, dropFault, dropFault, probeFault, probeFault, endFault,
	suspect, checkFault,
	heal, heal, attach, detach, pause, resume, resume, down, up, up,
}

func steps(unit time.Duration) *rapid.Generator[step] {
	return rapid.Custom(func(t *rapid.T) step {
		verbs := common
		if oneIn(100).Draw(t, "close") {
			verbs = []verb{shut}
		}
		s := step{do: rapid.SampledFrom(verbs).Draw(t, "do")}
		switch s.do {
		case pass:
			s.d = time.Duration(rapid.Int64Range(0, 200).Draw(t, "percent")) * unit / 100
			if oneIn(4).Draw(t, "short") {
				s.d = durations(time.Second, time.Millisecond, 100*time.Millisecond, 10*time.Second).Draw(t, "d")
			}
		case rotate:
			s.d = durations(time.Minute, time.Second).Draw(t, "d")
		case shut:
			s.d = durations(10*time.Second, time.Minute, 100*time.Millisecond, 0).Draw(t, "d")
		case connect, hold, release, refuse, suspect:
			s.n = rapid.IntRange(0, 3).Draw(t, "n")
		case issueFault, renewFault, dropFault, checkFault, probeFault, endFault:
			s.n = rapid.SampledFrom([]int{1, 2, 5, 1000}).Draw(t, "n")
			s.d = durations(0, time.Second, 20*time.Second, 2*time.Minute).Draw(t, "d")
			s.fault = rapid.SampledFrom(faultsOf[s.do]).Draw(t, "fault")
		default:
		}
		return s
	})
}
