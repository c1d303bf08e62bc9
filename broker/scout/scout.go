// SPDX-License-Identifier: Apache-2.0

package scout

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
)

var (
	// ErrForeign means that somebody has a say about where a declared path leads who should have none.
	ErrForeign = errors.New("somebody else has a say about where it leads")
	// ErrNoSocket means that a path leads to something else.
	ErrNoSocket = errors.New("not a socket")
	// ErrSilent means that a file system on the way has not answered in time.
	ErrSilent = errors.New("the file system does not answer")
	// ErrBusy means that file systems have kept this user's questions for so long that he has to wait.
	ErrBusy = errors.New("file systems that this user's paths lead to do not answer")
)

const (
	// patience is how long somebody's path may take where a file system may never answer.
	patience = time.Second
	// declaredPatience is the same of what an administrator declared, where somebody waits for it: a machine that is just being upgraded
	// may take seconds to start the process that is asked.
	declaredPatience = 10 * time.Second
	// paidBack is which part of real time a user may take in the long run: one in so many.
	paidBack = 10
	// maxSilent is how many questions of one user, and of all, may be without an answer.
	maxSilent, maxSilentAll = 2, 32
)

// NoUser is (uid_t)-1, which the kernel gives to nobody.
const NoUser = math.MaxUint32

// Declared is who asks about what an administrator declared. It may take as long as it takes.
const Declared = NoUser

// Config says what a Scout is like.
type Config struct {
	// Unmapped is the uid that stands for users that have no number in this user namespace; NoUser: there are none.
	Unmapped uint32
	// Program is what may be started as a process that can be left behind: one that calls [Serve] first of all. "": none,
	// and what hangs, hangs in a thread of this process.
	Program string
}

// Scout follows paths. What only a file system could say that may never answer is asked by a process of its own, or a
// thread: nobody else has to wait for that. Its methods may be called from any goroutine that may block.
type Scout struct {
	local    *mounts
	unmapped uint32
	other    *companion // nil: none

	mu    sync.Mutex
	users map[uint32]*user
	all   int // questions without an answer
}

// user is who asks.
type user struct {
	asked int           // questions without an answer
	spent time.Duration // how long his questions have taken, less what was paid back
	at    time.Time     // when spent was right
}

// New makes a Scout for the user of this process. The caller closes it.
func New(c Config) *Scout {
	s := &Scout{local: newMounts(), unmapped: c.Unmapped, users: make(map[uint32]*user)}
	if c.Program != "" {
		s.other = &companion{program: c.Program, waiting: make(map[uint64]chan<- answer)}
	}
	return s
}

// End ends the process that is asked about other file systems, and leaves it behind if it hangs, within a second. Questions to it end
// with an error. It may run beside other methods.
func (s *Scout) End() {
	if s.other != nil {
		s.other.close()
	}
}

// Close is End, and gives back what New took. It must not run beside another method.
func (s *Scout) Close() {
	s.End()
	s.local.close()
}

// Found is what a path leads to.
type Found struct {
	FD    int        // connected to the socket, or the message queue open for sending; the caller's
	File  sys.FileID // what the path leads to
	Queue bool       // a message queue
}

// Connect connects a new socket to the one that a path leads to, or opens a message queue. sndbuf is as in sys.ConnectDatagram.
// who asks: a user, or Declared. If the path was declared, only what root or the broker's user made is followed. Errors are
// errnos of open(2) and connect(2), *os.SyscallError among them, or wrap one of this package's. It blocks for a second where a
// file system does not answer, for as long as it does not if the path was declared.
func (s *Scout) Connect(path string, sndbuf int, who uint32) (Found, error) {
	a := s.ask(question{Op: askConnect, Path: path, Sndbuf: sndbuf, Declared: who == Declared}, who, who != Declared)
	return Found{FD: a.fd, File: a.File, Queue: a.Queue}, a.err()
}

// Look is the file that a path leads to, with errors as for Connect, and blocks as Connect does.
func (s *Scout) Look(path string, who uint32) (sys.FileID, error) {
	a := s.ask(question{Op: askLook, Path: path, Declared: who == Declared}, who, who != Declared)
	return a.File, a.err()
}

// maxEntries is how many entries of a folder are looked at.
const maxEntries = 4096

// Find is the name of the socket in a folder that has this inode number, as far as 32 bits go; "" if there is none among its
// first 4096 entries. It blocks, and fails, as Connect does.
func (s *Scout) Find(folder string, inode uint32, who uint32) (string, error) {
	a := s.ask(question{Op: askFind, Path: folder, Inode: inode}, who, true)
	return string(a.Text), a.err()
}

// Read is sys.ReadSmallFile, of a file that an administrator declared. It blocks for up to ten seconds where a file system does not answer.
func (s *Scout) Read(path string, limit int) ([]byte, error) {
	a := s.ask(question{Op: askRead, Path: path, Limit: limit}, Declared, true)
	return a.Text, a.err()
}

// ask answers a question. bounded says that the asker does not have for ever.
func (s *Scout) ask(q question, who uint32, bounded bool) answer {
	q.Unmapped = s.unmapped
	a, known := q.answer(s.local)
	if known {
		return a
	}
	if bounded {
		if err := s.begin(who); err != nil {
			return wrong(err)
		}
	}
	began := time.Now()
	answers := make(chan answer, 1)
	if s.other != nil {
		s.other.ask(q, answers)
	} else {
		go func() {
			a, _ := q.answer(nil)
			answers <- a
		}()
	}
	if !bounded {
		return <-answers
	}
	limit := patienceWith(who)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case a := <-answers:
		s.end(who, time.Since(began), true)
		return a
	case <-timer.C:
		s.end(who, limit, false)
		go func() {
			a := <-answers
			a.close()
			s.end(who, 0, true)
		}()
		return wrong(ErrSilent)
	}
}

