package testbed

import (
	"context"
	"errors"
)

// MariaDB is the MariaDB server of a testbed.
type MariaDB struct{}

func (b *Bed) startMariaDB(context.Context) error {
	return errors.New("the testbed cannot start MariaDB yet")
}
