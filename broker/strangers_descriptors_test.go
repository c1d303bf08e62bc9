// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// Descriptors that strangers attach to what they send: refused, or closed where nobody waits for it.

// TestDescriptorsRefused: where the kernel can refuse descriptors (Linux 6.16), whoever attaches one is told.
func TestDescriptorsRefused(t *testing.T) {
	b := brokertest.Start(t)
	sink := brokertest.NewSink(t, b.Dir)
	probe, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: brokertest.Name(), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	raw, _ := probe.SyscallConn()
	able := false
	raw.Control(func(fd uintptr) { able = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0) == nil })
	if !able {
		t.Skip("this kernel cannot refuse descriptors")
	}
	for name, conn := range map[string]*net.UnixConn{
		"source":    brokertest.NewSource(t, b.Dir).Conn,
		"register":  dialRegister(t, b.Dir),
		"publish":   brokertest.Dial(t, b.Dir, "publish").Conn,
		"subscribe": brokertest.Dial(t, b.Dir, "subscribe").Conn,
		"control":   brokertest.Dial(t, b.Dir, "control").Conn,
	} {
		if err := sendRights(conn, []byte("x"), 0, 1); !errors.Is(err, unix.EPERM) {
			t.Errorf("descriptors on %s: %v", name, err)
		}
	}
	p := brokertest.NewPublisher(t, b.Dir)
	if err := sendRights(p.Conn, wire.AppendRecord(nil, []byte("x")), 0, 1); !errors.Is(err, unix.EPERM) {
		t.Errorf("descriptors on publish, behind the hello: %v", err)
	}
	if err := brokertest.NewSource(t, b.Dir).Send([]byte("it works")); err != nil {
		t.Fatal(err)
	}
	if m, err := sink.Receive(); err != nil || string(m) != "it works" {
		t.Fatalf("%q, %v", m, err)
	}
}

// olderKernel makes a broker one of before Linux 6.16: its sockets take descriptors.
func olderKernel(cfg *broker.Config, in *activation.Set) {
	cfg.KeepRights = true
	for _, d := range in.All() {
		unix.SetsockoptInt(d.FD, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 1)
	}
}

// lingering makes a descriptor whose last close takes that long. It is a socket in whose queue is a TCP connection that
// lingers (SO_LINGER), with something that its other end does not read. Whoever closes the outer one cannot help closing
// the inner one.
func lingering(t *testing.T, d time.Duration) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	conn.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	for b := make([]byte, 1<<20); err == nil; {
		_, err = conn.Write(b)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := conn.(*net.TCPConn).SyscallConn()
	raw.Control(func(fd uintptr) {
		err = errors.Join(unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: int32(d.Seconds())}),
			unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(int(fd)), nil, 0))
	})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	unix.Close(pair[0])
	return pair[1]
}

// TestDescriptorsClosed: where the kernel cannot refuse descriptors, they are closed, and what they came with goes its way.
func TestDescriptorsClosed(t *testing.T) {
	k := &wholeControl{}
	b := brokertest.StartWith(t, olderKernel, func(cfg *broker.Config) { cfg.Ops = k })
	works(t, b.Dir) // so that all that is opened once is open
	sink := brokertest.NewSink(t, b.Dir)
	sockets := map[string]func() (*net.UnixConn, []byte){
		"source":   func() (*net.UnixConn, []byte) { return brokertest.NewSource(t, b.Dir).Conn, []byte("m") },
		"register": func() (*net.UnixConn, []byte) { return dialRegister(t, b.Dir), []byte("@nobody") },
		"a hello": func() (*net.UnixConn, []byte) {
			return brokertest.Dial(t, b.Dir, "publish").Conn, []byte(wire.Protocol)
		},
		"a sink's hello": func() (*net.UnixConn, []byte) {
			return brokertest.Dial(t, b.Dir, "subscribe").Conn, []byte(wire.Protocol)
		},
		"a hello of a byte": func() (*net.UnixConn, []byte) { return brokertest.Dial(t, b.Dir, "subscribe").Conn, nil },
		"a bad hello":       func() (*net.UnixConn, []byte) { return brokertest.Dial(t, b.Dir, "subscribe").Conn, []byte("hello") },
		"control": func() (*net.UnixConn, []byte) {
			return brokertest.Dial(t, b.Dir, "control").Conn, []byte(`{"op":"status"}`)
		},
		"a packet": func() (*net.UnixConn, []byte) {
			return brokertest.NewPublisher(t, b.Dir).Conn, wire.AppendRecord(nil, []byte("m"))
		},
		"a bad packet":      func() (*net.UnixConn, []byte) { return brokertest.NewPublisher(t, b.Dir).Conn, []byte("hello") },
		"what a sink sends": func() (*net.UnixConn, []byte) { return brokertest.NewSubscriber(t, b.Dir).Conn, []byte("hello") },
	}
	before := len(openDescriptors())
	var many [253]int
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	for i := range many {
		many[i] = int(r.Fd())
	}
	for name, socket := range sockets {
		conn, text := socket()
		for range 3 {
			if err := sendRights(conn, text, many[:]...); err != nil {
				break // the broker hung up
			}
		}
		if name == "source" {
			for range 3 {
				if m, err := sink.Receive(); err != nil || string(m) != "m" {
					t.Fatalf("%q, %v: the message goes its way", m, err)
				}
			}
		}
		if name == "a packet" {
			for range 3 {
				if m, err := sink.Receive(); err != nil || string(m) != "m" {
					t.Fatalf("%q, %v: the message goes its way", m, err)
				}
			}
		}
		conn.Close()
	}
	// Hung up before anybody looks.
	for range 50 {
		c := brokertest.Dial(t, b.Dir, "subscribe").Conn
		sendRights(c, nil, many[:]...)
		c.Close()
	}
	r.Close()
	// The pipe's other end notices when the last copy is closed.
	test.Eventually(t, "all copies are closed", func() bool {
		_, err := w.Write([]byte("x"))
		return err != nil
	})
	w.Close()
	test.Eventually(t, "no descriptor has leaked", func() bool { return len(openDescriptors()) <= before })
	if n := k.cut.Load(); n > 0 {
		t.Errorf("%d messages came without all of their descriptors", n)
	}
}

