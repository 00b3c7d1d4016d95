package main

import (
	"os"
	"os/signal"
	"syscall"
	"unsafe"
)

// takeTerminal makes this process a foreground process group of its own, so that Ctrl-C reaches it alone. Otherwise
// make hears it too, and then ends with a code of its own in place of ours. giveBack undoes it.
func takeTerminal() (giveBack func()) {
	nothing := func() {}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nothing // there is no terminal
	}
	group, err := foregroundGroup(tty)
	if err != nil || group != syscall.Getpgrp() || group == os.Getpid() {
		_ = tty.Close()
		return nothing // we run in the background, or a shell has given us a group already
	}
	// Without this, changing the terminal from the background would stop us; and Ctrl-Z would stop us behind make's
	// back, with nobody left in the foreground.
	signal.Ignore(syscall.SIGTTOU, syscall.SIGTSTP)
	if err := syscall.Setpgid(0, 0); err != nil {
		_ = tty.Close()
		return nothing
	}
	if err := setForegroundGroup(tty, os.Getpid()); err != nil {
		_ = syscall.Setpgid(0, group)
		_ = tty.Close()
		return nothing
	}
	return func() { _ = setForegroundGroup(tty, group) } // an error means that the terminal is gone
}

func foregroundGroup(tty *os.File) (int, error) {
	var group int32
	err := ioctl(tty, syscall.TIOCGPGRP, unsafe.Pointer(&group))
	return int(group), err
}

func setForegroundGroup(tty *os.File, group int) error {
	number := int32(group)
	return ioctl(tty, syscall.TIOCSPGRP, unsafe.Pointer(&number))
}

// terminalWidth returns the number of columns, and whether the file is a terminal.
func terminalWidth(file *os.File) (int, bool) {
	var size struct{ rows, columns, x, y uint16 }
	if err := ioctl(file, syscall.TIOCGWINSZ, unsafe.Pointer(&size)); err != nil {
		return 0, false
	}
	if size.columns == 0 {
		return 80, true
	}
	return int(size.columns), true
}

func ioctl(file *os.File, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, file.Fd(), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}
