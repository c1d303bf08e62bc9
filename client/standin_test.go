// SPDX-License-Identifier: Apache-2.0

package msgmux_test

// The sockets of a channel without a broker behind them: what a test wants to see of a client on the wire, and the
// answers and silences that a real broker would not give at will.

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// soon is long enough for anything that is to happen, and only waited for when it does not.
const soon = 5 * time.Second

// shortly is how long a test watches that something does not happen.
const shortly = 50 * time.Millisecond

// inTime is a context for calls that are to return by themselves.
func inTime(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	t.Cleanup(cancel)
	return ctx
}

// folder makes an empty runtime folder with a path short enough for sockets.
func folder(t testing.TB) msgmux.Channel {
	t.Helper()
	dir := test.Folder(t)
	return msgmux.Channel{RuntimeDir: dir}
}

// bindDatagram binds one of the channel's datagram sockets, in place of a dead one.
func bindDatagram(t testing.TB, channel msgmux.Channel, name string) *net.UnixConn {
	t.Helper()
	path := filepath.Join(channel.RuntimeDir, name)
	os.Remove(path)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// buffers are for next: to make one for each datagram takes longer than everything else.
var buffers = sync.Pool{New: func() any { return new([msgmux.MaxMessage + 1]byte) }}

// next reads one datagram and where it came from.
func next(t testing.TB, conn *net.UnixConn) ([]byte, *net.UnixAddr) {
	t.Helper()
	buffer := buffers.Get().(*[msgmux.MaxMessage + 1]byte)
	defer buffers.Put(buffer)
	conn.SetReadDeadline(time.Now().Add(soon))
	n, from, err := conn.ReadFromUnix(buffer[:])
	if err != nil {
		t.Fatalf("cannot read a datagram: %v", err)
	}
	return bytes.Clone(buffer[:n]), from
}

// subscribe makes a sink.
func subscribe(t testing.TB, channel msgmux.Channel, options msgmux.SinkOptions) *msgmux.Sink {
	t.Helper()
	sink, err := channel.Subscribe(inTime(t), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Close() })
	return sink
}

// each calls f for every message until it fails, or the sink does.
func each(ctx context.Context, sink *msgmux.Sink, f func(msgmux.Message) error) error {
	for m, err := range sink.Messages(ctx) {
		if err != nil {
			return err
		}
		if err := f(*m); err != nil {
			return err
		}
	}
	return errors.New("the loop ended without an error")
}

// inherit is a sink on a socket that was given to this process under the name "archive", and the socket at its far end.
func inherit(t testing.TB, options msgmux.InheritedOptions) (*msgmux.Sink, *net.UnixConn) {
	t.Helper()
	far := announce(t, syscall.SOCK_DGRAM, "archive")
	sink, err := msgmux.Inherited("archive", options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Close() })
	return sink, far
}

// announce gives this process a socket as the service manager does, and returns the far end. Descriptor 3 is taken here:
// the socket is one of many of which the others are not there.
func announce(t testing.TB, kind int, name string) (far *net.UnixConn) {
	t.Helper()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, kind|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(pair[0]) })
	names := slices.Repeat([]string{"other"}, pair[0]-3+1)
	names[pair[0]-3] = name
	for variable, value := range map[string]string{
		"LISTEN_PID": strconv.Itoa(os.Getpid()), "LISTEN_FDS": strconv.Itoa(len(names)), "LISTEN_FDNAMES": strings.Join(names, ":"),
	} {
		before, was := os.LookupEnv(variable)
		os.Setenv(variable, value)
		t.Cleanup(func() {
			if os.Unsetenv(variable); was {
				os.Setenv(variable, before)
			}
		})
	}
	file := os.NewFile(uintptr(pair[1]), "far")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.UnixConn)
}

// deliver sends datagrams as a broker does.
func deliver(t testing.TB, far *net.UnixConn, messages ...string) {
	t.Helper()
	if err := far.SetWriteBuffer(msgmux.MaxMessage); err != nil {
		t.Fatal(err)
	}
	raw, err := far.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, message := range messages {
		var sent error
		if err := raw.Write(func(fd uintptr) bool {
			sent = syscall.Sendto(int(fd), []byte(message), 0, nil)
			return sent != syscall.EAGAIN
		}); err != nil || sent != nil {
			t.Fatalf("cannot deliver %d bytes: %v %v", len(message), err, sent)
		}
	}
}

// packetOf is a packet to a sink.
func packetOf(first, lost uint64, messages ...string) string {
	packet := make([]byte, wire.SinkHeader)
	wire.PutSinkHeader(packet, first, lost)
	for _, message := range messages {
		packet = wire.AppendRecord(packet, []byte(message))
	}
	return string(packet)
}