// wholeControl is the kernel, and counts messages whose control message was cut off: what is missing, the kernel has
// closed within the call.
type wholeControl struct {
	sys.Kernel
	cut atomic.Int64
}

func (k *wholeControl) Recvmmsg(seam string, fd int, vec []sys.Mmsghdr) (int, unix.Errno) {
	n, errno := k.Kernel.Recvmmsg(seam, fd, vec)
	for i := range n {
		if vec[i].Hdr.Flags&unix.MSG_CTRUNC != 0 {
			k.cut.Add(1)
		}
	}
	return n, errno
}

// gate is the kernel, and holds up who comes to certain seams.
type gate struct {
	sys.Kernel
	at     map[string]bool
	closed atomic.Bool
	held   atomic.Int64
}

func (g *gate) Seam(name string) {
	if !g.at[name] || !g.closed.Load() {
		return
	}
	g.held.Add(1)
	for g.closed.Load() {
		time.Sleep(time.Millisecond)
	}
}

// TestSlowDescriptors: where the kernel cannot refuse descriptors, and closing the last copy takes 4 s, nobody who matters
// is held up: not the data path, not registrations, not framed clients.
func TestSlowDescriptors(t *testing.T) {
	g := &gate{at: map[string]bool{"register.settled": true, "attach.stored": true}}
	b := brokertest.StartWith(t, olderKernel, func(cfg *broker.Config) { cfg.Ops = g })
	// The broker is to have the last copy: it is kept from receiving until all others are closed. There is no sink, and
	// the registrar and both doors are held up by somebody else.
	give := func(conn *net.UnixConn, text []byte) {
		t.Helper()
		fd := lingering(t, 4*time.Second)
		if err := sendRights(conn, text, fd); err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
	}
	packets, broken, talker := brokertest.NewPublisher(t, b.Dir), brokertest.NewPublisher(t, b.Dir), brokertest.NewSubscriber(t, b.Dir, "tap=yes")
	g.closed.Store(true)
	held := dialRegister(t, b.Dir)
	if _, err := held.Write([]byte("@nobody")); err != nil {
		t.Fatal(err)
	}
	for _, socket := range []string{"publish", "subscribe"} {
		brokertest.Dial(t, b.Dir, socket).SendPacket([]byte(wire.Protocol + "\ntap=yes"))
	}
	test.Eventually(t, "all are held up", func() bool { return g.held.Load() == 3 })

	give(brokertest.NewSource(t, b.Dir).Conn, []byte("a message"))
	give(packets.Conn, wire.AppendRecord(nil, []byte("a message")))
	give(broken.Conn, []byte("no packet"))
	give(dialRegister(t, b.Dir), []byte("@nobody"))
	give(brokertest.Dial(t, b.Dir, "publish").Conn, []byte(wire.Protocol))
	give(brokertest.Dial(t, b.Dir, "subscribe").Conn, []byte(wire.Protocol+"\ntap=yes"))
	give(brokertest.Dial(t, b.Dir, "subscribe").Conn, []byte("no hello"))
	silent := brokertest.Dial(t, b.Dir, "subscribe")
	give(silent.Conn, nil)
	silent.Close()
	give(talker.Conn, []byte("what a sink must not send"))
	talker.Close()
	began := time.Now()
	g.closed.Store(false)
	works(t, b.Dir)
	probe := startProbe(t, b.Dir)
	slow := lingering(t, 4*time.Second)
	if err := sendRights(brokertest.Dial(t, b.Dir, "control").Conn, []byte(`{"op":"status"}`), slow); err != nil {
		t.Fatal(err)
	}
	go unix.Close(slow) // nothing keeps control from being faster, and then this is the last copy
	gone(t, b, talker.ID)
	works(t, b.Dir)
	before := openSockets()
	for range 20 {
		brokertest.NewSubscriber(t, b.Dir).Close()
	}
	test.Eventually(t, "what others leave is closed", func() bool { return openSockets() <= before+5 })
	if r := brokertest.Register(t, b.Dir, "@nobody"); codeOf(r.Err) != wire.CodeNoPeer {
		t.Errorf("%+v", r)
	}
	brokertest.Ask(t, b.Dir, wire.Request{Op: wire.OpStatus})
	probe.check(t, 50*time.Millisecond, 1500*time.Millisecond)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("all of it took %s", took)
	}
}
