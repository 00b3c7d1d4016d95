package rotation

// disperse sees to it that the instances of a fleet do not reach the end of their
// credentials together. A credential that many may have got at this moment, at a
// start of all, or after what they had was lost to all, is replaced once before its
// end, at a random time of its life. After that this instance's credentials begin,
// and end, when nobody else's do. It costs one more credential, and no more than
// that: if replacing it fails, the credential goes on.
//
// How long a life is, up to the ceiling (max_ttl), Vault does not say before it has
// come. Until this instance has seen one, it is taken for 24 leases, as in Vault's own
// examples (default_ttl of an hour, max_ttl of a day). If the ceiling is lower, some
// reach it together once, and are dispersed then.
func (l *loop) disperse(now instant, g, old *Generation, reason string) {
	if l.lost != nil || l.failures > 0 {
		reason = "" // whatever it was, others have waited for the source too
	}
	switch reason {
	case dispersal:
		l.dispersed = true
	case leaseCeiling:
		l.life = now.since(old.born)
	case leaseEnd, refreshing:
	default:
		l.dispersed = false
	}
	if l.dispersed || l.early > 0 || !g.lease.Revocable || g.term.endless() || g.term.full < mixing {
		return
	}
	life := g.term.granted - g.term.lead(l.r.config)
	if l.renewable(g) && g.term.renewable && !g.term.capped {
		if life = l.life; life == 0 {
			life = 24 * min(g.term.full, longest/24)
		}
	}
	g.early = life - spread(life, l.r.random())
}

// mayDisperse holds while nothing else is under way: that would have a better claim to
// the leases there may be.
func (l *loop) mayDisperse(g *Generation) bool {
	return g.early > 0 && len(l.gens) == 1 && l.paused == 0
}
