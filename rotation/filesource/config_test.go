package filesource

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestConfigIsChecked(t *testing.T) {
	for want, config := range map[string]Config{
		"no path is given":                             {},
		"both Config.Dir and Config.File":              {Dir: "a", File: "b"},
		"Config.Under is for a JSON file":              {Dir: "a", Under: []string{"data"}},
		"an empty key":                                 {File: "a", Under: []string{"data", ""}},
		`both read from the field "login"`:             {File: "a", UsernameField: "login", PasswordField: "login"},
		`both read from the field "password"`:          {Dir: "a", UsernameField: "password"},
		"Config.Interval is -1s":                       {File: "a", Interval: -time.Second},
		`"../username" is not the name of a file`:      {Dir: "a", UsernameField: "../username"},
		`"sub/password" is not the name of a file`:     {Dir: "a", PasswordField: "sub/password"},
		`the field "." is not the name of a file`:      {Dir: "a", PasswordField: "."},
		`the field ".." is not the name of a file`:     {Dir: "a", PasswordField: ".."},
		`"/etc/db/password" is not the name of a file`: {Dir: "a", PasswordField: "/etc/db/password"},
	} {
		s, err := New(config)
		wantText(t, err, "set up the file source: ", want)
		if s != nil {
			t.Errorf("%s: there is a source beside the error", want)
		}
	}
}

func TestConfigIsCopiedWithItsDefaults(t *testing.T) {
	under := []string{"data"}
	s, err := New(Config{File: "db.json", Under: under})
	check(t, err)
	under[0] = "other"
	c := s.config
	if c.UsernameField != "username" || c.PasswordField != "password" || c.Interval != 5*time.Second || c.Under[0] != "data" {
		t.Errorf("%q %q %v %q", c.UsernameField, c.PasswordField, c.Interval, c.Under)
	}
	elsewhere := t.TempDir()
	was, err := filepath.Abs("db.json")
	check(t, err)
	t.Chdir(elsewhere)
	if s.String() != was {
		t.Errorf("the path is %s, not %s", s, was)
	}
}

func TestNothingShowsASecret(t *testing.T) {
	const password = "s3cret-s3cret"
	s, dir := newSource(t, inDir)
	putPair(t, dir, "app", password)
	_, _, err := s.Issue(t.Context())
	check(t, err)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, shown := range []string{fmt.Sprintf(verb, s), fmt.Sprintf(verb, s.config), fmt.Sprintf(verb, &s.config)} {
			if shown != dir {
				t.Errorf("%s shows %s", verb, shown)
			}
		}
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "source", s, "config", s.config)
	encoded, err := json.Marshal([]any{s, s.config})
	check(t, err)
	inner := fmt.Sprintf("%+v %#v", struct{ s *Source }{s}, struct{ s *Source }{s})
	for _, shown := range []string{log.String(), string(encoded), inner} {
		if strings.Contains(shown, password) {
			t.Errorf("the password is shown: %s", shown)
		}
	}
}
