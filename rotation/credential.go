package rotation

import (
	"crypto/subtle"
	"fmt"
	"log/slog"
)

// Credential is a database login: a user name and a password. It is an opaque
// value that redacts itself: under every fmt verb, in JSON, as text and under
// slog it shows the user name and never the password. The zero Credential is
// empty and logs in nowhere.
type Credential struct {
	// A function, so that fmt shows an address where it finds a Credential in an
	// unexported field of something else and may not call Format. Through a pointer
	// it would see: %s and %q, which pointers do not have, print what it points to.
	login func() (user, password string)
}

// NewCredential returns the credential of a user and a password.
func NewCredential(user, password string) Credential {
	return Credential{func() (string, string) { return user, password }}
}

// Username returns the user name; "" for the zero Credential.
func (c Credential) Username() string {
	if c.login == nil {
		return ""
	}
	user, _ := c.login()
	return user
}

// Password returns the secret. Hand it to the driver and to nothing else.
func (c Credential) Password() string {
	if c.login == nil {
		return ""
	}
	_, password := c.login()
	return password
}

// Equal reports whether both are the same user with the same password. The
// passwords are compared in constant time.
func (c Credential) Equal(other Credential) bool {
	return c.Username() == other.Username() &&
		subtle.ConstantTimeCompare([]byte(c.Password()), []byte(other.Password())) == 1
}

// String returns the user name and a placeholder for the password.
func (c Credential) String() string {
	if c.login == nil {
		return "no credential"
	}
	return c.Username() + ":[redacted]"
}

// Format writes String under every verb, %#v and %x included.
func (c Credential) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(c.String())) }

// MarshalText returns String, so that JSON and other encoders show no secret.
func (c Credential) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// LogValue returns String as a slog value.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }
