package kit

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// Package is a package of tests that share a testbed.
type Package struct {
	Bed      **testbed.Bed
	Options  testbed.Options
	Parallel int                         // tests at once, unless -parallel says: they wait more than they compute
	Prepare  func(context.Context) error // nil: nothing
	Clean    func(context.Context) error // nil: nothing; after Prepare succeeded
	Ignore   []goleak.Option             // goroutines that others leave
}

// Main is for TestMain: it returns the exit code. Nothing may be left behind, goroutines included.
func (p Package) Main(m *testing.M) (code int) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", strconv.Itoa(p.Parallel))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour) // Vault may have to be built
	defer cancel()
	code, err := p.run(ctx, m)
	if err = errors.Join(err, goleak.Find(p.Ignore...)); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

func (p Package) run(ctx context.Context, m *testing.M) (code int, err error) {
	p.Options.Progress, p.Options.Audit = os.Stderr, true
	bed, err := testbed.Start(ctx, p.Options)
	if err != nil {
		return 1, err
	}
	*p.Bed = bed
	defer func() { err = errors.Join(err, bed.Close()) }()
	if p.Prepare != nil {
		if err := p.Prepare(ctx); err != nil {
			return 1, err
		}
	}
	code = m.Run()
	err = CheckHeard(bed)
	if p.Clean != nil {
		err = errors.Join(err, p.Clean(ctx))
	}
	return code, err
}
