package testbed

import "syscall"

// setDeathSignal lets the kernel send the signal to the child when the thread that started it ends.
func setDeathSignal(attributes *syscall.SysProcAttr, signal syscall.Signal) {
	attributes.Pdeathsig = signal
}
