//go:build unix && !linux

package testbed

import "syscall"

// setDeathSignal does nothing: only Linux has it. Elsewhere devvault ends with its standard input, and
// the databases outlive a process that ends without Close.
func setDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}
