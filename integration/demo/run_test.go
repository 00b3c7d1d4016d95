package main

import (
	"bufio"
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// The demo itself, on real servers, stopped as by Ctrl-C while a rotation is under way: the new credential is in place
// and the old one's connections are being replaced. No request may fail, and nothing may be left.
func TestStoppedInMidRotation(t *testing.T) {
	runtime.LockOSThread() // as in main: the service ends with the thread that started it
	defer runtime.UnlockOSThread()
	out, screenOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	screen := newScreen(screenOut)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	stopped := errors.New("stopped in mid-rotation")
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			t.Log(lines.Text())
			if strings.Contains(lines.Text(), " draining ") {
				cancel(stopped)
			}
		}
	}()

	report, err := runDemo(ctx, 5*time.Minute, screen)
	screen.close()
	_ = screenOut.Close()
	<-read
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report.text())
	if report.reason != stopped.Error() {
		t.Errorf("it ended because %s, without a rotation", report.reason)
	}
	for _, problem := range report.problems() {
		t.Error(problem)
	}
	if report.rotations != 1 || report.renewals == 0 {
		t.Errorf("%d rotations and %d renewals: want 1, and at least 1", report.rotations, report.renewals)
	}
}
