package filesource

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// issue takes no time for the wait between two looks.
func issue(t *testing.T, s *Source) (c rotation.Credential, l rotation.Lease, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { c, l, err = s.Issue(t.Context()) })
	return c, l, err
}

func TestIssue(t *testing.T) {
	file := func(content string) map[string]string { return map[string]string{"db.json": content} }
	named := func(c Config) Config { c.UsernameField, c.PasswordField = "DB_USER", "DB_PASS"; return c }
	for name, c := range map[string]struct {
		config func(dir string) Config
		files  map[string]string
		want   string // the password; the user is app
	}{
		"directory":           {inDir, map[string]string{"username": "app", "password": "p"}, "p"},
		"line breaks":         {inDir, map[string]string{"username": "app\n", "password": "p\r\n"}, "p"},
		"one line break only": {inDir, map[string]string{"username": "app\r\n", "password": " p \n\n"}, " p \n"},
		"a lone return":       {inDir, map[string]string{"username": "app", "password": "p\r"}, "p\r"},
		"names of files":      {func(d string) Config { return named(inDir(d)) }, map[string]string{"DB_USER": "app", "DB_PASS": "p"}, "p"},
		"as large as allowed": {inDir, map[string]string{"username": "app", "password": strings.Repeat("p", maxSize)}, strings.Repeat("p", maxSize)},
		"JSON":                {inFile, file(`{"password":"p\u003c\n","username":"app","more":[1]}` + "\n"), "p<\n"},
		"JSON, names of keys": {func(d string) Config { return named(inFile(d)) }, file(`{"DB_USER": "app", "DB_PASS": "p", "password": 1}`), "p"},
		"JSON, further inside": {func(d string) Config {
			c := inFile(d)
			c.Under = []string{"data", "data"}
			return c
		}, file(`{"username":"no","data":{"metadata":{},"data":{"username":"app","password":"p"}}}`), "p"},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := newSource(t, c.config)
			for name, content := range c.files {
				put(t, dir, name, content)
			}
			credential, lease, err := issue(t, s)
			check(t, err)
			wantPair(t, credential, "app", c.want)
			if lease != (rotation.Lease{RefreshAfter: time.Hour}) {
				t.Errorf("the lease is %+v", lease)
			}
		})
	}
}

