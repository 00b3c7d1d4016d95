//go:build unix && !linux

package testbed

import "syscall"

// setDeathSignal does nothing: only Linux has it. Elsewhere devvault ends with its standard input, and
// the databases outlive a process that ends without Close.
func setDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}

// waitStopped does nothing: a thread may run on for a moment after SIGSTOP was sent.
func waitStopped(int) error { return nil }
