// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// IsTerminal tells whether fd is a terminal (isatty(3)).
func IsTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

// TerminalSize is how many columns and rows the terminal fd has (TIOCGWINSZ, tty_ioctl(4)); 0 and 0 if it is none, or
// nobody has told the kernel.
func TerminalSize(fd int) (columns, rows int) {
	size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0
	}
	return int(size.Col), int(size.Row)
}

// KeyByKey has the terminal fd hand over every key at once, and not show it (termios(3), ICANON and ECHO). Keys that make
// signals go on doing so. restore makes it as it was. In a background process either call stops the process (SIGTTOU),
// which is what a shell expects.
func KeyByKey(fd int) (restore func(), err error) {
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("cannot read the settings of the terminal: %w", os.NewSyscallError("ioctl", err))
	}
	now := *before
	now.Lflag &^= unix.ICANON | unix.ECHO
	now.Cc[unix.VMIN], now.Cc[unix.VTIME] = 1, 0
	if err := setTerminal(fd, &now); err != nil {
		return nil, err
	}
	return func() { _ = setTerminal(fd, before) }, nil
}

func setTerminal(fd int, settings *unix.Termios) error {
	for {
		err := unix.IoctlSetTermios(fd, unix.TCSETS, settings)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot set the terminal: %w", os.NewSyscallError("ioctl", err))
		}
		return nil
	}
}
