// SPDX-License-Identifier: Apache-2.0

package follow

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"
)

// rename rotates by rename, at a time that is so many seconds later; nobody has a new file yet.
func (r *reader) rename(n int) {
	r.t.Helper()
	to := fmt.Sprint(r.path, ".", n)
	must(r.t, os.Rename(r.path, to))
	later(r.t, to, n)
}

// truncate rotates by copy and truncation.
func (r *reader) truncate(n int) {
	r.t.Helper()
	to := fmt.Sprint(r.path, ".", n)
	text, err := os.ReadFile(r.path)
	must(r.t, err)
	must(r.t, os.WriteFile(to, text, 0o644))
	later(r.t, to, n)
	must(r.t, os.Truncate(r.path, 0))
}

// readAfter opens the followed file at the mark, and reads when opened was called, up to so many lines in all. When it has nothing more
// to read the first time, it is held up, and held is called.
func (r *reader) readAfter(opened, held func(), lines int) {
	r.t.Helper()
	f, err := Open(r.path, r.mark, 1000, func() { r.lost++ })
	must(r.t, err)
	defer f.Close()
	f.poll, f.quiet = time.Millisecond, 5*time.Millisecond
	opened()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err = f.Read(ctx, func(line []byte, mark uint64) error {
		r.lines, r.mark = append(r.lines, string(line)), mark
		if len(r.lines) == lines {
			return errKilled
		}
		return nil
	}, func() error {
		held()
		held = func() {}
		return nil
	})
	if !errors.Is(err, errKilled) {
		r.t.Errorf("%v after %q", err, r.lines)
	}
}

// read is readAfter of what is there, while nothing happens.
func (r *reader) read(lines int) {
	r.t.Helper()
	r.readAfter(func() {}, func() {}, lines)
}

var rotations = map[string]func(*reader, int){"rename": (*reader).rename, "truncate": (*reader).truncate}

// TestRotatedWhileResumed: what is rotated after a follower has found its place and before it gets to the file is read where it is
// then.
func TestRotatedWhileResumed(t *testing.T) {
	for name, rotate := range rotations {
		t.Run(name, func(t *testing.T) {
			r := newReader(t)
			write(t, r.path, "a\n")
			r.read(1)
			r.truncate(1)
			write(t, r.path, "b\nc\n")
			r.readAfter(func() {
				rotate(r, 2)
				write(t, r.path, "d\n")
				rotate(r, 3)
				write(t, r.path, "e\n")
			}, func() {}, 5)
			r.has("a", "b", "c", "d", "e")
		})
	}
}

// TestRotatedWhileHeldUp: a follower that waits for its channel for so long that there are several rotations.
func TestRotatedWhileHeldUp(t *testing.T) {
	for name, rotate := range rotations {
		t.Run(name, func(t *testing.T) {
			r := newReader(t)
			write(t, r.path, "a\n")
			r.readAfter(func() {}, func() {
				rotate(r, 1)
				write(t, r.path, "b\n")
				rotate(r, 2)
				write(t, r.path, "c\n")
				rotate(r, 3)
				write(t, r.path, "d\n")
			}, 4)
			r.has("a", "b", "c", "d")
		})
	}
}

// TestTruncatedBeforeRead: nothing was read of the file yet but the beginning of a line, or nothing at all.
func TestTruncatedBeforeRead(t *testing.T) {
	for _, text := range []string{"", "b, but"} {
		r := newReader(t)
		write(t, r.path, "a\n")
		f, err := Open(r.path, 0, 1000, func() { r.lost++ })
		must(t, err)
		f.poll, f.quiet = time.Millisecond, 0
		for step := 0; ; step++ {
			err := f.Read(context.Background(), func(line []byte, mark uint64) error {
				r.lines = append(r.lines, string(line))
				return nil
			}, func() error { return errKilled })
			if !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			if step == 3 {
				break
			}
			switch step {
			case 0:
				r.truncate(1)
				write(t, r.path, text)
			case 1:
				write(t, r.path, "b"[min(len(text), 1):]+" not all\n")
				r.truncate(2)
				write(t, r.path, "c\n")
			}
		}
		f.Close()
		r.has("a", []string{"b not all", "b, but not all"}[min(len(text), 1)], "c")
	}
}

// TestWriterIsLate: a follower that is started again in a file that has lost its name waits for what comes to it still, as one that was
// there does.
func TestWriterIsLate(t *testing.T) {
	r := newReader(t)
	write(t, r.path, "a\n")
	r.read(1)
	must(t, os.Rename(r.path, r.path+".1"))
	write(t, r.path, "c\n") // of another writer
	r.readAfter(func() {}, func() { write(t, r.path+".1", "b\n") }, 3)
	r.has("a", "b", "c")
}

// TestTwoRenamed: what is renamed is left at once when the next was renamed, too; that one is stayed with.
func TestTwoRenamed(t *testing.T) {
	r := newReader(t)
	write(t, r.path, "a\n")
	r.rename(1)
	write(t, r.path, "b\n")
	r.rename(2)
	write(t, r.path, "c\n")
	f, err := Open(r.path, 0, 1000, func() { r.lost++ })
	must(t, err)
	defer f.Close()
	file, err := os.Open(r.path + ".1")
	must(t, err)
	f.use(file, 0, nil, false)
	f.poll, f.quiet = time.Millisecond, time.Hour
	idle := 0
	err = f.Read(context.Background(), func(line []byte, _ uint64) error {
		r.lines = append(r.lines, string(line))
		return nil
	}, func() error {
		if idle++; idle == 5 {
			return errKilled
		}
		return nil
	})
	if !errors.Is(err, errKilled) {
		t.Error(err)
	}
	r.has("a", "b")
}

