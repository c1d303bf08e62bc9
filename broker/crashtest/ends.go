// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/wire"
)

// The ends of a channel as processes of their own, so that they can be killed like the broker: sources that mark, and sinks that
// acknowledge. What such a process has done is what stands in its file.

// endMark is the variable that makes this program an end. Its value is an End as JSON.
const endMark = "MSGMUX_CRASHTEST_END"

// End is a client that can be killed at any moment, and goes on when it is started again.
type End struct {
	Dir     string // of the channel
	Traffic Traffic
	Options wire.Options
	Number  int    // of a source; its mark is how many of its messages are in
	Source  bool   // it is a source, otherwise a sink
	Stored  bool   // a sink that says where its file ends when it comes back
	File    string // what a sink has done, a line for each message; a source ends when there is one

	cmd  *exec.Cmd
	done chan struct{}
	said bytes.Buffer // what it complained about
}

// RunEnd is the whole life of this process if it was started as an end; otherwise it returns at once. TestMain calls it first.
func RunEnd() {
	text, isEnd := os.LookupEnv(endMark)
	if !isEnd {
		return
	}
	var e End
	err := json.Unmarshal([]byte(text), &e)
	switch {
	case err != nil:
	case e.Source:
		err = e.beSource()
	default:
		err = e.beSink()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", e.Options.Label, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Start starts the process.
func (e *End) Start() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	e.cmd, e.done = exec.Command(self), make(chan struct{})
	e.cmd.Env = append(os.Environ(), endMark+"="+string(text))
	e.cmd.Stderr = &e.said
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := e.cmd.Start(); err != nil {
		return err
	}
	go func() {
		defer close(e.done)
		e.cmd.Wait()
	}()
	return nil
}

// Kill sends the process a SIGKILL, and does not wait for its end: see Wait.
func (e *End) Kill() { e.cmd.Process.Kill() }

// Wait returns when the process has ended. The error is what it complained about, if it ended by itself.
func (e *End) Wait() error {
	<-e.done
	if e.said.Len() > 0 {
		return errors.New(strings.TrimSpace(e.said.String()))
	}
	return nil
}

// Ended says whether the process has ended.
func (e *End) Ended() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

// attach connects, however often brokers die meanwhile, and whatever is still to be done for its predecessor.
func (e *End) attach(socket string) (fd int, ok wire.Reply, err error) {
	for deadline := time.Now().Add(askPatience); ; time.Sleep(2 * time.Millisecond) {
		fd, ok, err = helloOnce(e.Dir, socket, wire.Hello{Options: e.Options})
		var refusal *wire.Error
		if err == nil || errors.As(err, &refusal) && !slices.Contains([]string{wire.CodeInternal, wire.CodeBusy, wire.CodeInUse}, refusal.Code) {
			return fd, ok, err
		}
		if time.Now().After(deadline) {
			return -1, ok, fmt.Errorf("no ok from %s: %w", socket, err)
		}
	}
}

// beSource sends its messages from its mark on.
func (e *End) beSource() error {
	fd, ok, err := e.attach("publish")
	if err != nil {
		return err
	}
	if err := errors.Join(roomFor(fd, wire.MaxPacket), timeouts(fd, blocked, patience)); err != nil {
		return err
	}
	put := func(mark uint64, records []byte) error {
		return send(fd, append(wire.AppendAck(nil, mark), records...), 0)
	}
	if e.Options.Stage {
		stage, err := openStage(fd)
		if err != nil {
			return err
		}
		put = func(mark uint64, records []byte) error { return putStaged(fd, stage, records, mark, true) }
	}
	for at := ok.Mark; ; {
		if _, err := os.Stat(e.File); err == nil {
			return os.WriteFile(e.File+".sent", []byte(strconv.FormatUint(at, 10)), 0o600)
		}
		n := 1 + mix(at)%30
		var records []byte
		for i := range n {
			records = wire.AppendRecord(records, e.Traffic.Append(nil, e.Number, at+i))
			if len(records) > wire.MaxPacket/2 {
				n = i + 1
				break
			}
		}
		at += n
		if err := put(at, records); err != nil {
			return fmt.Errorf("at message %d: %w", at, err)
		}
		time.Sleep(time.Duration(mix(at)%2000) * time.Microsecond)
	}
}

// done is a line in the file of a sink: a message that it has done.
type done struct {
	seq uint64
	key Key
}

// read gives what stands in the file of a sink. A line that was cut by a kill is not there.
func (e *End) read() (all []done, size int64, err error) {
	text, err := os.ReadFile(e.File)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	for line := range bytes.Lines(text) {
		var d done
		if _, scanned := fmt.Sscanf(string(line), "%d %d\n", &d.seq, (*uint64)(&d.key)); scanned != nil || line[len(line)-1] != '\n' {
			break
		}
		all, size = append(all, d), size+int64(len(line))
	}
	return all, size, err
}

// beSink writes down what it gets, and says then that it is done with it.
func (e *End) beSink() error {
	before, size, err := e.read()
	if err != nil {
		return err
	}
	file, err := os.OpenFile(e.File, os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		err = errors.Join(file.Truncate(size), func() error { _, err := file.Seek(size, 0); return err }())
	}
	if err != nil {
		return err
	}
	if n := len(before); e.Stored && n > 0 {
		epoch, err := os.ReadFile(e.File + ".epoch")
		if err != nil {
			return err
		}
		if e.Options.From.Epoch, err = strconv.ParseUint(string(epoch), 16, 64); err != nil {
			return err
		}
		e.Options.From.Seq = before[n-1].seq + 1
	}
	fd, ok, err := e.attach("subscribe")
	if err != nil {
		return err
	}
	if e.Stored && len(before) == 0 {
		if err := os.WriteFile(e.File+".epoch", []byte(strconv.FormatUint(ok.Epoch, 16)), 0o600); err != nil {
			return err
		}
	}
	if err := timeouts(fd, patience, 0); err != nil {
		return err
	}
	from, err := e.opens(fd)
	if err != nil {
		return err
	}
	for count := 0; ; count++ {
		seq, records, err := from.next()
		if err != nil {
			return fmt.Errorf("hung up on after %d packets: %w", count, err)
		}
		var lines []byte
		wire.EachRecord(records, func(b []byte) bool {
			key, wrong := e.Traffic.Read(b)
			if wrong != nil {
				err = wrong
			}
			lines = fmt.Appendf(lines, "%d %d\n", seq, uint64(key))
			seq++
			return true
		})
		if err != nil {
			return err
		}
		if _, err := file.Write(lines); err != nil {
			return err
		}
		// Not each packet, but always what a member of a share waits for.
		if e.Options.Share == "" && mix(seq)%3 == 0 {
			continue
		}
		if err := from.say(seq); err != nil && err != unix.EAGAIN {
			return fmt.Errorf("cannot acknowledge %d: %w", seq, err)
		}
	}
}

// inlet is where a sink gets its messages, and says what it has done.
type inlet struct {
	next func() (seq uint64, records []byte, err error)
	say  func(done uint64) error
}

func (e *End) opens(fd int) (inlet, error) {
	if !e.Options.View {
		buf := make([]byte, 2*wire.MaxPacket)
		return inlet{
			next: func() (seq uint64, records []byte, err error) {
				n, err := receivePacket(fd, buf, 0)
				if n == 0 || err != nil {
					return 0, nil, cmp.Or(err, ErrHungUp)
				}
				p, err := wire.ParseSinkPacket(buf[:n])
				return p.First, p.Records, err
			},
			say: func(done uint64) error { return send(fd, wire.AppendAck(nil, done), unix.MSG_DONTWAIT) },
		}, nil
	}
	w := &window{fd: fd, buf: make([]byte, wire.MaxPacket)}
	for w.reader == nil {
		if err := w.receive(); err != nil {
			return inlet{}, err
		}
	}
	return inlet{
		next: func() (seq uint64, records []byte, err error) {
			for {
				if b, err := w.look(); err != nil || b.Count > 0 {
					return b.First, w.buf[:b.Size], err
				}
			}
		},
		say: w.say,
	}, nil
}
