package rotation

import "fmt"

// What follows is what fmt and log/slog show of the engine's own types. Without
// it they would read fields that other goroutines are writing.

// Format writes which credential is current, under every verb.
func (r *Rotator) Format(s fmt.State, _ rune) {
	g, err := r.usable()
	if err != nil {
		_, _ = fmt.Fprintf(s, "rotator (%v)", err)
		return
	}
	_, _ = fmt.Fprintf(s, "rotator at %v", g)
}

// Format writes the number and the user, under every verb.
func (g *Generation) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "generation %d (%v)", g.id, g.cred)
}

// Format writes the pool's name, under every verb.
func (a *Attachment) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "attachment of %s", a.name)
}

// Format writes the generation that the connection is bound to, under every verb.
func (c *Conn) Format(s fmt.State, _ rune) {
	g := c.gen.Load()
	if g == nil {
		_, _ = fmt.Fprint(s, "connection of no generation")
		return
	}
	_, _ = fmt.Fprintf(s, "connection of %v", g)
}