// largest is the size of a datagram that this host makes for anybody: a socket's buffer goes up to twice
// net.core.wmem_max, and a datagram is charged a little more than its size.
func largest(t testing.TB) int {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/net/core/wmem_max")
	if err != nil {
		t.Fatal(err)
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return 2*most - 4096
}

// asNobody runs f on a thread whose access to files is that of the user nobody, in root's groups. Only root can do that.
func asNobody(t *testing.T, f func()) {
	if os.Getuid() != 0 {
		t.Skip("only root can take away rights from itself for a moment")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := syscall.Setfsuid(65534); err != nil {
			t.Errorf("cannot become nobody: %v", err)
			return
		}
		f()
	}()
	<-done
}

// cpuTime is what this process has used so far.
func cpuTime(t testing.TB) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// peer is a framed client as a broker sees it.
type peer struct {
	*net.UnixConn
	hello wire.Hello
}

// listen binds one of the channel's sockets for framed clients, in place of a dead one.
func listen(t testing.TB, channel msgmux.Channel, name string) *net.UnixListener {
	t.Helper()
	path := filepath.Join(channel.RuntimeDir, name)
	os.Remove(path)
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

// admit takes in the next client: it reads the hello and sends the answer, unless that is empty.
func admit(t testing.TB, listener *net.UnixListener, answer string) *peer {
	t.Helper()
	listener.SetDeadline(time.Now().Add(soon))
	conn, err := listener.AcceptUnix()
	if err != nil {
		t.Fatalf("no client comes: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	p := &peer{UnixConn: conn}
	if p.hello, err = wire.ParseHello(p.packet(t)); err != nil {
		t.Errorf("a hello that no broker takes: %v", err)
	}
	if answer != "" {
		if _, err := conn.Write([]byte(answer)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// packet reads the next packet.
func (p *peer) packet(t testing.TB) []byte {
	t.Helper()
	buffer := buffers.Get().(*[msgmux.MaxMessage + 1]byte)
	defer buffers.Put(buffer)
	p.SetReadDeadline(time.Now().Add(soon))
	n, err := p.Read(buffer[:])
	if err != nil {
		t.Fatalf("cannot read a packet: %v", err)
	}
	return bytes.Clone(buffer[:n])
}

// deliver sends a packet to a sink.
func (p *peer) deliver(t testing.TB, first, lost uint64, messages ...string) {
	t.Helper()
	p.SetWriteDeadline(time.Now().Add(soon))
	if _, err := p.Write([]byte(packetOf(first, lost, messages...))); err != nil {
		t.Errorf("cannot deliver: %v", err)
	}
}

// dialled is a source that the channel's broker, which is the test, has taken.
func dialled(t testing.TB, channel msgmux.Channel, listener *net.UnixListener) (*msgmux.Source, *peer) {
	t.Helper()
	return dialledWith(t, channel, listener, msgmux.SourceOptions{}, "ok id=7\n")
}

// dialledWith is dialled with options, and another answer to the hello.
func dialledWith(t testing.TB, channel msgmux.Channel, listener *net.UnixListener, options msgmux.SourceOptions, answer string) (*msgmux.Source, *peer) {
	t.Helper()
	came := make(chan *msgmux.Source, 1)
	go func() {
		source, err := channel.Dial(inTime(t), options)
		if err != nil {
			t.Error(err)
		}
		came <- source
	}()
	p := admit(t, listener, answer)
	source := <-came
	if source == nil {
		t.FailNow()
	}
	t.Cleanup(func() { source.Close() })
	return source, p
}

// subscribed is a sink that the channel's broker, which is the test, has taken.
func subscribed(t testing.TB, channel msgmux.Channel, listener *net.UnixListener, options msgmux.SinkOptions) (*msgmux.Sink, *peer) {
	t.Helper()
	return subscribedWith(t, channel, listener, options, "ok id=7 news=1\n")
}

// subscribedWith is subscribed with another answer to the hello.
func subscribedWith(t testing.TB, channel msgmux.Channel, listener *net.UnixListener, options msgmux.SinkOptions, answer string) (*msgmux.Sink, *peer) {
	t.Helper()
	came := make(chan *msgmux.Sink, 1)
	go func() {
		sink, err := channel.Subscribe(inTime(t), options)
		if err != nil {
			t.Error(err)
		}
		came <- sink
	}()
	p := admit(t, listener, answer)
	sink := <-came
	if sink == nil {
		t.FailNow()
	}
	t.Cleanup(func() { sink.Close() })
	return sink, p
}
