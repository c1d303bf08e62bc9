// SPDX-License-Identifier: Apache-2.0

package follow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

const (
	beginning  = 1024 // bytes that tell a file
	offsetBits = 36   // of a mark: files of up to 64 GiB
	beginBits  = 16
	inodeBits  = 12

	lookEvery  = 100 * time.Millisecond // how often a file that does not grow is looked at
	quietFor   = time.Second            // how long a file must not have grown, which has lost its name, before the next one is read
	bufferSize = 64 << 10
)

// ErrTooBig means that the file is larger than a mark can say.
var ErrTooBig = errors.New("file larger than 64 GiB")

// Follower follows one file. Its methods are for one goroutine.
type Follower struct {
	path   string
	limit  int // the longest line that is kept, in bytes
	poll   time.Duration
	quiet  time.Duration
	lost   func() // what was behind a mark is nowhere
	past   past
	file   *os.File // nil: there was none yet
	copied bool     // it is a copy: nothing is written to it
	offset int64    // behind the last whole line
	buffer []byte
	rest   []byte // what was read of a line that has no end yet
	size   int64  // of the rest in the file; more than len(rest) if it is longer than limit
	first  []byte // of the file, as far as it matters

	seam func() // a test's: between two looks at what may change meanwhile
}

// Open begins to follow a file that exists, or that will. mark is where to go on: 0 is at its beginning. limit is the longest line
// that is kept, in bytes; one byte more of a longer one is given. lost is called, on the goroutine that calls Read, when what is
// behind the mark is not there any more, neither in the file nor in one of the names that it is rotated to ("FILE.*", "FILE-*").
func Open(path string, mark uint64, limit int, lost func()) (*Follower, error) {
	f := &Follower{path: path, limit: limit, poll: lookEvery, quiet: quietFor, lost: lost, buffer: make([]byte, bufferSize), seam: func() {}}
	if mark == 0 {
		return f, f.beginAnew()
	}
	return f, f.resume(mark)
}

// Close closes the file.
func (f *Follower) Close() {
	f.past.close()
	if f.file != nil {
		f.file.Close()
		f.file = nil
	}
}

// End has a new follower begin with what is written from now on.
func (f *Follower) End() error {
	file, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return err
	}
	first := make([]byte, min(info.Size(), beginning))
	_, _ = file.ReadAt(first, 0) // if it cannot be read it is not still the same
	f.use(file, info.Size(), first, false)
	f.past.close()
	return nil
}

// Read gives each line to take, without its newline, with the mark behind it. Whenever there is nothing more it calls idle, and
// waits. It ends when ctx does, with its error, or with that of take or idle. The line is valid during the call.
func (f *Follower) Read(ctx context.Context, take func(line []byte, mark uint64) error, idle func() error) error {
	quiet := time.Duration(0)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		grown, err := f.readOn(take)
		if err != nil {
			return err
		}
		if !grown {
			if grown, err = f.moveOn(quiet, take); err != nil {
				return err
			}
		}
		if grown {
			quiet = 0
			continue
		}
		if err := idle(); err != nil {
			return err
		}
		timer := time.NewTimer(f.poll)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
			quiet += f.poll
		}
	}
}

// readOn reads what there is, and says whether there was anything. It looks after each read whether the file is still what it was: if
// it was truncated meanwhile, what was read may be of a line that is in another place. After the first read, which says nothing of
// that, it looks whether a copy has come before the file.
func (f *Follower) readOn(take func([]byte, uint64) error) (grown bool, err error) {
	if f.file == nil {
		return false, nil
	}
	for {
		at := f.offset + f.size
		n, err := f.file.ReadAt(f.buffer, at)
		f.seam()
		if n == 0 || !f.isStill(f.file) {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return grown, err
		}
		if at == 0 && f.past.known {
			earlier, err := f.successor(f.past, f.file)
			if err != nil {
				return grown, err
			}
			if earlier != nil {
				f.use(earlier, 0, nil, false)
				continue
			}
			f.past.close()
		}
		grown = true
		if at == int64(len(f.first)) && at < beginning {
			f.first = append(f.first, f.buffer[:min(n, int(beginning-at))]...)
		}
		if err := f.split(f.buffer[:n], take); err != nil {
			return grown, err
		}
	}
}

// split takes the lines out of what was read.
func (f *Follower) split(b []byte, take func([]byte, uint64) error) error {
	for {
		line, after, whole := bytes.Cut(b, []byte{'\n'})
		f.rest = append(f.rest, line[:min(len(line), f.limit+1-len(f.rest))]...)
		f.size += int64(len(line))
		if !whole {
			return nil
		}
		f.size++
		if err := f.end(take); err != nil {
			return err
		}
		b = after
	}
}

// end gives the line that is in rest.
func (f *Follower) end(take func([]byte, uint64) error) error {
	at := f.offset + f.size
	if at >= 1<<offsetBits {
		return fmt.Errorf("cannot follow %s: %w", f.path, ErrTooBig)
	}
	mark, err := f.markAt(at)
	if err != nil {
		return err
	}
	if err := take(f.rest, mark); err != nil {
		return err
	}
	f.offset, f.size, f.rest = at, 0, f.rest[:0]
	return nil
}

