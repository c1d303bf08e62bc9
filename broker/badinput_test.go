// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/broker/sys"
	"github.com/msgmux/msgmux/broker/wire"
)

// Bad input on register, source and control, and sinks that misbehave: refused with an error that says what to do,
// logged at most once a minute for each user and reason; nothing leaks; all others are served.

// probe measures the data path while something else goes on: it sends messages to a sink of its own, one after the other.
type probe struct {
	stop chan struct{}
	took chan []time.Duration
	n    atomic.Int64
}

func startProbe(t *testing.T, dir string) *probe {
	t.Helper()
	source, sink := brokertest.NewSource(t, dir), brokertest.NewSink(t, dir, "label=probe")
	p := &probe{stop: make(chan struct{}), took: make(chan []time.Duration, 1)}
	go func() {
		var took []time.Duration
		defer func() { p.took <- took }()
		for i := uint64(0); ; i++ {
			select {
			case <-p.stop:
				return
			case <-time.After(time.Millisecond):
			}
			began := time.Now()
			if err := source.Send(stamped(7777, i, 20)); err != nil {
				t.Error("probe:", err)
				return
			}
			for {
				m, err := sink.Receive()
				if err != nil {
					t.Errorf("probe %d: %v", i, err)
					return
				}
				if src, seq, _ := stamp(m); src == 7777 && seq == i {
					break
				}
			}
			took = append(took, time.Since(began))
			p.n.Add(1)
		}
	}()
	return p
}

// check ends the probe: nothing may have taken longer than worst, and half of it not longer than median.
func (p *probe) check(t *testing.T, median, worst time.Duration) {
	t.Helper()
	brokertest.Eventually(t, "ten messages of the probe", func() bool { return p.n.Load() >= 10 })
	close(p.stop)
	took := <-p.took
	slices.Sort(took)
	m, w := took[len(took)/2], took[len(took)-1]
	t.Logf("%d messages meanwhile: median %s, worst %s", len(took), m, w)
	if m > median || w > worst {
		t.Errorf("a message took %s (median), %s (worst)", m, w)
	}
}

