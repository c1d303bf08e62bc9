// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// What the tests of the promises have in common: messages that tell what they are, a log that can be read, another
// user, and the program in a process of its own.

// stampSize is the least size of a message that tells who sent it and which one it is.
const stampSize = 12

// stamped is a message of that size. The bytes behind the stamp follow from it.
func stamped(source uint32, seq uint64, size int) []byte {
	b := make([]byte, size)
	binary.LittleEndian.PutUint32(b, source)
	binary.LittleEndian.PutUint64(b[4:], seq)
	fill(b[stampSize:], uint64(source)<<32+seq)
	return b
}

// fill writes bytes that follow from seed, no two places alike.
func fill(b []byte, seed uint64) {
	x := seed*2862933555777941757 + 3037000493
	for i := range b {
		if i%8 == 0 {
			x = x*6364136223846793005 + 1442695040888963407
		}
		b[i] = byte(x >> (i % 8 * 8))
	}
}

// stamp is what a stamped message says; ok is false when a byte of it is another.
func stamp(b []byte) (source uint32, seq uint64, ok bool) {
	if len(b) < stampSize {
		return 0, 0, false
	}
	source, seq = binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint64(b[4:])
	return source, seq, bytes.Equal(b, stamped(source, seq, len(b)))
}

// keptLog collects what a broker logs.
type keptLog struct {
	slog.Handler
	mu    sync.Mutex
	lines []string // "event: text key=value ..."
}

// keepLog makes a broker log into j as well.
func keepLog(j *keptLog) func(*broker.Config) {
	return func(cfg *broker.Config) { j.Handler, cfg.Log = cfg.Log, j }
}

func (j *keptLog) Handle(ctx context.Context, r slog.Record) error {
	var event string
	var rest strings.Builder
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "event" {
			event = a.Value.String()
		} else {
			fmt.Fprintf(&rest, " %s=%v", a.Key, a.Value)
		}
		return true
	})
	j.mu.Lock()
	j.lines = append(j.lines, event+": "+r.Message+rest.String())
	j.mu.Unlock()
	return j.Handler.Handle(ctx, r)
}

