// Package registration registers database/sql drivers under names that users choose.
package registration

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
)

// Register is sql.Register with an error in the place of a panic.
func Register(name string, d driver.Driver) (err error) {
	if name == "" {
		return errors.New("registering a driver: the name is empty")
	}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("registering a driver as %q: %v; a name cannot be given back: choose another one", name, v)
		}
	}()
	sql.Register(name, d)
	return nil
}
