package testbed

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// setDeathSignal lets the kernel send the signal to the child when the thread that started it ends.
func setDeathSignal(attributes *syscall.SysProcAttr, signal syscall.Signal) {
	attributes.Pdeathsig = signal
}

// waitStopped waits until every thread of a child has obeyed SIGSTOP, some of which may run on for a
// moment after the signal was sent.
func waitStopped(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED, nil)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for process %d to stop: %w", pid, err)
		}
	}
}
