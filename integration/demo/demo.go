package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

const (
	poolSize    = 20
	serviceName = "webservice" // also the application_name of its sessions

	// scrapeInterval is far less than Prometheus', as leases are: a drain takes about a second here.
	scrapeInterval = 200 * time.Millisecond

	// endTimeout bounds the checks in the end, in case a server does not answer.
	endTimeout = 30 * time.Second
)

// runDemo starts everything, runs the load until duration (if any) is over or ctx ends, stops everything in good
// order, and reports. The error is for what kept it from doing so.
func runDemo(ctx context.Context, o options, screen *screen) (_ *report, err error) {
	start := time.Now()
	screen.printf("starting Vault and the database")
	bed, err := testbed.Start(ctx, testbed.Options{
		Postgres: o.database == postgresName, MariaDB: o.database == mysqlName, Progress: screen, Audit: o.audit,
	})
	if err != nil {
		return nil, fmt.Errorf("start the servers: %w", err)
	}
	defer func() { err = errors.Join(err, bed.Close()) }()

	setting, err := prepare(ctx, bed, o.database, screen)
	if err != nil {
		return nil, err
	}
	revocations := newRevocations(setting, screen)
	service, err := startService(ctx, setting, revocations, screen)
	if err != nil {
		return nil, err
	}
	defer service.kill()
	screen.printf("ready after %s", time.Since(start).Round(100*time.Millisecond))
	screen.printf("the status page, to watch all of this in a browser: http://%s%s", service.address, statusPath)
	screen.printf("the metrics, for Prometheus: http://%s/metrics", service.address)
	var jobs *jobs
	if bed.MariaDB != nil {
		if jobs, err = startJobs(ctx, setting, revocations, screen); err != nil {
			return nil, err
		}
	}

	r := &report{database: setting.database.name(), duration: o.duration}
	load := startLoad(ctx, "http://"+service.address, screen)
	began := time.Now()
	story := newStory(ctx, setting, service, load, jobs, o.outage, screen)
	r.reason = watch(ctx, o.duration, service, load, &r.metrics, story, screen)
	load.cancel()
	r.story = story.end()
	load.stop()
	r.ran = time.Since(began)

	screen.printf("%s; the load has stopped, stopping the service", r.reason)
	r.service = service.stop()
	if jobs != nil {
		r.jobs = jobs.stop()
	}
	r.load = load.result()
	r.renewals, r.rotations, r.credentials = service.events.renewals(), service.events.rotations(), service.events.credentials()
	checking, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	r.revocations = revocations.result()
	r.left, r.books = inspect(checking, setting)
	if jobs != nil {
		jobs.audit(checking, r.jobs)
	}
	r.secrets, err = bed.Vault.Secrets()
	return r, err
}

// watch draws a line every second until the duration is over, ctx ends or the service does, and returns which.
func watch(ctx context.Context, duration time.Duration, service *service, load *load, metrics *metrics, story *story, screen *screen) string {
	var over <-chan time.Time
	if duration > 0 {
		over = time.After(duration)
	}
	ticker, scrapes := time.NewTicker(time.Second), time.NewTicker(scrapeInterval)
	defer ticker.Stop()
	defer scrapes.Stop()
	var scrapeErr error
	began := time.Now()
	for {
		select {
		case <-over:
			return fmt.Sprintf("%v are over", duration)
		case <-ctx.Done():
			return context.Cause(ctx).Error()
		case <-service.done:
			return "the service has ended by itself"
		case <-scrapes.C:
			scrapeErr = service.scrape(ctx, metrics)
			continue
		case <-ticker.C:
		}
		status, err := service.status(ctx)
		if err == nil {
			story.consider(time.Since(began), status)
		}
		err = errors.Join(err, scrapeErr)
		second, total := load.lastSecond(), load.result()
		screen.live(func(width int) string {
			return liveLine(width, time.Since(began), status, err, second, total)
		})
	}
}

// wideEnough is the number of columns from which on the live line is written out in full.
const wideEnough = 110

// liveLine is what one second looked like. In a narrow terminal it leaves the user out.
func liveLine(width int, elapsed time.Duration, status *status, statusErr error, second *histogram, total loadResult) string {
	who := "no status: "
	if statusErr != nil {
		who += statusErr.Error()
	} else {
		current, old := status.connections()
		user := ""
		if width >= wideEnough {
			user = " " + shortUser(status.User)
		}
		who = fmt.Sprintf("gen %d%s  lease %4.1fs  conns %d new %d old", status.Generation, user, status.Lease.Left, current, old)
	}
	requests := "requests"
	if width < wideEnough {
		requests = "req"
	}
	p99 := "-"
	if second.total > 0 {
		p99 = milliseconds(second.quantile(0.99))
	}
	return fmt.Sprintf("%s  %s  %d %s  %d failed  p99 %s", clock(elapsed), who, total.requests, requests, total.failed, p99)
}

// shortUser keeps the ends of v-token-r0001-Ab3…-1763759012, which tell one user from the next.
func shortUser(user string) string {
	if len(user) <= 20 {
		return user
	}
	return user[:8] + "…" + user[len(user)-11:]
}

func clock(d time.Duration) string {
	seconds := int(d.Round(time.Second).Seconds())
	return fmt.Sprintf("%d:%02d", seconds/60, seconds%60)
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1fms", float64(d)/float64(time.Millisecond))
}
