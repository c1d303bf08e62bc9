// SPDX-License-Identifier: Apache-2.0

package scout

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/test"
)

// TestDeclaredMayTakeLonger: whose paths take long has to wait. What an administrator declared does so later, as every reading counts; but it
// does, or a file system that hangs would keep all static sinks for as often as there are some.
func TestDeclaredMayTakeLonger(t *testing.T) {
	s := New(Config{Unmapped: NoUser})
	defer s.Close()
	for who, most := range map[uint32]int{7: 1, Declared: 5} {
		for n := range most + 2 {
			err := s.begin(who)
			if refused := n >= most; errors.Is(err, ErrBusy) != refused {
				t.Errorf("user %d, question %d: %v", who, n, err)
			}
			if err == nil {
				s.end(who, 2*patience+patience/10, true) // a little is paid back meanwhile
			}
		}
	}
}

// TestFindOpensFoldersOnly: where a folder was there may be something now whose opening waits for ever, or does something.
func TestFindOpensFoldersOnly(t *testing.T) {
	s := New(Config{Unmapped: NoUser})
	defer s.Close()
	fifo := filepath.Join(test.Folder(t), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	found := make(chan error, 1)
	go func() {
		_, err := s.Find(fifo, 1, uint32(os.Geteuid()))
		found <- err
	}()
	select {
	case err := <-found:
		if err == nil {
			t.Error("a socket may be in a FIFO")
		}
	case <-time.After(test.Within):
		t.Error("it waits for a writer")
		if fd, err := unix.Open(fifo, unix.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
			unix.Close(fd)
		}
	}
}
