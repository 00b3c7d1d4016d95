package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// link is a network connection to one server, which can be broken. Both the pools under test and the controls use it.
type link struct {
	name  string
	proxy *toxiproxy.Proxy
}

// toxic is one way of breaking a link: what toxiproxy calls one, for one direction.
type toxic struct {
	Name       string         `json:"name"`
	Type       string         `json:"type"`
	Stream     string         `json:"stream"`
	Attributes map[string]any `json:"attributes"`
}

const (
	toClient = "downstream"
	toServer = "upstream"
)

func newLink(name, server string) (*link, error) {
	silent := zerolog.Nop()
	api := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), silent) // it does not listen
	l := &link{name: name, proxy: toxiproxy.NewProxy(api, name, "127.0.0.1:0", server)}
	if err := l.proxy.Start(); err != nil {
		return nil, fmt.Errorf("start a proxy before %s: %w", name, err)
	}
	return l, nil
}

func (l *link) address() string { return l.proxy.Listen }

// add breaks the link, connections that are open included.
func (l *link) add(toxics ...toxic) error {
	for _, t := range toxics {
		text, err := json.Marshal(t)
		if err != nil {
			return err
		}
		if _, err := l.proxy.Toxics.AddToxicJson(bytes.NewReader(text)); err != nil {
			return fmt.Errorf("break the network of %s (%s): %w", l.name, t.Type, err)
		}
	}
	return nil
}

// mend removes all toxics. Connections that were silenced are closed.
func (l *link) mend(ctx context.Context) error {
	l.proxy.Toxics.ResetToxics(ctx)
	return nil
}

// refuse closes all connections and takes no new ones, until allow.
func (l *link) refuse() { l.proxy.Stop() }

func (l *link) allow() error {
	if err := l.proxy.Start(); err != nil {
		return fmt.Errorf("mend the network of %s: %w", l.name, err)
	}
	return nil
}

func (l *link) close() { l.proxy.Stop() }

// silent drops what is sent, either way: nothing is refused, nothing answers.
func silent() []toxic {
	forever := map[string]any{"timeout": 0}
	return []toxic{{"silent-down", "timeout", toClient, forever}, {"silent-up", "timeout", toServer, forever}}
}

// slow delays every answer.
func slow(milliseconds int) toxic {
	return toxic{"slow", "latency", toClient, map[string]any{"latency": milliseconds, "jitter": milliseconds / 3}}
}

// cutting closes a connection when so much of an answer has passed.
func cutting(bytes int) toxic {
	return toxic{"cutting", "limit_data", toClient, map[string]any{"bytes": bytes}}
}
