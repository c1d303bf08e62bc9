// SPDX-License-Identifier: Apache-2.0

package follow

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/internal/sys"
)

// The family of a followed file is itself and what it was rotated to. What a follower reads next is found in the family as it is
// then: whatever it had found out earlier, there may have been rotations since, while it was held up.

const looks = 100 // at a folder, before it is believed that it does not hold still

// ErrRestless means that the files beside the followed one change so fast that their order cannot be told.
var ErrRestless = errors.New("the files beside it change all the time")

// packed are the ends of names that say that a file is compressed.
var packed = []string{".gz", ".bz2", ".xz", ".zst", ".lz4", ".lzma", ".Z", ".zip"}

// member is one of the family.
type member struct {
	path string
	info fs.FileInfo
	born time.Time // zero: not known
}

// moment is a file's place in the order of the family: when it was written to last, and of two files with the same time, which is as
// fine as the kernel's tick, when it was made: what came later was made when the other had lost the name. A copy is made later than
// what goes on under the name, and is taken for the later one if all of that was written, and rotated, in the tick of the copying.
type moment struct{ written, born time.Time }

func (a moment) compare(b moment) int {
	return cmp.Or(a.written.Compare(b.written), a.born.Compare(b.born))
}

func (m member) at() moment { return moment{m.info.ModTime(), m.born} }

// past is what was read before: everything up to the file, or to at.
type past struct {
	known bool
	file  *os.File // open, so that no other file gets its inode
	at    moment
	busy  bool // it may be written to still, as long as the followed file is what comes next
}

func (p *past) close() {
	if p.file != nil {
		p.file.Close()
	}
	*p = past{}
}

// family are the files that the followed one was rotated to, in the order of their moments, and then itself, if it is
// there, all at one moment: between two looks that agree.
func (f *Follower) family() ([]member, error) {
	var before []member
	for n := range looks {
		all, err := f.look()
		if err != nil {
			return nil, err
		}
		if n > 0 && sameMembers(all, before) {
			return all, nil
		}
		before = all
	}
	return nil, fmt.Errorf("cannot follow %s: %w", f.path, ErrRestless)
}

func sameMembers(a, b []member) bool {
	return slices.EqualFunc(a, b, func(a, b member) bool { return a.path == b.path && os.SameFile(a.info, b.info) && a.born.Equal(b.born) })
}

// look is family that may mix what was at one moment and at another.
func (f *Follower) look() (all []member, err error) {
	dir, name := filepath.Split(f.path)
	entries, err := os.ReadDir(filepath.Clean(filepath.Join(dir, ".")))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if n := e.Name(); len(n) <= len(name)+1 || n[:len(name)] != name || n[len(name)] != '.' && n[len(name)] != '-' {
			continue
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			path := filepath.Join(dir, e.Name())
			all = append(all, member{path, info, born(path, info)})
		}
	}
	slices.SortStableFunc(all, func(a, b member) int { return a.at().compare(b.at()) })
	info, err := os.Stat(f.path)
	switch {
	case err == nil:
		all = append(all, member{f.path, info, time.Time{}}) // the last, whenever it was made
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return all, nil
}

// born is when the file at path was made; zero if that is not known, or another than info tells of has come there.
func born(path string, info fs.FileInfo) time.Time {
	at, id := sys.Birth(path)
	if s, ok := info.Sys().(*syscall.Stat_t); !ok || id != (sys.FileID{Dev: uint64(s.Dev), Ino: s.Ino}) {
		return time.Time{}
	}
	return at
}

// momentOf is the place of an open file.
func momentOf(file *os.File, info fs.FileInfo) moment {
	return moment{info.ModTime(), sys.BirthOf(int(file.Fd()))}
}

// successor opens the file that comes first after p and has something in it; nil: there is none yet, or it is mine.
func (f *Follower) successor(p past, mine *os.File) (*os.File, error) {
	for range looks {
		all, err := f.family()
		if err != nil {
			return nil, err
		}
		next, missed, err := f.after(all, p, mine)
		if next < 0 || err != nil {
			return nil, err
		}
		f.seam()
		file, err := all[next].open()
		if errors.Is(err, fs.ErrNotExist) {
			continue // rotated on
		}
		if err != nil {
			return nil, err
		}
		if missed {
			f.lost()
		}
		return file, nil
	}
	return nil, fmt.Errorf("cannot follow %s: %w", f.path, ErrRestless)
}