// TestBadRegistration: each kind, with the code and the advice that its sender gets.
func TestBadRegistration(t *testing.T) {
	log := &journal{}
	b := brokertest.Start(t, keepLog(log))
	stream, err := net.Listen("unix", b.Dir+"/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if err := os.WriteFile(b.Dir+"/file", []byte("text"), 0o666); err != nil {
		t.Fatal(err)
	}
	brokertest.NewSocket(t, b.Dir+"/stale").Close()
	unix.Mknod(b.Dir+"/stale", unix.S_IFSOCK|0o666, 0)
	mine := brokertest.NewSocket(t, brokertest.Name())
	elsewhere := brokertest.NewSocket(t, brokertest.Name())
	raw, _ := elsewhere.Conn.SyscallConn()
	raw.Control(func(fd uintptr) { unix.Connect(int(fd), &unix.SockaddrUnix{Name: mine.Name}) })

	count := make(map[string]uint64)
	for _, test := range []struct {
		lines string // "reply=yes" is put behind
		code  string
		words string
	}{
		{"@nobody-has-it", wire.CodeNoPeer, "bind it first"},
		{"/nowhere/at/all", wire.CodeNoPeer, "bind the socket first"},
		{b.Dir + "/stale", wire.CodeNoPeer, "bind again"},
		{b.Dir, wire.CodeWrongType, "not a socket"},
		{b.Dir + "/file", wire.CodeWrongType, "not a socket"},
		{b.Dir + "/stream", wire.CodeWrongType, "SOCK_DGRAM"},
		{b.Dir + "/control", wire.CodeWrongType, "SOCK_DGRAM"},
		{b.Dir + "/source", wire.CodeLoop, "receives from"},
		{b.Dir + "/register", wire.CodeLoop, "receives from"},
		{"/dev/null", wire.CodeWrongType, "not a socket"},
		{elsewhere.Name, wire.CodeAccess, "connected to another socket"},
		{"relative", wire.CodeBadAddress, "/absolute/path"},
		{"../" + b.Dir + "/source", wire.CodeBadAddress, "/absolute/path"},
		{"@", wire.CodeBadAddress, "empty"},
		{"@" + strings.Repeat("x", 108), wire.CodeBadAddress, "107"},
		{"/" + strings.Repeat("x", 107), wire.CodeBadAddress, "107"},
		{"@name\x00\x00\x00", wire.CodeBadAddress, "offsetof(struct sockaddr_un, sun_path)"},
		{"@na\x00me", wire.CodeBadAddress, "control characters"},
		{"@\x1b[2Jname", wire.CodeBadAddress, `\x1b[2Jname`},
		{"@name\u202e", wire.CodeBadAddress, "control characters"},
		{mine.Name + "\nlabel=\x1b]0;owned\x07", wire.CodeBadOption, `"\x1b]0;owned\a"`},
		{mine.Name + "\nlabel=a b", wire.CodeBadOption, "A-Z a-z 0-9"},
		{mine.Name + "\nlabel=" + strings.Repeat("x", 65), wire.CodeBadOption, "64"},
		{mine.Name + "\nlabel=", wire.CodeBadOption, "1 to 64"},
		{mine.Name + "\npatience=-1s", wire.CodeBadOption, "patience"},
		{mine.Name + "\npatience=5", wire.CodeBadOption, "patience"},
		{mine.Name + "\npatience=1000000000h", wire.CodeBadOption, "patience"},
		{mine.Name + "\nstart=never", wire.CodeBadOption, "oldest"},
		{mine.Name + "\nshare=a/b", wire.CodeBadOption, "share"},
		{mine.Name + "\ntap=1", wire.CodeBadOption, "yes or no"},
		{mine.Name + "\ntap=yes\nshare=x", wire.CodeBadOption, "does not go with"},
		{mine.Name + "\ntap=yes\npatience=1s", wire.CodeBadOption, "does not go with"},
		{mine.Name + "\nlabel=a\nlabel=b", wire.CodeBadOption, "twice"},
		{mine.Name + "\ncolour=red", wire.CodeUnknownOption, "there are label"},
		{mine.Name + "\nlabel", wire.CodeBadText, "option=value"},
		{mine.Name + "\nremove\nlabel=x", wire.CodeBadOption, "remove goes with reply only"},
		{mine.Name + "\nremove", wire.CodeNotFound, "no sink"},
	} {
		r := brokertest.Register(t, b.Dir, test.lines)
		if codeOf(r.Err) != test.code || !strings.Contains(r.Err.Text, test.words) {
			t.Errorf("%q: %+v; want %s with %q", test.lines, r.Err, test.code, test.words)
			continue
		}
		if strings.ContainsAny(r.Err.Text, "\x1b\x00\n\u202e") {
			t.Errorf("%q: the text would do things to a terminal: %q", test.lines, r.Err.Text)
		}
		count[test.code]++
	}
	// Those that cannot be answered.
	garbage := make([]byte, 400)
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range garbage {
		garbage[i] = byte(rnd.Uint32() | 0x80)
	}
	nulled := brokertest.NewSocket(t, (brokertest.Name() + strings.Repeat("\x00", 107))[:107])
	asker := brokertest.NewSource(t, b.Dir) // for an unbound socket
	raw, _ = asker.Conn.SyscallConn()
	send := func(s *brokertest.Sink, text []byte, code string) {
		t.Helper()
		count[code]++
		to := &net.UnixAddr{Name: b.Dir + "/register", Net: "unixgram"}
		if s != nil {
			if _, err := s.Conn.WriteToUnix(text, to); err != nil {
				t.Fatal(err)
			}
			return
		}
		raw.Control(func(fd uintptr) {
			if err := unix.Sendto(int(fd), text, 0, &unix.SockaddrUnix{Name: to.Name}); err != nil {
				t.Fatal(err)
			}
		})
	}
	send(nil, nil, wire.CodeBadAddress)
	send(nil, []byte("\nlabel=x\nreply=yes\n"), wire.CodeBadAddress)
	send(nil, []byte(mine.Name+"\nlabel=a b\nreply=yes\n"), wire.CodeBadOption)
	send(mine, garbage, wire.CodeBadText)
	send(mine, bytes.Repeat([]byte("@x\n"), 100<<10/3), wire.CodeTooLarge)
	send(mine, append([]byte(mine.Name+"\n"), make([]byte, 5000)...), wire.CodeTooLarge)
	send(nulled, []byte("\n"), wire.CodeBadAddress)
	brokertest.Register(t, b.Dir, "@behind-them")
	count[wire.CodeNoPeer]++

	st := b.Channel.Status()
	for code, n := range count {
		if st.Registrations[code] != n {
			t.Errorf("%s is counted %d times, not %d", code, st.Registrations[code], n)
		}
		log.logged(t, 1, "registration-refused", "code="+code)
	}
	if len(log.grep("\x1b")) > 0 {
		t.Error("the log would do things to a terminal")
	}
	if st.Sinks.Total != 0 || st.Received != 0 {
		t.Errorf("%+v", st)
	}
	receivesNothing(t, mine, "the socket that was never registered")
	receivesNothing(t, nulled, "the socket with NULs in its name")

	// After all of it, the same socket is registered well, in each way.
	for i, text := range []string{"\n", "", mine.Name, mine.Name + "\r\nlabel=x\r\n", "\nlabel=y"} {
		if _, err := mine.Conn.WriteToUnix([]byte(text), &net.UnixAddr{Name: b.Dir + "/register", Net: "unixgram"}); err != nil {
			t.Fatal(err)
		}
		brokertest.Eventually(t, fmt.Sprintf("registered by %q", text), func() bool {
			return b.Channel.Status().Registrations["ok"] == uint64(i+1)
		})
	}
	if st := b.Channel.Status(); st.Sinks.Total != 1 {
		t.Errorf("%d sinks", st.Sinks.Total)
	}
	works(t, b.Dir)
}

