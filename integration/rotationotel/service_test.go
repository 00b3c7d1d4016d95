package rotationotel_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/rotationotel"
)

// service is a pool whose metrics Prometheus could scrape and whose spans are kept.
type service struct {
	*pgvault.Pool
	role     *testbed.Role
	vault    *kit.VaultProxy
	events   *kit.Recorder
	registry *prometheus.Registry
	spans    *tracetest.InMemoryExporter
	stop     func() // Instrument's
	quit     func() // closes the pool; once
}

// open starts a service. At the end what it exported is searched for secrets.
func open(t *testing.T, role testbed.RoleOptions, tune rotation.Config) *service {
	t.Helper()
	ctx := t.Context()
	s := &service{events: kit.NewRecorder(), vault: kit.NewVaultProxy(t, shared.Vault.Addr)}
	var err error
	s.role, err = shared.PostgresRole(ctx, role)
	kit.Check(t, err)
	token, err := s.role.Token(ctx, 24*time.Hour)
	kit.Check(t, err)
	s.vault.AddSecret(token)
	file := filepath.Join(t.TempDir(), "token")
	kit.Check(t, os.WriteFile(file, []byte(token), 0o600))
	config, err := pgvault.ParseConfig(shared.Postgres.URL("app") + "&pool_max_conns=4&vault_path=" + s.role.CredsPath +
		"&vault_addr=" + s.vault.URL + "&vault_token_file=" + file)
	kit.Check(t, err)
	tune.IssueInterval = time.Millisecond
	config.Rotation = tune
	s.Pool, err = pgvault.NewWithConfig(ctx, config)
	kit.Check(t, err)
	s.Rotator().Subscribe(s.events.Add)
	s.quit = sync.OnceFunc(s.Close)
	s.instrument(t)
	t.Cleanup(func() {
		s.quit()
		s.listen(t)
		if n := s.vault.SecretsIn(s.exported(t)); n > 0 || s.vault.Secrets() < 2 {
			t.Errorf("%d of %d secrets were exported", n, s.vault.Secrets())
		}
	})
	return s
}

func (s *service) instrument(t *testing.T) {
	t.Helper()
	s.registry = prometheus.NewRegistry()
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(s.registry))
	kit.Check(t, err)
	meters := metric.NewMeterProvider(metric.WithReader(exporter))
	s.spans = tracetest.NewInMemoryExporter()
	tracers := trace.NewTracerProvider(trace.WithSyncer(s.spans))
	s.stop, err = rotationotel.Instrument(s.Rotator(), rotationotel.Config{MeterProvider: meters, TracerProvider: tracers, Pool: "orders"})
	kit.Check(t, err)
	t.Cleanup(func() {
		s.quit()
		kit.Check(t, meters.Shutdown(context.WithoutCancel(t.Context())))
	})
}

// exported is all metrics and spans as text.
func (s *service) exported(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("%v\n%+v", s.gather(t), s.spans.GetSpans().Snapshots())
}

// listen has the secrets of the whole package looked for in what was exported.
func (s *service) listen(t *testing.T) {
	t.Helper()
	kit.Heard(s.exported(t))
	for _, span := range s.spans.GetSpans() {
		kit.Heard(span.Name, span.Attributes, span.Events, span.Status)
	}
}

func (s *service) gather(t *testing.T) []*dto.MetricFamily {
	t.Helper()
	families, err := s.registry.Gather()
	kit.Check(t, err)
	return families
}

// value is the sum of the series of a metric that have these labels (name, value, name, value …); of a histogram how
// many values there are. It is -1 if there is none.
func (s *service) value(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	sum, found := 0.0, false
	for _, family := range s.gather(t) {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if hasLabels(m, labels) {
				found = true
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	if !found {
		return -1
	}
	return sum
}

func hasLabels(m *dto.Metric, want []string) bool {
	has := make(map[string]string)
	for _, label := range m.GetLabel() {
		has[label.GetName()] = label.GetValue()
	}
	for i := 0; i < len(want); i += 2 {
		if has[want[i]] != want[i+1] {
			return false
		}
	}
	return true
}

// becomes waits for a value, since events are taken in the background.
func (s *service) becomes(t *testing.T, want float64, name string, labels ...string) {
	t.Helper()
	kit.Eventually(t, fmt.Sprintf("%s%v is %v", name, labels, want), func(context.Context) bool {
		return s.value(t, name, labels...) == want
	})
}

// within checks a gauge.
func (s *service) within(t *testing.T, least, most float64, name string) {
	t.Helper()
	if v := s.value(t, name, "vaultpool_pool", "orders"); v < least || v > most {
		t.Errorf("%s is %v, want %v to %v", name, v, least, most)
	}
}

func (s *service) hold(t *testing.T) (release func()) {
	t.Helper()
	conn, err := s.Acquire(t.Context())
	kit.Check(t, err)
	release = sync.OnceFunc(conn.Release)
	t.Cleanup(release)
	return release
}

func (s *service) rotate(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	kit.Check(t, s.Rotate(ctx))
}

// live has everything happen once that a metric is about: a renewal, a rotation that drains, a deadline that ends a
// connection, and a revocation that fails first.
func (s *service) live(t *testing.T) {
	t.Helper()
	s.events.Wait(t, rotation.Renewed, 1)
	release := s.hold(t)
	s.rotate(t)
	release()
	s.events.Wait(t, rotation.Revoked, 1)

	s.vault.Lose("sys/leases/revoke", 1000)
	s.rotate(t)
	s.events.Wait(t, rotation.RevokeFailed, 2)
	s.vault.Heal()
	s.events.Wait(t, rotation.Revoked, 2)
}