// grep returns the lines that have all words.
func (j *keptLog) grep(words ...string) (found []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
next:
	for _, line := range j.lines {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

// logged waits until there are n lines with all words, and says if there are more.
func (j *keptLog) logged(t *testing.T, n int, words ...string) {
	t.Helper()
	test.Eventually(t, fmt.Sprintf("%d log lines with %q", n, words), func() bool { return len(j.grep(words...)) >= n })
	if lines := j.grep(words...); len(lines) != n {
		t.Errorf("%d log lines with %q, want %d: %q", len(lines), words, n, lines)
	}
}

// sinkOf is the sink with that id, as the control socket shows it.
func sinkOf(t *testing.T, b *brokertest.Broker, id uint64) wire.Sink {
	t.Helper()
	s, ok := findSink(b, id)
	if !ok {
		t.Fatalf("there is no sink %d", id)
	}
	return s
}

// counted is the status with everything counted that was received: the last message may be in the middle of being sent, received
// already, and not accounted for yet. The data thread carries out commands between two operations.
func counted(b *brokertest.Broker) wire.Status {
	b.Channel.Drop(0, "nobody")
	return b.Channel.Status()
}

func findSink(b *brokertest.Broker, id uint64) (wire.Sink, bool) {
	counted(b)
	_, sinks := b.Channel.List()
	for _, s := range sinks {
		if s.ID == id {
			return s, true
		}
	}
	return wire.Sink{}, false
}

// gone waits until there is no such sink.
func gone(t *testing.T, b *brokertest.Broker, id uint64) {
	t.Helper()
	test.Eventually(t, fmt.Sprintf("sink %d gone", id), func() bool {
		_, there := findSink(b, id)
		return !there
	})
}

// sendUntilFull sends messages first, first+1, ... of one source until the channel takes no more for a while, and
// returns how many it took.
func sendUntilFull(t *testing.T, s *brokertest.Source, source uint32, first uint64, size int) (n uint64) {
	t.Helper()
	for quiet := time.Now(); time.Since(quiet) < 400*time.Millisecond; {
		switch err := s.TrySend(stamped(source, first+n, size)); {
		case err == nil:
			n++
			quiet = time.Now()
		case errors.Is(err, unix.EAGAIN):
			time.Sleep(2 * time.Millisecond)
		default:
			t.Fatal(err)
		}
	}
	return n
}

// flood sends stamped messages of one source until stop is closed, and tells how many it sent.
func flood(s *brokertest.Source, source uint32, size int, stop <-chan struct{}) <-chan uint64 {
	sent := make(chan uint64, 1)
	go func() {
		var n uint64
		defer func() { sent <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			s.Conn.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
			switch _, err := s.Conn.Write(stamped(source, n, size)); {
			case err == nil:
				n++
			case !errors.Is(err, os.ErrDeadlineExceeded):
				return
			}
		}
	}()
	return sent
}

// drained reads a sink in the background until stop is closed and nothing more comes for half a second, which a broker may wait for a
// processor, and tells how many messages it got. pause, if not nil, is called before each one.
func drained(s *brokertest.Sink, stop <-chan struct{}, pause func(n uint64)) <-chan uint64 {
	got := make(chan uint64, 1)
	go func() {
		var n uint64
		defer func() { got <- n }()
		for wait, stopped := 100*time.Millisecond, false; ; {
			if pause != nil {
				pause(n)
			}
			_, err := s.ReceiveWithin(wait)
			switch {
			case err == nil:
				n++
			case stopped, !errors.Is(err, os.ErrDeadlineExceeded):
				return
			default:
				select {
				case <-stop:
					wait, stopped = 500*time.Millisecond, true
				default:
				}
			}
		}
	}()
	return got
}

// receiveSeq receives messages first to last of one source, in that order and nothing between.
func receiveSeq(t *testing.T, s *brokertest.Sink, source uint32, first, end uint64) {
	t.Helper()
	for want := first; want < end; want++ {
		b, err := s.Receive()
		if err != nil {
			t.Fatalf("message %d of %d to %d: %v", want, first, end, err)
		}
		if src, seq, ok := stamp(b); !ok || src != source || seq != want {
			t.Fatalf("received %d/%d (whole: %v) instead of %d/%d", src, seq, ok, source, want)
		}
	}
}

// receivesNothing says that nothing has arrived, and nothing does for a moment.
func receivesNothing(t *testing.T, s *brokertest.Sink, who string) {
	t.Helper()
	if b, err := s.ReceiveWithin(50 * time.Millisecond); err == nil {
		t.Errorf("%s received %q", who, b[:min(len(b), 100)])
	}
}

// openToAll lets every user reach a broker's sockets.
func openToAll(t testing.TB, dir string) {
	t.Helper()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range wire.Sockets {
		if err := os.Chmod(dir+"/"+name, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// strangersSocket binds a socket that belongs to another user.
func strangersSocket(t *testing.T, name string) (s *brokertest.Sink) {
	t.Helper()
	asStranger(func() { s = brokertest.NewSocket(t, name) })
	return s
}

// registerAs sends a registration that has the credentials of a user, from a socket of that user's or, if that is nil,
// from a new one, and returns the answer. Root may say who sends (unix(7), SCM_CREDENTIALS).
func registerAs(t *testing.T, dir string, uid uint32, from *brokertest.Sink, lines ...string) wire.Reply {
	t.Helper()
	if from == nil {
		from = strangersSocket(t, brokertest.Name())
		defer from.Close()
	}
	sendAs(t, dir, uid, from, strings.Join(lines, "\n")+"\nreply=yes\n")
	b, err := from.Receive()
	if err != nil {
		t.Fatalf("no answer to %q: %v", lines, err)
	}
	r, err := wire.ParseReply(b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sendAs(t *testing.T, dir string, uid uint32, from *brokertest.Sink, text string) {
	t.Helper()
	creds := unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getpid()), Uid: uid, Gid: uid})
	if _, _, err := from.Conn.WriteMsgUnix([]byte(text), creds, &net.UnixAddr{Name: dir + "/register", Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
}

// strangerRole makes this program a framed client of another user instead of a test.
const strangerRole = "MSGMUX_STRANGER"

// beStranger connects COUNT times to SOCKET, with OPTIONS, in which # is which time it is, says each answer, and keeps the connections
// until its input ends.
func beStranger(role string) int {
	fields := strings.Fields(role)
	socket := fields[0]
	count, err := strconv.Atoi(fields[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for i := range count {
		conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer conn.Close()
		hello := strings.Join(append([]string{wire.Protocol}, fields[2:]...), "\n")
		conn.Write([]byte(strings.ReplaceAll(hello, "#", strconv.Itoa(i))))
		b := make([]byte, 1024)
		n, _ := conn.Read(b)
		fmt.Println(strings.TrimSpace(string(b[:n])))
	}
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// strangers connects another user's framed clients, and returns what each was answered.
func strangers(t *testing.T, socket string, count int, options ...string) []string {
	t.Helper()
	return clientsOf(t, stranger, socket, count, options...)
}

// clientsOf is strangers for that user.
func clientsOf(t *testing.T, uid uint32, socket string, count int, options ...string) []string {
	t.Helper()
	// Another user cannot reach the folder of the test binary; the link in procfs is not looked up by path.
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %s", strangerRole, socket, count, strings.Join(options, " ")))
	cmd.Dir, cmd.Stderr = "/", t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, _ := startPiped(t, cmd)
	answers := make([]string, 0, count)
	var line strings.Builder
	for b := make([]byte, 1); len(answers) < count; {
		if _, err := out.Read(b); err != nil {
			t.Fatalf("%d answers: %v", len(answers), err)
		}
		if b[0] != '\n' {
			line.Write(b)
			continue
		}
		answers = append(answers, line.String())
		line.Reset()
	}
	return answers
}

// startPiped starts a process that ends when its standard input does, which end, or the end of the test, closes. out is what it writes.
func startPiped(t *testing.T, cmd *exec.Cmd) (out io.Reader, end func()) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err = cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() { in.Close(); cmd.Wait() })
	t.Cleanup(end)
	return out, end
}

// process is msgmuxd in a process of its own.
type process struct {
	Dir    string
	cmd    *exec.Cmd
	stderr test.Output
	ended  chan struct{}
}

// newProcess prepares msgmuxd for a folder of its own.
func newProcess(t *testing.T, flags ...string) *process {
	t.Helper()
	dir := test.Folder(t)
	p := &process{Dir: dir, ended: make(chan struct{})}
	p.cmd = exec.Command(programPath(t), append([]string{"--runtime-dir", dir}, flags...)...)
	p.cmd.Stderr = &p.stderr
	return p
}

// startProcess starts msgmuxd and waits until it answers.
func startProcess(t *testing.T, flags ...string) *process {
	t.Helper()
	p := newProcess(t, flags...)
	p.start(t)
	p.serves(t)
	return p
}

// serves waits until it answers.
func (p *process) serves(t *testing.T) {
	t.Helper()
	test.Eventually(t, "msgmuxd answers", func() bool {
		conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: p.Dir + "/control", Net: "unixpacket"})
		if err == nil {
			conn.Close()
		}
		select {
		case <-p.ended:
			t.Fatalf("msgmuxd ended: %s", p.stderr.String())
		default:
		}
		return err == nil
	})
	brokertest.Ask(t, p.Dir, wire.Request{Op: wire.OpStatus})
}

func (p *process) start(t *testing.T) {
	t.Helper()
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.ended
	})
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// wait waits for its end, and returns the exit code and how long that took.
func (p *process) wait(t *testing.T) (code int, took time.Duration) {
	t.Helper()
	began := time.Now()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode(), time.Since(began)
	case <-time.After(brokertest.Within):
		t.Fatalf("msgmuxd has not ended: %s", p.stderr.String())
		return 0, 0
	}
}

// status asks the process.
func (p *process) status(t *testing.T) (wire.Status, map[uint64]wire.Sink) {
	t.Helper()
	a := brokertest.Ask(t, p.Dir, wire.Request{Op: wire.OpList})
	if !a.OK || a.Status == nil {
		t.Fatalf("status: %v", a.Error)
	}
	sinks := make(map[uint64]wire.Sink)
	for _, s := range a.Sinks {
		sinks[s.ID] = s
	}
	return *a.Status, sinks
}

func removeFile(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// sendRights sends a datagram or packet with descriptors attached, without waiting.
func sendRights(conn *net.UnixConn, b []byte, fds ...int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		_, inner = unix.SendmsgN(int(fd), b, unix.UnixRights(fds...), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
	return errors.Join(err, inner)
}