// TestSameTick: of files that were written to last in the same tick of the kernel's clock the one that was made first is read first,
// whatever it is called. logrotate calls FILE-DATE.backup what a writer has made between its own rename and its own creation.
func TestSameTick(t *testing.T) {
	for _, gone := range []bool{false, true} {
		t.Run(fmt.Sprint("gone ", gone), func(t *testing.T) {
			r := newReader(t)
			at := time.Now()
			same := func(text, name string) {
				write(t, r.path, text)
				must(t, os.Rename(r.path, r.path+name))
				must(t, os.Chtimes(r.path+name, at, at))
				time.Sleep(50 * time.Millisecond) // the next one is made in another tick
			}
			write(t, r.path, "a\n")
			r.readAfter(func() {}, func() {
				same("", ".6")
				same("b\n", "-2026120102.backup")
				same("c\n", ".5")
				if gone {
					must(t, os.Remove(r.path+".6"))
				}
				write(t, r.path, "d\n")
			}, 4)
			r.has("a", "b", "c", "d")
		})
	}
}

// TestPacked: of what was compressed before it was read it is told that it is missing; the rest is read.
func TestPacked(t *testing.T) {
	r := newReader(t)
	write(t, r.path, "a\n")
	r.read(1)
	r.rename(-40)
	write(t, r.path, "b\n")
	r.rename(-30)
	must(t, os.Rename(r.path+".-30", r.path+".-30.gz"))
	write(t, r.path, "c\n")
	r.rename(-20)
	write(t, r.path, "d\n")
	r.read(3)
	if r.lost != 1 || !slices.Equal(r.lines, []string{"a", "c", "d"}) {
		t.Errorf("%d times lost, %q", r.lost, r.lines)
	}
}

// TestCopies: a copy of what is read, or was, is not what comes next.
func TestCopies(t *testing.T) {
	r := newReader(t)
	write(t, r.path, "a\nb\n")
	r.read(1)
	r.rename(1)
	text, err := os.ReadFile(r.path + ".1")
	must(t, err)
	must(t, os.WriteFile(r.path+".saved", text, 0o644))
	later(t, r.path+".saved", 2)
	write(t, r.path, "c\n")
	must(t, os.WriteFile(r.path+"-now", []byte("c\n"), 0o644))
	later(t, r.path+"-now", 3)
	r.read(3)
	write(t, r.path, "d\n")
	r.read(4)
	r.has("a", "b", "c", "d")
}

// churn writes and rotates, one thing after the other, whenever it is asked to.
type churn struct {
	*reader
	rnd    *rand.Rand
	want   []string
	clock  int
	killed int
}

// act does nothing, mostly, or anything that may happen at this moment.
func (c *churn) act() {
	if c.rnd.IntN(3) > 0 || len(c.want) > 100 {
		return
	}
	switch _, err := os.Stat(c.path); {
	case c.rnd.IntN(2) == 0 || err != nil:
		text := ""
		for range c.rnd.IntN(3) + 1 {
			line := fmt.Sprintf("line %d of what is written", len(c.want))
			c.want = append(c.want, line)
			text += line + "\n"
		}
		write(c.t, c.path, text)
		c.clock++
		later(c.t, c.path, c.clock)
	case c.rnd.IntN(2) == 0:
		c.clock++
		must(c.t, os.Rename(c.path, fmt.Sprint(c.path, ".", c.clock)))
	default:
		c.clock++
		c.truncate(c.clock)
		later(c.t, c.path, c.clock)
	}
}

// TestRotatedAtAnyMoment: whatever is rotated between any two looks of the follower, and wherever it is killed, each line comes once.
func TestRotatedAtAnyMoment(t *testing.T) {
	for seed := range uint64(30) {
		c := &churn{reader: newReader(t), rnd: rand.New(rand.NewPCG(seed, 1))}
		write(t, c.path, "the first\n")
		c.want = append(c.want, "the first")
		for idle := 0; idle <= 5; {
			f, err := Open(c.path, c.mark, 1000, func() { c.lost++ })
			must(t, err)
			f.poll, f.quiet, f.seam = 0, 0, c.act
			err = f.Read(context.Background(), func(line []byte, mark uint64) error {
				if c.mark > 0 && c.rnd.IntN(20) == 0 {
					return errKilled
				}
				idle = 0
				c.lines, c.mark = append(c.lines, string(line)), mark
				c.act()
				return nil
			}, func() error {
				c.act()
				if idle++; len(c.want) <= 100 {
					idle = 0
				}
				if idle > 5 || c.mark > 0 && c.rnd.IntN(20) == 0 {
					return errKilled
				}
				return nil
			})
			f.Close()
			if c.killed++; !errors.Is(err, errKilled) {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		for i := range c.want {
			if i >= len(c.lines) || c.lines[i] != c.want[i] {
				t.Fatalf("seed %d: %q instead of %q, %d of %d", seed, c.lines[i:min(i+3, len(c.lines))], c.want[i], i, len(c.want))
			}
		}
		if len(c.lines) != len(c.want) || c.lost > 0 {
			t.Fatalf("seed %d: %d lines of %d, %d times lost", seed, len(c.lines), len(c.want), c.lost)
		}
	}
}