// TestUnwritable: the broker runs as another user, who may not write to a sink that was bound with umask 022.
func TestUnwritable(t *testing.T) {
	needRoot(t)
	t.Parallel()
	p := newProcess(t, "--buffer", "1M")
	os.Chmod(programFolder(t), 0o755)
	if err := os.Chown(p.Dir, stranger, stranger); err != nil {
		t.Fatal(err)
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
	p.start(t)
	p.serves(t)
	dir, err := os.MkdirTemp("", "mm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o755)
	sink := brokertest.NewSocket(t, dir+"/s")
	os.Chmod(sink.Name, 0o755)
	r := brokertest.Register(t, p.Dir, sink.Name)
	if codeOf(r.Err) != wire.CodeAccess || !strings.Contains(r.Err.Text, "or use an abstract name") {
		t.Fatalf("%+v", r)
	}
	os.Chmod(sink.Name, 0o777)
	if r := brokertest.Register(t, p.Dir, sink.Name); r.Err != nil {
		t.Errorf("once it may: %v", r.Err)
	}
	works(t, p.Dir)
}

// TestRegistrationStorm: 20,000 bad registrations in a row from several users cost their senders' time and nobody
// else's.
func TestRegistrationStorm(t *testing.T) {
	log := &journal{}
	b := brokertest.Start(t, keepLog(log))
	openToAll(t, b.Dir)
	probe := startProbe(t, b.Dir)
	brokertest.Eventually(t, "all is running", func() bool { return b.Channel.Status().Entered > 10 })
	goroutines := runtime.NumGoroutine()

	const total = 20000
	mine := brokertest.NewSocket(t, brokertest.Name())
	sockets := openSockets()
	garbage := bytes.Repeat([]byte{0xff}, 200)
	texts := [][]byte{nil, []byte("relative"), []byte("@nobody-has-it"), []byte(b.Dir), garbage, []byte(mine.Name + "\nlabel=\x1b[1m"),
		[]byte("@x\n" + strings.Repeat("#", 5000)), []byte(b.Dir + "/source"), []byte(mine.Name + "\ncolour=red"), []byte(mine.Name + "\nremove")}
	var storm sync.WaitGroup
	began := time.Now()
	for k := range 2 {
		storm.Go(func() {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer unix.Close(fd)
			to := &unix.SockaddrUnix{Name: b.Dir + "/register"}
			for i := range total / 2 {
				var creds []byte
				if k == 1 && os.Geteuid() == 0 {
					creds = unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getpid()), Uid: uint32(i%3 + 1), Gid: 1})
				}
				if err := unix.Sendmsg(fd, texts[i%len(texts)], creds, to, 0); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	served := 0
	ended := make(chan struct{})
	go func() { storm.Wait(); close(ended) }()
	var longest time.Duration
	for running := true; running; {
		began := time.Now()
		s := brokertest.NewSink(t, b.Dir)
		if r := brokertest.Register(t, b.Dir, s.Name, "remove"); r.Err != nil {
			t.Fatal(r.Err)
		}
		s.Close()
		longest = max(longest, time.Since(began))
		served++
		select {
		case <-ended:
			running = false
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Logf("%d in %s; %d others were registered and removed meanwhile, the slowest in %s", total, time.Since(began), served, longest)
	brokertest.Register(t, b.Dir, "@behind-them")
	probe.check(t, 50*time.Millisecond, 2*time.Second)
	if longest > 2*time.Second {
		t.Errorf("a good registration took %s", longest)
	}
	st := b.Channel.Status()
	var bad uint64
	for code, n := range st.Registrations {
		if code != "ok" {
			bad += n
		}
	}
	if bad != total+1 || st.LogDropped > 0 {
		t.Errorf("%d are counted, %d log lines dropped", bad, st.LogDropped)
	}
	if lines := log.grep("registration-refused"); len(lines) > 40 { // four users and eight reasons
		t.Errorf("%d lines in the log", len(lines))
	}
	mine.Close()
	brokertest.Eventually(t, "nothing has leaked", func() bool {
		return openSockets() <= sockets+2 && runtime.NumGoroutine() <= goroutines+2
	})
	works(t, b.Dir)
}

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

func dialRegister(t *testing.T, dir string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: dir + "/register", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// olderKernel makes a broker one of before Linux 6.16: its sockets take descriptors.
func olderKernel(cfg *broker.Config) {
	cfg.KeepRights = true
	in := &cfg.Inherited
	for _, fd := range []int{in.Source.FD, in.Publish.FD, in.Register.FD, in.Subscribe.FD, in.Control.FD} {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 1)
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
	b := brokertest.Start(t, olderKernel, func(cfg *broker.Config) { cfg.Ops = k })
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
	brokertest.Eventually(t, "all copies are closed", func() bool {
		_, err := w.Write([]byte("x"))
		return err != nil
	})
	w.Close()
	brokertest.Eventually(t, "no descriptor has leaked", func() bool { return len(openDescriptors()) <= before })
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
	b := brokertest.Start(t, olderKernel, func(cfg *broker.Config) { cfg.Ops = g })
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
	brokertest.Eventually(t, "all are held up", func() bool { return g.held.Load() == 3 })

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
	brokertest.Eventually(t, "what others leave is closed", func() bool { return openSockets() <= before+5 })
	if r := brokertest.Register(t, b.Dir, "@nobody"); codeOf(r.Err) != wire.CodeNoPeer {
		t.Errorf("%+v", r)
	}
	brokertest.Ask(t, b.Dir, wire.Request{Op: wire.OpStatus})
	probe.check(t, 50*time.Millisecond, 1500*time.Millisecond)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("all of it took %s", took)
	}
}

// TestBadRequest: bad requests on control are answered with an error; silent clients, and such that do not read, keep
// nobody out.
func TestBadRequest(t *testing.T) {
	b := brokertest.Start(t)
	brokertest.NewSink(t, b.Dir, "label=sink")
	for request, code := range map[string]string{
		"hello":                           wire.CodeBadText,
		"{":                               wire.CodeBadText,
		"{}":                              wire.CodeUnsupported,
		"null":                            wire.CodeUnsupported,
		"[]":                              wire.CodeBadText,
		`"status"`:                        wire.CodeBadText,
		`{"op":1}`:                        wire.CodeBadText,
		`{"op":["status"]}`:               wire.CodeBadText,
		`{"op":{"op":"status"}}`:          wire.CodeBadText,
		`{"op":"fly"}`:                    wire.CodeUnsupported,
		`{"op":"status"} {"op":"status"}`: wire.CodeBadText,
		`{"op":"status","sink":"x"}`:      wire.CodeBadOption,
		`{"op":"status","colour":"red"}`:  wire.CodeBadText,
		`{"op":"drop"}`:                   wire.CodeBadOption,
		`{"op":"drop","sink":7}`:          wire.CodeBadText,
		`{"op":"drop","sink":"nobody"}`:   wire.CodeNotFound,
		`{"op":"drop","sink":"#999"}`:     wire.CodeNotFound,
		`{"op":"drop","sink":"#-1"}`:      wire.CodeNotFound,
		`{"op":"drop","sink":"#"}`:        wire.CodeNotFound,
		`{"op":"set","sink":"sink"}`:      wire.CodeBadOption,
		`{"op":"set","sink":"sink","patience":"soon"}`:               wire.CodeBadOption,
		`{"op":"set","sink":"sink","patience":5}`:                    wire.CodeBadText,
		strings.Repeat("[", 60000):                                   wire.CodeBadText,
		strings.Repeat(`{"op":`, 10000):                              wire.CodeBadText,
		`{"op":"` + strings.Repeat("x", 60000) + `"}`:                wire.CodeUnsupported,
		`{"op":"drop","sink":"` + strings.Repeat("x", 100000) + `"}`: wire.CodeTooLarge,
		strings.Repeat(" ", 4<<20):                                   wire.CodeTooLarge,
		"\xff\xfe\x00":                                               wire.CodeBadText,
	} {
		c := brokertest.Dial(t, b.Dir, "control")
		if err := c.SendPacket([]byte(request)); err != nil {
			t.Fatal(err)
		}
		a, err := c.Answer()
		if err != nil || a.OK || codeOf(a.Error) != code || len(a.Error.Text) > 1024 {
			t.Errorf("%.60q: %+v, %v; want %s", request, a.Error, err, code)
		}
		c.Close()
	}
	// 10 MB in one packet is more than the kernel takes; in many packets only the first one counts.
	c := brokertest.Dial(t, b.Dir, "control")
	if err := c.SendPacket(make([]byte, 10<<20)); err == nil {
		t.Error("the kernel took a packet of 10 MB")
	}
	for i := range 160 {
		if err := c.TrySend(bytes.Repeat([]byte("x"), 64<<10)); err != nil {
			break
		} else if i == 159 {
			t.Error("10 MB were taken")
		}
	}
	c.Close()
	probe := startProbe(t, b.Dir)
	began := time.Now()
	for i := range 200 {
		c := brokertest.Dial(t, b.Dir, "control")
		if i%2 == 0 {
			c.SendPacket([]byte(`{"op":"list"}`))
		}
	}
	if a := brokertest.Ask(t, b.Dir, wire.Request{Op: wire.OpStatus}); !a.OK || a.Status.Sinks.Total != 2 {
		t.Errorf("%+v", a)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("with 200 clients that say nothing or do not read, an answer took %s", took)
	}
	probe.check(t, 50*time.Millisecond, 2*time.Second)
}

// TestSinkTurnsAway: a sink that connects its socket elsewhere, or shuts it down for reading, is gone; it alone loses.
func TestSinkTurnsAway(t *testing.T) {
	for name, turn := range map[string]func(fd int, elsewhere string) error{
		"connects elsewhere": func(fd int, elsewhere string) error { return unix.Connect(fd, &unix.SockaddrUnix{Name: elsewhere}) },
		"shuts down":         func(fd int, _ string) error { return unix.Shutdown(fd, unix.SHUT_RD) },
	} {
		t.Run(name, func(t *testing.T) {
			b := brokertest.Start(t)
			source, other := brokertest.NewSource(t, b.Dir), brokertest.NewSink(t, b.Dir)
			for _, options := range [][]string{nil, {"frames=yes"}, {"tap=yes"}, {"share=x"}} {
				sink := brokertest.NewSink(t, b.Dir, options...)
				elsewhere := brokertest.NewSocket(t, brokertest.Name())
				raw, _ := sink.Conn.SyscallConn()
				raw.Control(func(fd uintptr) {
					if err := turn(int(fd), elsewhere.Name); err != nil {
						t.Fatal(err)
					}
				})
				for i := range uint64(20) {
					if err := source.Send(stamped(1, i, 100)); err != nil {
						t.Fatal(err)
					}
				}
				receiveSeq(t, other, 1, 0, 20)
				gone(t, b, sink.ID)
				receivesNothing(t, elsewhere, "where it connected to")
			}
			if s := sinkOf(t, b, other.ID); s.Lost != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestSinkMovesItsName: a connected sink stays connected when its file goes and another socket takes the path.
func TestSinkMovesItsName(t *testing.T) {
	b := brokertest.Start(t)
	source := brokertest.NewSource(t, b.Dir)
	sink := brokertest.NewSocket(t, b.Dir+"/s")
	if r := brokertest.Register(t, b.Dir, sink.Name); r.Err != nil {
		t.Fatal(r.Err)
	}
	removeFile(t, sink.Name)
	second := brokertest.NewSocket(t, sink.Name)
	if err := source.Send(stamped(1, 0, 100)); err != nil {
		t.Fatal(err)
	}
	receiveSeq(t, sink, 1, 0, 1)
	receivesNothing(t, second, "the new socket at that path, which nobody registered")
}

// TestSourceMisbehaves: what sources can do with their sockets harms nobody.
func TestSourceMisbehaves(t *testing.T) {
	b := brokertest.Start(t)
	sink := brokertest.NewSink(t, b.Dir)
	source := brokertest.NewSource(t, b.Dir)
	raw, _ := source.Conn.SyscallConn()
	raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RD) })
	if err := source.Send(stamped(1, 0, 100)); err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_WR) })
	if err := source.Send(stamped(1, 1, 100)); err == nil {
		t.Error("sent after shutdown")
	}
	receiveSeq(t, sink, 1, 0, 1)
	// One that a path leads to, and one without a name, each closed at once.
	for i := range uint64(50) {
		s := brokertest.NewSource(t, b.Dir)
		if err := s.Send(stamped(2, i, 100)); err != nil {
			t.Fatal(err)
		}
		s.Conn.Close()
	}
	receiveSeq(t, sink, 2, 0, 50)
}
