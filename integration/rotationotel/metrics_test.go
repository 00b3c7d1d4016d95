package rotationotel_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/rotationotel"
)

// Renewable for an hour, renewed every few seconds.
var short = testbed.RoleOptions{DefaultTTL: 6 * time.Second, MaxTTL: time.Hour}

// What is exported says what the rotator says and what has happened.
func TestMetricsTellTheTruth(t *testing.T) {
	t.Parallel()
	s := open(t, short, rotation.Config{MaxUnrevoked: 7})
	for _, counter := range []string{"rotations", "revocations", "failures", "renewals", "events_missed", "logins_paid"} {
		if v := s.value(t, "vaultpool_"+counter+"_total"); v != 0 {
			t.Errorf("%s begins with %v, want 0", counter, v)
		}
	}
	status := s.Rotator().Status()
	s.within(t, 6, 6, "vaultpool_lease_ttl_seconds")
	s.within(t, 0, 6, "vaultpool_lease_time_left_seconds")
	s.within(t, -1.2, 6-1.2, "vaultpool_rotation_time_left_seconds") // a fifth is kept
	s.within(t, status.Age.Seconds(), status.Age.Seconds()+60, "vaultpool_generation_age_seconds")
	s.within(t, 1, 1, "vaultpool_credential_usable")
	s.within(t, 1, 1, "vaultpool_leases_unrevoked")
	s.within(t, 7, 7, "vaultpool_leases_limit")
	s.within(t, 0, 0, "vaultpool_loop_stalled_seconds")

	renewed := s.events.Wait(t, rotation.Renewed, 1)
	kit.Eventually(t, "the renewal is counted", func(context.Context) bool { return s.value(t, "vaultpool_renewals_total") >= 1 })
	s.within(t, renewed.TTL.Seconds(), renewed.TTL.Seconds(), "vaultpool_lease_ttl_seconds")

	database := shared.Postgres.URL("app")
	release := s.hold(t)
	s.becomes(t, 1, "vaultpool_connections", "vaultpool_generation_state", "current")
	s.rotate(t)
	s.becomes(t, 1, "vaultpool_connections", "vaultpool_generation_state", "draining")
	s.within(t, 2, 2, "vaultpool_leases_unrevoked")
	release()
	s.events.Wait(t, rotation.Revoked, 1)
	s.becomes(t, 0, "vaultpool_connections", "vaultpool_generation_state", "draining")
	s.becomes(t, 1, "vaultpool_rotations_total", "vaultpool_reason", "requested")
	s.becomes(t, 1, "vaultpool_revocations_total", "vaultpool_outcome", "ok")
	s.becomes(t, 1, "vaultpool_issue_duration_seconds", "vaultpool_outcome", "ok")
	s.becomes(t, 1, "vaultpool_probe_duration_seconds", "vaultpool_outcome", "ok")
	s.becomes(t, 1, "vaultpool_drain_duration_seconds", "vaultpool_outcome", "ok")
	for _, family := range s.gather(t) {
		if family.GetName() == "vaultpool_connections" {
			for _, label := range family.GetMetric()[0].GetLabel() {
				if label.GetName() == "vaultpool_database" && (label.GetValue() == "" || !strings.Contains(database, label.GetValue())) {
					t.Errorf("the database is %q, which is not in the connection string", label.GetValue())
				}
			}
		}
	}
}

// A revocation that fails is counted as such each time, and then as done.
func TestMetricsOfAFailedRevocation(t *testing.T) {
	t.Parallel()
	s := open(t, testbed.RoleOptions{DefaultTTL: time.Hour}, rotation.Config{})
	s.vault.Lose("sys/leases/revoke", 1000)
	s.rotate(t)
	s.events.Wait(t, rotation.RevokeFailed, 1)
	kit.Eventually(t, "the failure is counted", func(context.Context) bool {
		return s.value(t, "vaultpool_revocations_total", "vaultpool_outcome", "failed") >= 1 &&
			s.value(t, "vaultpool_failures_total", "vaultpool_failure", "revoke_failed") >= 1
	})
	s.within(t, 2, 2, "vaultpool_leases_unrevoked")
	s.vault.Heal()
	s.events.Wait(t, rotation.Revoked, 1)
	s.becomes(t, 1, "vaultpool_revocations_total", "vaultpool_outcome", "ok")
	failed := float64(len(s.events.Of(rotation.RevokeFailed, 1)))
	s.becomes(t, failed, "vaultpool_revocations_total", "vaultpool_outcome", "failed")
	s.becomes(t, failed, "vaultpool_failures_total", "vaultpool_failure", "revoke_failed")
	s.becomes(t, failed, "vaultpool_failures_total")
}

