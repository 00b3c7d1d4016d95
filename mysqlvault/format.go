package mysqlvault

import "fmt"

// What follows is what fmt and log/slog show. Without it they would read fields that
// other goroutines are writing.

// Format writes which database, under every verb.
func (c *Connector) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "connector of %s", c.target.Name())
}

// Format writes which database, under every verb.
func (c *conn) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "connection to %s", c.t.Name())
}
