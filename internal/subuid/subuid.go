// SPDX-License-Identifier: Apache-2.0

// Package subuid tells whose a user is who has no name: subordinate uids belong to those that subuid(5) gives them to, who
// become any of them at will (newuidmap(1), user_namespaces(7)). Whatever is shared out by user must count them as one, or
// a user has 65,536 shares.
//
// It knows /etc/subuid and /etc/passwd as they are files of this host. Ranges that another source of names gives
// (subid: in nsswitch.conf(5)) or that a container runtime uses without writing them down are nobody's: such a uid stands
// for itself.
//
// The package makes no compatibility promise.
package subuid

import (
	"bufio"
	"cmp"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Ranges says who has which subordinate uids. The zero value says that nobody has any.
type Ranges struct {
	sorted []owned // by first; none overlaps another
}

// owned is a range of uids, first to last, and whose they are.
type owned struct{ first, last, owner uint32 }

// maxRanges and maxLine bound what is kept of a file, whatever is in it.
const (
	maxRanges = 1 << 16
	maxLine   = 1 << 10
)

// Parse reads lines of subuid(5): the name or the number of a user, the first uid, how many. lookup finds the uid of a
// name. A line that is not like that, or whose user is not known, is passed over, as newuidmap(1) does. So is a range of
// root's: root may be anybody anyway, and what the range's uids do is not root's doing. Where ranges overlap, the one that
// begins first has the uids, of two that begin alike the one that stands first: such a file is a mistake, and any answer
// will do, as long as it is always the same one.
func Parse(r io.Reader, lookup func(name string) (uid uint32, ok bool)) Ranges {
	var all []owned
	for lines := bufio.NewScanner(io.LimitReader(r, maxRanges*64)); lines.Scan() && len(all) < maxRanges; {
		if o, ok := parseLine(lines.Text(), lookup); ok {
			all = append(all, o)
		}
	}
	slices.SortStableFunc(all, func(a, b owned) int { return cmp.Compare(a.first, b.first) })
	sorted := all[:0]
	end := uint64(0) // the first uid that no range has yet
	for _, o := range all {
		if uint64(o.last) < end {
			continue
		}
		o.first = uint32(max(uint64(o.first), end))
		end = uint64(o.last) + 1
		sorted = append(sorted, o)
	}
	return Ranges{sorted}
}

func parseLine(line string, lookup func(string) (uint32, bool)) (o owned, ok bool) {
	if len(line) > maxLine {
		return o, false
	}
	f := strings.Split(strings.TrimSpace(line), ":")
	if len(f) != 3 || f[0] == "" || strings.HasPrefix(f[0], "#") {
		return o, false
	}
	first, err1 := strconv.ParseUint(f[1], 10, 32)
	count, err2 := strconv.ParseUint(f[2], 10, 32)
	if err1 != nil || err2 != nil || count == 0 || first+count > 1<<32 {
		return o, false
	}
	if n, err := strconv.ParseUint(f[0], 10, 32); err == nil {
		o.owner = uint32(n)
	} else if o.owner, ok = lookup(f[0]); !ok {
		return o, false
	}
	o.first, o.last = uint32(first), uint32(first+count-1)
	return o, o.owner != 0 && (o.owner < o.first || o.owner > o.last)
}

// Owner is the user that uid belongs to: the one that has it as a subordinate uid, or else itself. A subordinate uid of
// somebody who is himself subordinate is followed no further.
func (r Ranges) Owner(uid uint32) uint32 {
	i, exact := slices.BinarySearchFunc(r.sorted, uid, func(o owned, uid uint32) int { return cmp.Compare(o.first, uid) })
	if !exact {
		i--
	}
	if i >= 0 && uid <= r.sorted[i].last {
		return r.sorted[i].owner
	}
	return uid
}

// names reads passwd(5).
func names(r io.Reader) func(string) (uint32, bool) {
	uids := make(map[string]uint32)
	for lines := bufio.NewScanner(r); lines.Scan(); {
		f := strings.SplitN(lines.Text(), ":", 4)
		if len(f) < 4 {
			continue
		}
		if n, err := strconv.ParseUint(f[2], 10, 32); err == nil {
			uids[f[0]] = uint32(n)
		}
	}
	return func(name string) (uint32, bool) {
		uid, ok := uids[name]
		return uid, ok
	}
}

// lookEvery is how often the file is looked at, at most.
const lookEvery = 10 * time.Second

// File is what a file of ranges says, read again when it has changed. It is safe for concurrent use.
type File struct {
	ranges, passwd string

	known atomic.Pointer[Ranges] // nil: nobody has looked

	mu      sync.Mutex // held while the file is read
	looked  time.Time
	changed time.Time
	size    int64
}

// Host is the file of this host, /etc/subuid.
var Host = At("/etc/subuid", "/etc/passwd")

// At is a file of ranges, whose users passwd names. Nothing is read yet.
func At(ranges, passwd string) *File { return &File{ranges: ranges, passwd: passwd} }

// Owner is that of the ranges in the file: uid itself if there is none. It may block for as long as Look does.
func (f *File) Owner(uid uint32) uint32 {
	if uid == 0 {
		return 0
	}
	f.Look()
	return f.Known(uid)
}

// Known is Owner as of the last Look. It reads no file and takes no lock, so that the data thread may call it.
func (f *File) Known(uid uint32) uint32 {
	if known := f.known.Load(); known != nil {
		return known.Owner(uid)
	}
	return uid
}

// Look reads the file if it has changed, once in 10 s at most. It may block for as long as reading two small files of the root
// file system takes.
func (f *File) Look() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.looked.IsZero() || time.Since(f.looked) >= lookEvery {
		f.look()
		f.looked = time.Now()
	}
}

// look reads the file if it is another one than last time. The caller holds mu.
func (f *File) look() {
	info, err := os.Stat(f.ranges)
	if err != nil || !info.Mode().IsRegular() {
		f.changed = time.Time{}
		f.known.Store(nil)
		return
	}
	if info.ModTime().Equal(f.changed) && info.Size() == f.size {
		return
	}
	text, err := os.Open(f.ranges)
	if err != nil {
		return // as it was: the next look may do better
	}
	defer text.Close()
	lookup := func(string) (uint32, bool) { return 0, false }
	if passwd, err := os.Open(f.passwd); err == nil {
		lookup = names(passwd)
		passwd.Close()
	}
	ranges := Parse(text, lookup)
	f.known.Store(&ranges)
	f.changed, f.size = info.ModTime(), info.Size()
}