// A drain that reaches its deadline is told from one that does not.
func TestMetricsOfADrainDeadline(t *testing.T) {
	t.Parallel()
	s := open(t, testbed.RoleOptions{DefaultTTL: time.Hour}, rotation.Config{DrainTimeout: 300 * time.Millisecond})
	s.hold(t)
	s.rotate(t)
	s.events.Wait(t, rotation.Revoked, 1)
	s.becomes(t, 1, "vaultpool_drain_duration_seconds", "vaultpool_outcome", "deadline")
	s.becomes(t, 1, "vaultpool_failures_total", "vaultpool_failure", "drain_deadline")
}

// While the credential is lost it is said so, and the lease has less than no time left.
func TestMetricsOfALostCredential(t *testing.T) {
	t.Parallel()
	s := open(t, testbed.RoleOptions{DefaultTTL: 2 * time.Second, MaxTTL: 2 * time.Second}, rotation.Config{})
	s.vault.Lose(s.role.CredsPath, 1000)
	s.events.Wait(t, rotation.CredentialLost, 0)
	s.becomes(t, 0, "vaultpool_credential_usable")
	kit.Eventually(t, "the lease has ended", func(context.Context) bool {
		return s.value(t, "vaultpool_failures_total", "vaultpool_failure", "issue_failed") > 0 &&
			s.value(t, "vaultpool_issue_duration_seconds", "vaultpool_outcome", "failed") > 0
	})
	s.within(t, -60, 0, "vaultpool_lease_time_left_seconds")
	s.within(t, -60, 0, "vaultpool_rotation_time_left_seconds")
	s.becomes(t, 1, "vaultpool_failures_total", "vaultpool_failure", "credential_lost")
	s.vault.Heal()
	s.events.Wait(t, rotation.CredentialBack, 0)
	s.becomes(t, 1, "vaultpool_credential_usable")
}

// It ends with the rotator: gauges go, counters stay.
func TestMetricsEndWithTheRotator(t *testing.T) {
	t.Parallel()
	s := open(t, testbed.RoleOptions{DefaultTTL: time.Hour}, rotation.Config{})
	s.quit()
	s.becomes(t, -1, "vaultpool_credential_usable")
	s.becomes(t, 1, "vaultpool_revocations_total", "vaultpool_outcome", "ok")
	s.stop()
	s.stop()
	if _, err := rotationotel.Instrument(s.Rotator(), rotationotel.Config{}); !errors.Is(err, rotation.ErrClosed) {
		t.Errorf("instrumenting what is closed: %v", err)
	}
}

// stop ends it before that.
func TestMetricsEndWithStop(t *testing.T) {
	t.Parallel()
	s := open(t, testbed.RoleOptions{DefaultTTL: time.Hour}, rotation.Config{})
	s.stop()
	s.rotate(t)
	s.events.Wait(t, rotation.Revoked, 1)
	if v := s.value(t, "vaultpool_credential_usable"); v != -1 {
		t.Errorf("the credential is told to be %v after stop", v)
	}
	if v := s.value(t, "vaultpool_rotations_total"); v != 0 {
		t.Errorf("%v rotations were counted after stop", v)
	}
}

// No attribute of a metric tells one lease, user or generation from the next.
func TestMetricsHaveFewSeries(t *testing.T) {
	t.Parallel()
	s := open(t, short, rotation.Config{})
	s.live(t)
	before := s.series(t)
	for range 3 {
		id := s.Rotator().Status().Generation
		s.rotate(t)
		s.events.Wait(t, rotation.Revoked, id)
	}
	s.becomes(t, 5, "vaultpool_rotations_total", "vaultpool_reason", "requested")
	if after := s.series(t); after != before {
		t.Errorf("%d series have become %d by three rotations", before, after)
	}
	text := s.exportedMetrics(t)
	if strings.Contains(text, "v-token") || strings.Contains(text, s.role.Name) {
		t.Error("there is a user or a lease in the metrics")
	}
}

func (s *service) series(t *testing.T) (n int) {
	t.Helper()
	for _, family := range s.gather(t) {
		n += len(family.GetMetric())
	}
	return n
}

func (s *service) exportedMetrics(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for _, family := range s.gather(t) {
		text.WriteString(family.String() + "\n")
	}
	return text.String()
}
