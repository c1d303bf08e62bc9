// SPDX-License-Identifier: Apache-2.0

package scout

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A thread that waits for a file system that does not answer cannot be killed, and a process with such a thread does not end:
// what it has open stays open, and what it has locked stays locked. So the questions that may come to that are asked by a
// process that has nothing, and that can be left behind. It is started when it is needed first, answers questions
// side by side, and ends when this process does, or as soon as it can.

// Name is what that process is called (argv[0]).
const Name = "msgmuxd-scout"

// errEnded means that the process that was asked has ended.
var errEnded = errors.New("the process that looks where paths lead has ended")

// companion is that process.
type companion struct {
	program string

	mu      sync.Mutex
	conn    *net.UnixConn // nil: it does not run
	process *os.Process
	ended   chan struct{} // closed when the process has ended
	closed  bool
	last    uint64
	waiting map[uint64]chan<- answer // by the question's ID; each has room for one
}

// ask has a question answered, sooner or later.
func (c *companion) ask(q question, answers chan<- answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := errEnded
	if !c.closed {
		err = c.start()
	}
	if err == nil {
		c.last++
		q.ID = c.last
		var text []byte
		if text, err = json.Marshal(q); err == nil {
			// Questions are few and small, and answers are read all the time, so that this never waits for long.
			_, err = c.conn.Write(text)
		}
	}
	if err != nil {
		answers <- wrong(err)
		return
	}
	c.waiting[q.ID] = answers
}

// start starts the process, if it does not run.
func (c *companion) start() error {
	if c.conn != nil {
		return nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "scout"), os.NewFile(uintptr(pair[1]), "scout")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return err
	}
	cmd := exec.Command(c.program)
	cmd.Args = []string{Name}
	cmd.Dir = "/"
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		conn.Close()
		return err
	}
	c.conn, c.process, c.ended = conn.(*net.UnixConn), cmd.Process, make(chan struct{})
	go c.read(c.conn, cmd, c.ended)
	return nil
}

// read takes answers until the process has ended.
func (c *companion) read(conn *net.UnixConn, cmd *exec.Cmd, ended chan<- struct{}) {
	text, control := make([]byte, 1<<20), make([]byte, unix.CmsgSpace(4))
	for {
		n, oob, _, _, err := conn.ReadMsgUnix(text, control)
		if err != nil || n == 0 {
			break
		}
		a := answer{fd: -1}
		for _, fd := range rights(control[:oob]) {
			a.fd = fd
		}
		if json.Unmarshal(text[:n], &a) != nil {
			a.close()
			continue
		}
		c.mu.Lock()
		answers := c.waiting[a.ID]
		delete(c.waiting, a.ID)
		c.mu.Unlock()
		if answers == nil {
			a.close()
			continue
		}
		answers <- a
	}
	conn.Close()
	c.mu.Lock()
	if c.conn == conn {
		c.conn = nil
	}
	for id, answers := range c.waiting {
		answers <- wrong(errEnded)
		delete(c.waiting, id)
	}
	c.mu.Unlock()
	cmd.Wait() // for ever, where it cannot end
	close(ended)
}

func rights(control []byte) (fds []int) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	for i := range messages {
		if got, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

// endWithin is how long close waits for the end of the process: it was killed, and takes longer only where it cannot end at all.
const endWithin = time.Second

// close ends the process, and leaves it behind if it does not end. A service manager that starts the next broker would find it left
// over and warn, so close waits for it.
func (c *companion) close() {
	c.mu.Lock()
	c.closed = true
	conn, process, ended := c.conn, c.process, c.ended
	c.mu.Unlock()
	if conn == nil {
		return
	}
	process.Kill()
	conn.Close()
	timer := time.NewTimer(endWithin)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
}

// Serve is for a program that a Scout may start: called first of all, it answers questions and never returns, if that is what
// the program was started for.
func Serve() {
	if len(os.Args) == 0 || os.Args[0] != Name {
		return
	}
	// It ends when its parent does. What a terminal or a service manager says to both of them is for the parent.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	const fd = 3
	unix.CloseOnExec(fd)
	text := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, text)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			os.Exit(0)
		}
		var q question
		if json.Unmarshal(text[:n], &q) != nil {
			continue
		}
		go func() {
			a, _ := q.answer(nil)
			a.ID = q.ID
			text, err := json.Marshal(a)
			if err != nil {
				return
			}
			var control []byte
			if a.fd >= 0 {
				control = unix.UnixRights(a.fd)
			}
			unix.Sendmsg(fd, text, control, nil, 0)
			a.close()
		}()
	}
}
