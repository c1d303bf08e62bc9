// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/test"
)

// terminal makes a pseudo-terminal: what is written to the slave can be read from the screen. Without output
// processing, so that a newline stays one.
func terminal(t *testing.T) (screen, slave *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("this host has no pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { screen.Close() })
	number, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("this host has no pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { slave.Close() })
	settings, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	settings.Oflag &^= unix.OPOST
	if err := unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, settings); err != nil {
		t.Fatal(err)
	}
	return screen, slave
}

// watch collects what appears on the screen.
func watch(screen *os.File) *test.Output {
	var shown test.Output
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := screen.Read(buffer)
			if err != nil {
				return // closed
			}
			shown.Write(buffer[:n])
		}
	}()
	return &shown
}

// TestTerminalsAreTold from the other files and devices that can stand in their place.
func TestTerminalsAreTold(t *testing.T) {
	_, slave := terminal(t)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file, err := os.Open("main_test.go")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, test := range []struct {
		f    *os.File
		want bool
	}{{slave, true}, {reader, false}, {writer, false}, {null, false}, {file, false}} {
		if got := isTerminal(test.f); got != test.want {
			t.Errorf("%s: %v", test.f.Name(), got)
		}
	}
}
