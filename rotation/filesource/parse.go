package filesource

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/vaultpool/vaultpool/rotation"
)

// parse takes user and password out of a JSON file. Its errors name keys and
// kinds, and never what encoding/json says, which shows parts of the content.
func parse(data []byte, c Config) (user, password string, err error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return "", "", errEmptyFile
	}
	if !utf8.Valid(data) { // encoding/json would change what is not
		return "", "", invalid("the file is not UTF-8")
	}
	object, err := members(data, "the file")
	for i, key := range c.Under {
		if err != nil {
			return "", "", err
		}
		inner, ok := object[key]
		if !ok {
			return "", "", invalid("the file has no key %q", strings.Join(c.Under[:i+1], "."))
		}
		object, err = members(inner, fmt.Sprintf("the value of the key %q", strings.Join(c.Under[:i+1], ".")))
	}
	if err != nil {
		return "", "", err
	}
	if user, err = text(object, c.UsernameField); err != nil {
		return "", "", err
	}
	password, err = text(object, c.PasswordField)
	return user, password, err
}

// members returns those of a JSON object.
func members(data []byte, what string) (map[string]json.RawMessage, error) {
	var object map[string]json.RawMessage
	err := json.Unmarshal(data, &object)
	if syntax := new(json.SyntaxError); errors.As(err, &syntax) {
		return nil, invalid("%s is not JSON: it breaks off or is wrong at byte %d", what, syntax.Offset)
	}
	if err != nil || object == nil {
		return nil, invalid("%s is not a JSON object, but a %s", what, kindOf(data))
	}
	return object, nil
}

func text(object map[string]json.RawMessage, field string) (string, error) {
	raw, ok := object[field]
	if !ok {
		return "", invalid("there is no field %q", field)
	}
	var value *string
	if err := json.Unmarshal(raw, &value); err != nil || value == nil {
		return "", invalid("the field %q is not a string, but a %s", field, kindOf(raw))
	}
	if *value == "" {
		return "", emptyField(field)
	}
	return *value, nil
}

// kindOf names the kind of a valid JSON value.
func kindOf(data []byte) string {
	switch bytes.TrimSpace(data)[0] {
	case '{':
		return "object"
	case '[':
		return "list"
	case '"':
		return "string"
	case 't', 'f':
		return "boolean"
	case 'n':
		return "null"
	default:
		return "number"
	}
}

func invalid(format string, arguments ...any) error {
	return fmt.Errorf("%w: %s", rotation.ErrInvalid, fmt.Sprintf(format, arguments...))
}
