package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"

	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/rotationhttp"
	"github.com/vaultpool/vaultpool/rotation/rotationotel"
)

// mountOperators adds what those who run the service look at:
//
//	/vaultpool/   the status page of the credentials; /vaultpool/status is the same in JSON
//	/metrics      for Prometheus
//	/healthz      200 while the process is alive
//	/readyz       200 while the database can be logged in to; when it cannot, a restart would not help
//
// There are names of users and addresses in it: a service that strangers reach has these at an address of their own
// (-operators-listen).
//
// The caller calls stop when it serves no more.
func mountOperators(mux *http.ServeMux, rotator *rotation.Rotator, allowRotate bool) (stop func() error, err error) {
	registry := prometheus.NewRegistry()
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(registry))
	if err != nil {
		return nil, fmt.Errorf("export metrics to Prometheus: %w", err)
	}
	provider := metric.NewMeterProvider(metric.WithReader(exporter)) // a service's own metrics go to the same
	stopMetrics, err := rotationotel.Instrument(rotator, rotationotel.Config{MeterProvider: provider})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("measure the credentials: %w", err), provider.Shutdown(context.Background()))
	}
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))

	pages := rotationhttp.Handler(rotator, rotationhttp.Config{AllowRotate: allowRotate})
	mux.Handle("/vaultpool/", http.StripPrefix("/vaultpool", pages))
	mux.Handle("GET /healthz", pages)
	mux.Handle("GET /readyz", pages)
	return func() error {
		stopMetrics()
		return provider.Shutdown(context.Background())
	}, nil
}