// after is which of the family comes first after p; -1: none, or mine. missed says that something was in between that cannot be read.
func (f *Follower) after(all []member, p past, mine *os.File) (next int, missed bool, err error) {
	was, err := stat(p.file)
	if err != nil {
		return -1, false, err
	}
	is, err := stat(mine)
	if err != nil {
		return -1, false, err
	}
	start, there := -1, false
	for i, m := range all {
		if os.SameFile(m.info, was) {
			start = i
		}
		there = there || os.SameFile(m.info, is)
	}
	if mine != nil && !there {
		return -1, false, nil
	}
	for i, m := range all {
		switch {
		case os.SameFile(m.info, is):
			return -1, false, nil
		case m.info.Size() == 0, i <= start:
		case m.path == f.path && p.busy:
			return -1, false, nil
		case m.path == f.path:
			return i, missed, nil
		case start < 0 && m.at().compare(p.at) <= 0:
		case slices.ContainsFunc(packed, func(end string) bool { return strings.HasSuffix(m.path, end) }):
			missed = missed || time.Since(m.info.ModTime()) > quietFor // else it is being made, of something older
		case m.isCopyOf(p.file), f.isCopyOfNamed(all, m):
		default:
			return i, missed, nil
		}
	}
	return -1, false, nil
}

// stat is what file is, and nothing that is any file for none.
func stat(file *os.File) (fs.FileInfo, error) {
	if file == nil {
		return nil, nil
	}
	return file.Stat()
}

// isCopyOfNamed says whether m is a copy of what has the name, and so not before it. It may not be truncated yet.
func (f *Follower) isCopyOfNamed(all []member, m member) bool {
	last := all[len(all)-1]
	if last.path != f.path {
		return false
	}
	file, err := last.open()
	if err != nil {
		return false
	}
	defer file.Close()
	return m.isCopyOf(file)
}

// isCopyOf says whether m is a copy of file, or of its beginning.
func (m member) isCopyOf(file *os.File) bool {
	if file == nil {
		return false
	}
	mine, err := m.open()
	if err != nil {
		return false
	}
	defer mine.Close()
	size := min(m.info.Size(), beginning)
	a, errA := io.ReadAll(io.NewSectionReader(mine, 0, size))
	b, errB := io.ReadAll(io.NewSectionReader(file, 0, size))
	info, err := file.Stat() // after its beginning was read: what has been truncated meanwhile is smaller
	return errors.Join(err, errA, errB) == nil && m.info.Size() <= info.Size() && bytes.Equal(a, b)
}

// open opens m, or says that it is not there any more: then it may have another name.
func (m member) open() (*os.File, error) {
	file, err := os.Open(m.path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !os.SameFile(info, m.info) {
		err = fs.ErrNotExist
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// find opens the one of the family that fits the first of these, or else the second, newest first; nil if there is none.
func (f *Follower) find(fits ...func(member, *os.File) bool) (*os.File, error) {
	var before []member
	for n := range looks {
		all, err := f.family()
		if err != nil {
			return nil, err
		}
		f.seam()
		file, whole := search(all, fits)
		if file != nil || n > 0 && whole && sameMembers(all, before) {
			return file, nil
		}
		before = all
	}
	return nil, fmt.Errorf("cannot follow %s: %w", f.path, ErrRestless)
}

// search is find in the family as it was; whole says that all of it was still there.
func search(all []member, fits []func(member, *os.File) bool) (found *os.File, whole bool) {
	whole = true
	for _, fit := range fits {
		for _, m := range slices.Backward(all) {
			file, err := m.open()
			switch {
			case errors.Is(err, fs.ErrNotExist):
				whole = false
			case err != nil: // it is as if it were not there
			case fit(m, file):
				return file, whole
			default:
				file.Close()
			}
		}
	}
	return nil, whole
}
