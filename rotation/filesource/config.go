package filesource

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"time"
)

// Config says where the credential is: exactly one of Dir and File is needed. No
// field holds a secret.
type Config struct {
	// Dir is a directory with one file per field: a mounted Kubernetes Secret, a
	// volume of the Secrets Store CSI driver, or any other. One line break at the
	// end of a file is not part of the value, nothing else is cut off. A relative
	// path is taken from the working directory at New.
	Dir string
	// File is a file with a JSON object instead, whose fields are strings.
	File string
	// Under are the keys that lead to that object from the outside, where it is
	// not the outermost: {"data", "data"} for what Vault says of a secret in KV
	// version 2. Only with File.
	Under []string

	// UsernameField and PasswordField are the names of the fields: of the files in
	// Dir, or in the JSON object. "" means "username" and "password".
	UsernameField, PasswordField string

	// Interval is how often Watch looks whether the credential changed. Default 5
	// seconds. It is the delay that comes on top of that of whoever writes.
	Interval time.Duration

	// Logger gets a warning when Watch cannot read the credential any more, once
	// until it can again. Nil discards it: no error can carry it.
	Logger *slog.Logger
}

// Format writes the path, under every verb.
func (c Config) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.path()) }

func (c Config) path() string {
	if c.Dir != "" {
		return c.Dir
	}
	return c.File
}

// check returns the configuration with its defaults, or says what is wrong.
func (c Config) check() (Config, error) {
	c.Under = slices.Clone(c.Under)
	if c.UsernameField == "" {
		c.UsernameField = "username"
	}
	if c.PasswordField == "" {
		c.PasswordField = "password"
	}
	if c.Interval == 0 {
		c.Interval = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Dir == "" && c.File == "":
		return c, errors.New("no path is given: set Config.Dir to a directory with one file per field, or Config.File to a JSON file")
	case c.Dir != "" && c.File != "":
		return c, errors.New("both Config.Dir and Config.File are set: give one")
	case c.Dir != "" && len(c.Under) > 0:
		return c, errors.New("Config.Under is for a JSON file, and Config.Dir is set")
	case slices.Contains(c.Under, ""):
		return c, errors.New("Config.Under holds an empty key")
	case c.UsernameField == c.PasswordField:
		return c, fmt.Errorf("user and password are both read from the field %q", c.UsernameField)
	case c.Interval < 0:
		return c, fmt.Errorf("Config.Interval is %v: it must not be negative; 0 means the default", c.Interval)
	}
	if c.Dir == "" {
		return c, absolute(&c.File)
	}
	for _, field := range []string{c.UsernameField, c.PasswordField} {
		if !filepath.IsLocal(field) || field != filepath.Base(field) || field == "." {
			return c, fmt.Errorf("the field %q is not the name of a file in Config.Dir", field)
		}
	}
	return c, absolute(&c.Dir)
}

// absolute makes a path independent of a later change of the working directory.
func absolute(path *string) (err error) {
	*path, err = filepath.Abs(*path)
	return err
}
