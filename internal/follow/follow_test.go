// SPDX-License-Identifier: Apache-2.0

package follow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// reader is a follower that is stopped and made anew at will, as a program that is killed and started again.
type reader struct {
	t     *testing.T
	path  string
	lines []string
	mark  uint64
	lost  int
	stop  context.CancelFunc
	ended chan error
	line  chan struct{}
}

var errKilled = errors.New("killed")

// start begins where the last line that was taken ended; after n lines it dies, before it has taken the next one.
func (r *reader) start(n int) {
	r.t.Helper()
	f, err := Open(r.path, r.mark, 1000, func() { r.lost++ })
	if err != nil {
		r.t.Fatal(err)
	}
	f.poll, f.quiet = time.Millisecond, 5*time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	r.stop, r.ended = cancel, make(chan error, 1)
	go func() {
		defer f.Close()
		r.ended <- f.Read(ctx, func(line []byte, mark uint64) error {
			if n == 0 {
				return errKilled
			}
			n--
			r.lines, r.mark = append(r.lines, string(line)), mark
			r.line <- struct{}{}
			return nil
		}, func() error { return nil })
	}()
}

func (r *reader) wait(n int) {
	r.t.Helper()
	timeout := time.After(5 * time.Second)
	for range n {
		select {
		case <-r.line:
		case <-timeout:
			r.t.Fatalf("no more lines come after %q", r.lines)
		}
	}
}

func (r *reader) kill() {
	r.t.Helper()
	r.stop()
	<-r.ended
}

func newReader(t *testing.T) *reader {
	return &reader{t: t, path: filepath.Join(t.TempDir(), "log"), line: make(chan struct{}, 1000)}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = io.WriteString(f, text)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (r *reader) has(want ...string) {
	r.t.Helper()
	if !slices.Equal(r.lines, want) || r.lost != 0 {
		r.t.Errorf("read %q, want %q; %d times lost", r.lines, want, r.lost)
	}
}

// TestLinesAsTheyCome: also one that is written in two pieces, and an empty one.
func TestLinesAsTheyCome(t *testing.T) {
	r := newReader(t)
	r.start(-1)
	write(t, r.path, "a\nb")
	r.wait(1)
	write(t, r.path, "c\n\nd\n")
	r.wait(3)
	r.kill()
	r.has("a", "bc", "", "d")
	write(t, r.path, "e\nunfinished")
	r.start(-1)
	r.wait(1)
	r.kill()
	write(t, r.path, " line\n")
	r.start(-1)
	r.wait(1)
	r.kill()
	r.has("a", "bc", "", "d", "e", "unfinished line")
}

// TestRenamed: rotation by rename, while it is read, and while nobody reads, once and several times.
func TestRenamed(t *testing.T) {
	r := newReader(t)
	write(t, r.path, "a\n")
	r.start(-1)
	r.wait(1)
	must(t, os.Rename(r.path, r.path+".1"))
	write(t, r.path+".1", "b\n") // the writer has not noticed yet
	r.wait(1)
	write(t, r.path, "c\n")
	r.wait(1)
	r.kill()
	write(t, r.path, "d\n")
	must(t, os.Rename(r.path+".1", r.path+".2"))
	must(t, os.Rename(r.path, r.path+".1"))
	later(t, r.path+".1", 1)
	write(t, r.path, "e\n")
	must(t, os.Rename(r.path+".1", r.path+"-20260101"))
	must(t, os.Rename(r.path, r.path+".1"))
	later(t, r.path+".1", 2)
	write(t, r.path, "f\n")
	r.start(-1)
	r.wait(3)
	r.kill()
	r.has("a", "b", "c", "d", "e", "f")
}

// TestTruncated: rotation by copy and truncation, likewise.
func TestTruncated(t *testing.T) {
	r := newReader(t)
	write(t, r.path, "a\nb\n")
	r.start(-1)
	r.wait(2)
	rotate := func(n int) {
		text, err := os.ReadFile(r.path)
		must(t, err)
		must(t, os.WriteFile(fmt.Sprint(r.path, ".", n), text, 0o644))
		must(t, os.Truncate(r.path, 0))
	}
	rotate(1)
	write(t, r.path, "c, and it is longer than all before\n") // at once
	r.wait(1)
	r.kill()
	write(t, r.path, "d\n")
	rotate(2)
	write(t, r.path, "e\n")
	r.start(-1)
	r.wait(2)
	r.kill()
	r.has("a", "b", "c, and it is longer than all before", "d", "e")
}

// TestGone: what is nowhere is told, once.
func TestGone(t *testing.T) {
	r := newReader(t)
	write(t, r.path, "a\nb\n")
	r.start(1)
	r.wait(1)
	r.kill()
	must(t, os.Remove(r.path))
	write(t, r.path, "another\n")
	r.start(-1)
	r.wait(1)
	r.kill()
	if r.lost != 1 || !slices.Equal(r.lines, []string{"a", "another"}) {
		t.Errorf("%d times lost, %q", r.lost, r.lines)
	}
}

// TestLongLines: of one that is too long a byte more than the limit is given, and nothing is kept.
func TestLongLines(t *testing.T) {
	r := newReader(t)
	write(t, r.path, strings.Repeat("x", 300_000)+"\nb\n")
	r.start(-1)
	r.wait(2)
	r.kill()
	if len(r.lines[0]) != 1001 || r.lines[1] != "b" {
		t.Errorf("%d bytes, %q", len(r.lines[0]), r.lines[1])
	}
}

// TestKilledAfterEachLine: with rotations in between.
func TestKilledAfterEachLine(t *testing.T) {
	r := newReader(t)
	var want []string
	for i := range 60 {
		line := fmt.Sprintf("line %d of a log that is rotated", i)
		want = append(want, line)
		write(t, r.path, line+"\n")
		if i == 0 {
			r.start(-1)
			r.wait(1)
			r.kill()
		}
		switch i % 10 {
		case 3:
			must(t, os.Rename(r.path, fmt.Sprint(r.path, ".", 100+i)))
			later(t, fmt.Sprint(r.path, ".", 100+i), i-100)
		case 7:
			r.start(2)
			if err := <-r.ended; !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			r.wait(2)
			r.stop()
		}
	}
	left := len(want) - len(r.lines)
	r.start(-1)
	r.wait(left)
	r.kill()
	r.has(want...)
}

func later(t *testing.T, path string, seconds int) {
	t.Helper()
	at := time.Now().Add(time.Duration(seconds) * time.Second)
	must(t, os.Chtimes(path, at, at))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