// Errors name the field and hold nothing of the content, and only what waiting
// does not mend ends a start.
func TestIssueFails(t *testing.T) {
	const secret = "s3cret"
	file := func(content string) map[string]string { return map[string]string{"db.json": content} }
	under := func(dir string) Config {
		c := inFile(dir)
		c.Under = []string{"data", "data"}
		return c
	}
	for name, c := range map[string]struct {
		config func(dir string) Config
		files  map[string]string
		is     error // nil: none of ours
		says   string
	}{
		"nothing there":         {inFile, nil, fs.ErrNotExist, "db.json"},
		"no user":               {inDir, map[string]string{"password": secret}, fs.ErrNotExist, `the field "username"`},
		"no password":           {inDir, map[string]string{"username": secret}, fs.ErrNotExist, `the field "password"`},
		"empty user":            {inDir, map[string]string{"username": "\n", "password": secret}, nil, `the field "username" is empty`},
		"empty password":        {inDir, map[string]string{"username": secret, "password": ""}, nil, `the field "password" is empty`},
		"a directory":           {inDir, map[string]string{"username": secret, "password/x": secret}, rotation.ErrInvalid, "is not a regular file"},
		"too large":             {inDir, map[string]string{"username": secret, "password": strings.Repeat(secret, maxSize/len(secret)+1)}, rotation.ErrInvalid, "more than 1048576 bytes"},
		"JSON: empty":           {inFile, file(" \n"), nil, "the file is empty"},
		"JSON: cut off":         {inFile, file(`{"username":"app","password":"` + secret), rotation.ErrInvalid, "is not JSON: it breaks off or is wrong at byte 36"},
		"JSON: something more":  {inFile, file(`{"username":"app","password":"` + secret + `"} ` + secret), rotation.ErrInvalid, "is not JSON"},
		"JSON: not UTF-8":       {inFile, file("{\"username\":\"app\",\"password\":\"s3cret\xff\"}"), rotation.ErrInvalid, "not UTF-8"},
		"JSON: a string":        {inFile, file(`"` + secret + `"`), rotation.ErrInvalid, "not a JSON object, but a string"},
		"JSON: null":            {inFile, file(`null`), rotation.ErrInvalid, "not a JSON object, but a null"},
		"JSON: no user":         {inFile, file(`{"Username":"app","password":"` + secret + `"}`), rotation.ErrInvalid, `there is no field "username"`},
		"JSON: empty user":      {inFile, file(`{"username":"","password":"` + secret + `"}`), nil, `the field "username" is empty`},
		"JSON: empty password":  {inFile, file(`{"username":"` + secret + `","password":""}`), nil, `the field "password" is empty`},
		"JSON: a number":        {inFile, file(`{"username":"app","password":5373} `), rotation.ErrInvalid, `the field "password" is not a string, but a number`},
		"JSON: a null":          {inFile, file(`{"username":"app","password":null}`), rotation.ErrInvalid, `the field "password" is not a string, but a null`},
		"JSON: nothing inside":  {under, file(`{"data":{"username":"` + secret + `"}}`), rotation.ErrInvalid, `no key "data.data"`},
		"JSON: inside a list":   {under, file(`{"data":["` + secret + `"]}`), rotation.ErrInvalid, `the value of the key "data" is not a JSON object, but a list`},
		"JSON: inside, nothing": {under, file(`{"username":"` + secret + `"}`), rotation.ErrInvalid, `no key "data"`},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := newSource(t, c.config)
			for name, content := range c.files {
				check(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
				put(t, dir, name, content)
			}
			credential, lease, err := issue(t, s)
			wantText(t, err, "read the credential in "+s.String()+": ", c.says)
			if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "5373") {
				t.Errorf("the error shows what is in the file: %v", err)
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("the error is not %q: %v", c.is, err)
			}
			mayPass := !errors.Is(c.is, rotation.ErrInvalid)
			if mayPass && errors.Is(err, rotation.ErrInvalid) || errors.Is(err, rotation.ErrDenied) {
				t.Errorf("the error ends a start, although it may pass: %v", err)
			}
			if credential.Username() != "" || lease != (rotation.Lease{}) {
				t.Errorf("%v and %+v beside an error", credential, lease)
			}
		})
	}
}

func TestIssueHeedsItsContext(t *testing.T) {
	s, dir := newSource(t, inFile)
	putJSON(t, dir, "app", "p")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if _, _, err := s.Issue(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("an Issue whose context was done returned %v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), settle/2)
		defer cancel()
		if _, _, err := s.Issue(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an Issue whose context ended during the wait returned %v", err)
		}
	})
}

// A start waits for files that are not there yet, and not for what is no credential.
func TestStart(t *testing.T) {
	s, dir := newSource(t, inFile)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		time.AfterFunc(10*time.Second, func() { rewrite(t, dir, "db.json", "") })
		time.AfterFunc(15*time.Second, func() { putJSON(t, dir, "app", "p") })
		r, err := rotation.New(t.Context(), s, rotation.Config{})
		check(t, err)
		if user, after := r.Status().User, time.Since(start); user != "app" || after < 15*time.Second {
			t.Errorf("started as %s after %v", user, after)
		}
		check(t, r.Close(t.Context()))
	})

	put(t, dir, "db.json", `{"user": "app"}`)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, err := rotation.New(t.Context(), s, rotation.Config{})
		if after := time.Since(start); !errors.Is(err, rotation.ErrInvalid) || after > time.Second {
			t.Errorf("after %v: %v", after, err)
		}
	})

	check(t, os.Remove(filepath.Join(dir, "db.json")))
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, err := rotation.New(t.Context(), s, rotation.Config{StartTimeout: 20 * time.Second})
		if after := time.Since(start); !errors.Is(err, fs.ErrNotExist) || after != 20*time.Second {
			t.Errorf("after %v: %v", after, err)
		}
	})
}