// patienceWith is how long the questions of one user may take together, before he gets a tenth of the time.
func patienceWith(who uint32) time.Duration {
	if who == Declared {
		return declaredPatience
	}
	return patience
}

// begin counts a question, unless its user has too many, or they have taken too long.
func (s *Scout) begin(who uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[who]
	if u == nil {
		u = &user{at: time.Now()}
		s.users[who] = u
	}
	u.payBack()
	if s.all >= maxSilentAll || u.asked >= maxSilent || u.spent >= patienceWith(who) {
		return ErrBusy
	}
	u.asked++
	s.all++
	return nil
}

// end takes into account how long a question has taken, and that it is answered.
func (s *Scout) end(who uint32, took time.Duration, answered bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[who]
	u.payBack()
	u.spent += took
	if answered {
		u.asked--
		s.all--
	}
	for who, u := range s.users {
		if u.payBack(); u.asked == 0 && u.spent == 0 {
			delete(s.users, who)
		}
	}
}

func (u *user) payBack() {
	now := time.Now()
	u.spent = max(0, u.spent-now.Sub(u.at)/paidBack)
	u.at = now
}

const (
	askConnect = "connect"
	askLook    = "look"
	askRead    = "read"
	askFind    = "find"
)

// question is what is asked, of this process or another.
type question struct {
	ID       uint64
	Op       string
	Path     string
	Sndbuf   int  `json:",omitempty"`
	Declared bool `json:",omitempty"`
	Unmapped uint32
	Inode    uint32 `json:",omitempty"`
	Limit    int    `json:",omitempty"`
}

// answer is what became of it.
type answer struct {
	ID    uint64
	Errno syscall.Errno `json:",omitempty"`
	Kind  int           `json:",omitempty"` // of the error, by kinds; 0: Errno alone, or none
	Said  string        `json:",omitempty"` // by the error
	File  sys.FileID
	Queue bool   `json:",omitempty"`
	Text  []byte `json:",omitempty"`

	fd int // -1: none
}

// kinds are the errors that an answer can wrap, by number.
var kinds = map[int]error{1: ErrForeign, 2: ErrNoSocket, 3: ErrSilent, 4: ErrBusy, 5: sys.ErrNotSmallFile, 6: errEnded}

// wrong is the answer that err is.
func wrong(err error) answer {
	a := answer{fd: -1, Said: err.Error()}
	for n, kind := range kinds {
		if errors.Is(err, kind) {
			a.Kind = n
		}
	}
	if !errors.As(err, &a.Errno) && a.Kind == 0 {
		a.Errno = syscall.EIO
	}
	return a
}

// err is the error that the answer is, nil if it is none.
func (a *answer) err() error {
	switch kind := kinds[a.Kind]; {
	case kind != nil && a.Said != kind.Error():
		return &said{kind, a.Said}
	case kind != nil:
		return kind
	case a.Errno != 0:
		return a.Errno
	}
	return nil
}

// said is an error with the words of another process.
type said struct {
	kind  error
	words string
}

func (s *said) Error() string { return s.words }
func (s *said) Unwrap() error { return s.kind }

func (a *answer) close() {
	if a.fd >= 0 {
		unix.Close(a.fd)
	}
}

// answer finds the answer out; known is false if only a file system could say that is not local. nil: that may block.
func (q *question) answer(local *mounts) (a answer, known bool) {
	w := walker{uid: uint32(os.Geteuid()), unmapped: q.Unmapped, declared: q.Declared, local: local}
	end, st, err := w.walk(q.Path)
	if errors.Is(err, errMayBlock) {
		return a, false
	}
	if err != nil {
		return wrong(err), true
	}
	defer unix.Close(end)
	a = answer{fd: -1}
	a.File, _ = sys.FileOf(end)
	name := fmt.Sprintf("/proc/self/fd/%d", end) // whatever has become of its names meanwhile
	switch mode := st.Mode & unix.S_IFMT; {
	case q.Op == askLook:
		return a, true
	case q.Op == askFind:
		a.Text, err = find(name, q.Inode)
	case q.Op == askRead:
		a.Text, err = sys.ReadSmallFile(name, q.Limit)
	case mode == unix.S_IFSOCK:
		a.fd, err = sys.ConnectDatagram(name, q.Sndbuf)
	case mode == unix.S_IFREG && sys.IsQueue(name):
		a.Queue = true
		a.fd, err = sys.OpenQueue(name)
	default:
		err = fmt.Errorf("%w (%v)", ErrNoSocket, modeOf(st.Mode))
	}
	if err != nil {
		return wrong(err), true
	}
	return a, true
}

// find is the name of the socket with that inode number in a folder.
func find(folder string, inode uint32) ([]byte, error) {
	// What is no folder is not opened: a FIFO would wait for a writer, and a device do what it does.
	f, err := os.OpenFile(folder, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(maxEntries)
	for _, e := range entries {
		if e.Type() != fs.ModeSocket {
			continue
		}
		var st unix.Stat_t
		if unix.Fstatat(int(f.Fd()), e.Name(), &st, unix.AT_SYMLINK_NOFOLLOW) == nil && uint32(st.Ino) == inode {
			return []byte(e.Name()), nil
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return nil, err
}

// modeOf is how Go writes the type and mode of a file.
func modeOf(mode uint32) fs.FileMode {
	m := fs.FileMode(mode) & fs.ModePerm
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		m |= fs.ModeDir
	case unix.S_IFIFO:
		m |= fs.ModeNamedPipe
	case unix.S_IFCHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		m |= fs.ModeDevice
	}
	return m
}
