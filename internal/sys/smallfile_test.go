// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestReadSmallFile: nothing that is no small file is read, and nothing is waited for.
func TestReadSmallFile(t *testing.T) {
	dir, err := os.MkdirTemp("", "mm")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	const limit = 1000
	for name, size := range map[string]int{"empty": 0, "full": limit, "large": limit + 1} {
		if err := os.WriteFile(dir+"/"+name, []byte(strings.Repeat("x", size)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// A hole of a terabyte: reading it to its end would take for ever.
	if err := os.Truncate(dir+"/large", 1<<40); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(dir+"/fifo", 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", dir+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	os.Symlink(dir+"/full", dir+"/link")
	os.Symlink("/dev/zero", dir+"/zero")
	for name, want := range map[string]error{
		"empty": nil, "full": nil, "link": nil, "large": ErrNotSmallFile, "fifo": ErrNotSmallFile, "socket": ErrNotSmallFile,
		"zero": ErrNotSmallFile, ".": ErrNotSmallFile, "nothing": fs.ErrNotExist,
	} {
		done := make(chan error, 1)
		go func() {
			text, err := ReadSmallFile(dir+"/"+name, limit)
			if err == nil && len(text) > limit {
				err = errors.New("too long")
			}
			done <- err
		}()
		select {
		case err := <-done:
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: is waited for", name)
		}
	}
}