// moveOn goes on with what comes after the file that is read, and says whether it did. The file that has the name is the last, and
// where it is what was read, it goes on with it, unless it was truncated: then in its copy. One that has lost its name may be
// written to for a while still, until the next has lost it, too.
func (f *Follower) moveOn(quiet time.Duration, take func([]byte, uint64) error) (moved bool, err error) {
	if f.file == nil {
		return f.open(f.past)
	}
	mine, err := f.file.Stat()
	if err != nil {
		return false, err
	}
	switch info, err := os.Stat(f.path); {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, err
	case mine.Size() < f.offset+f.size || !f.isStill(f.file):
		return true, f.findCopy()
	case os.SameFile(info, mine):
		return false, nil
	}
	busy := !f.copied && quiet < f.quiet
	if f.offset+f.size == 0 && f.past.known { // nothing was read of it, so there may be a copy before it
		f.past.busy = busy
		return f.open(f.past)
	}
	at := momentOf(f.file, mine)
	next, err := f.successor(past{file: f.file, at: at, busy: busy}, nil)
	if next == nil || err != nil {
		return false, err
	}
	if f.size > 0 { // the last line has no end, and gets none
		if err := f.end(take); err != nil {
			next.Close()
			return false, err
		}
	}
	f.past.close()
	f.past, f.file = past{known: true, file: f.file, at: at}, nil // which stays open
	f.use(next, 0, nil, false)
	return true, nil
}

// open opens the file that comes first after p, and says whether there is one.
func (f *Follower) open(p past) (bool, error) {
	file, err := f.successor(p, nil)
	if file == nil || err != nil {
		return false, err
	}
	f.use(file, 0, nil, false)
	return true, nil
}

// use has file, which begins with first, be read from offset on.
func (f *Follower) use(file *os.File, offset int64, first []byte, copied bool) {
	if f.file != nil {
		f.file.Close()
	}
	f.file, f.copied, f.offset, f.size, f.rest, f.first = file, copied, offset, 0, f.rest[:0], first
}

// beginAnew has the follower begin with the file as it is, or will be.
func (f *Follower) beginAnew() error {
	all, err := f.family()
	if err != nil {
		return err
	}
	f.Close()
	f.past.known = true
	for _, m := range all {
		if m.path != f.path && m.at().compare(f.past.at) > 0 {
			f.past.at = m.at()
		}
	}
	return nil
}

// markAt is the mark for offset at in the file that is read.
func (f *Follower) markAt(at int64) (uint64, error) {
	info, err := f.file.Stat()
	if err != nil {
		return 0, err
	}
	return markOf(info, f.first, at), nil
}

// isStill says whether file begins as the one that was read.
func (f *Follower) isStill(file *os.File) bool {
	now := make([]byte, len(f.first))
	_, err := file.ReadAt(now, 0)
	return (err == nil || len(now) == 0) && bytes.Equal(now, f.first)
}

func markOf(info fs.FileInfo, first []byte, at int64) uint64 {
	return hash(fmt.Append(nil, inode(info)), inodeBits)<<(offsetBits+beginBits) | hash(first[:min(at, int64(len(first)))], beginBits)<<offsetBits | uint64(at)
}

func inode(info fs.FileInfo) uint64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}

func hash(b []byte, bits int) uint64 {
	h := fnv.New64a()
	h.Write(b)
	v := h.Sum64()
	return (v ^ v>>bits ^ v>>(2*bits)) & (1<<bits - 1)
}

// resume finds the file that mark is about.
func (f *Follower) resume(mark uint64) error {
	offset := int64(mark & (1<<offsetBits - 1))
	var first []byte
	copied := false
	file, err := f.find(func(m member, file *os.File) (ok bool) {
		first, ok = matches(file, mark, offset, true)
		return ok
	}, func(m member, file *os.File) (ok bool) {
		first, ok = matches(file, mark, offset, false)
		copied = true
		return ok && m.path != f.path // another file has its name
	})
	return f.goOn(file, offset, first, copied, err)
}

// findCopy goes on in the copy of the file that is read, which was truncated.
func (f *Follower) findCopy() error {
	file, err := f.find(func(m member, file *os.File) bool {
		return m.path != f.path && m.info.Size() >= f.offset && f.isStill(file)
	})
	return f.goOn(file, f.offset, f.first, true, err)
}

func (f *Follower) goOn(file *os.File, offset int64, first []byte, copied bool, err error) error {
	if err != nil {
		return err
	}
	if file == nil {
		f.lost()
		return f.beginAnew()
	}
	f.past.close()
	f.use(file, offset, first[:min(offset, int64(len(first)))], copied)
	return nil
}

// matches says whether mark may be about file, and how that begins.
func matches(file *os.File, mark uint64, offset int64, sameInode bool) (first []byte, ok bool) {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() < offset {
		return nil, false
	}
	first = make([]byte, min(offset, beginning))
	if _, err := file.ReadAt(first, 0); err != nil && len(first) > 0 {
		return nil, false
	}
	const inodeShift = offsetBits + beginBits
	is := markOf(info, first, offset)
	return first, is == mark || !sameInode && is&(1<<inodeShift-1) == mark&(1<<inodeShift-1)
}
