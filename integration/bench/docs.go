package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// document is the report as a file, with what a reader has to know who was not there.
type document struct {
	options
	args    []string
	text    bytes.Buffer // the report
	images  map[string][]byte
	servers []string // and their versions
}

func newDocument(o options, args []string) *document {
	return &document{options: o, args: args, images: make(map[string][]byte)}
}

// wanted reports that somebody is going to read it.
func (d *document) wanted() bool { return d != nil && d.docs != "" }

// title is the heading, and name that of the file, without an ending.
func (d *document) title() (title, name string) {
	title, name = d.subject()
	if d.name != "" {
		name += "-" + d.name
	}
	return title, name
}

func (d *document) subject() (title, name string) {
	database, file := d.db.name()
	switch d.part {
	case "growth":
		return "Cost of growth", "growth"
	case "vault":
		title, name = "Requests at Vault, with "+database, "vault"
		if file != "postgresql" {
			name += "-" + file
		}
	default:
		title, name = d.db.ours()+" on "+database, file
	}
	if d.tls {
		return title + d.over(), name + "-tls"
	}
	return title, name
}

// add puts an image beside the document and returns what shows it there.
func (d *document) add(suffix, alt string, png []byte) string {
	_, name := d.title()
	name += "-" + suffix + ".png"
	d.images[name] = png
	return fmt.Sprintf("![%s](%s)", alt, name)
}

// write writes what there is, if it is wanted and there is a report.
func (d *document) write() error {
	if !d.wanted() || d.text.Len() == 0 {
		return nil
	}
	if err := os.MkdirAll(d.docs, 0o755); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	_, name := d.title()
	files := map[string][]byte{name + ".md": []byte(d.head() + strings.TrimRight(d.text.String(), "\n") + "\n")}
	for name, image := range d.images {
		files[name] = image
	}
	var errs []error
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(d.docs, name), content, 0o644); err != nil {
			errs = append(errs, fmt.Errorf("write the report: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (d *document) head() string {
	var s strings.Builder
	title, _ := d.title()
	fmt.Fprintf(&s, "# %s\n\n", title)
	fmt.Fprintf(&s, "Measured on %s by\n\n    %s\n\n", time.Now().UTC().Format("2 January 2006"), commandLine(d.args))
	for _, line := range append(machine(), d.servers...) {
		fmt.Fprintf(&s, "- %s\n", line)
	}
	if d.part == "rotation" || d.part == "all" {
		fmt.Fprint(&s, "\nCompared are:\n\n")
		for _, c := range contenders(d.db) {
			if d.only.MatchString(c.name) {
				fmt.Fprintf(&s, "- *%s*: %s\n", c.name, c.how)
			}
		}
	}
	return s.String()
}

// describe asks the servers what they are, where that is going to be read.
func (e *env) describe(ctx context.Context) error {
	if !e.doc.wanted() {
		return nil
	}
	health, err := e.bed.Vault.Client.Sys().HealthWithContext(ctx)
	if err != nil {
		return fmt.Errorf("ask for Vault's version: %w", err)
	}
	version, err := e.db.version(ctx, e.bed)
	if err != nil {
		return fmt.Errorf("ask for the database's version: %w", err)
	}
	name, _ := e.db.name()
	e.doc.servers = append(drivers(), name+" "+version+" and Vault "+health.Version+", on this one machine, as is the load")
	return nil
}
