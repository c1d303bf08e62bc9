// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// Bad input on register: refused with an error that says what to do, logged at most once a minute for each user and reason;
// nothing leaks; all others are served.

// TestBadRegistration: each kind, with the code and the advice that its sender gets.
func TestBadRegistration(t *testing.T) {
	log := &keptLog{}
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
		test.Eventually(t, fmt.Sprintf("registered by %q", text), func() bool {
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
	dir := test.Folder(t)
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
	log := &keptLog{}
	b := brokertest.Start(t, keepLog(log))
	openToAll(t, b.Dir)
	probe := startProbe(t, b.Dir)
	test.Eventually(t, "all is running", func() bool { return b.Channel.Status().Entered > 10 })
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
	test.Eventually(t, "nothing has leaked", func() bool {
		return openSockets() <= sockets+2 && runtime.NumGoroutine() <= goroutines+2
	})
	works(t, b.Dir)
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

// TestRenamed: a socket that was bound under one name and renamed into place is found by an empty first line, also when its old
// name leads to somebody else's by now; and it is removed like that.
func TestRenamed(t *testing.T) {
	needRoot(t)
	b := brokertest.Start(t)
	openToAll(t, b.Dir)
	if err := os.Mkdir(b.Dir+"/all", 0o777); err != nil {
		t.Fatal(err)
	}
	os.Chmod(b.Dir+"/all", 0o777)
	for name, taken := range map[string]bool{"a": false, "b": true} {
		path := b.Dir + "/all/" + name
		sink := strangersSocket(t, path+".new")
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		os.Chmod(path, 0o777)
		var victim *brokertest.Sink
		if taken {
			victim = brokertest.NewSocket(t, path+".new")
		}
		before := b.Channel.Status().Sinks.Total
		sendAs(t, b.Dir, stranger, sink, "\nlabel="+name)
		test.Eventually(t, name+" is a sink", func() bool { return b.Channel.Status().Sinks.Total == before+1 })
		if err := brokertest.NewSource(t, b.Dir).Send(stamped(1, 0, 100)); err != nil {
			t.Fatal(err)
		}
		receiveSeq(t, sink, 1, 0, 1)
		if taken {
			receivesNothing(t, victim, "who has the old name")
		}
		sendAs(t, b.Dir, stranger, sink, "\nremove")
		test.Eventually(t, name+" is none any more", func() bool { return b.Channel.Status().Sinks.Total == before })
	}
}

// TestBoundToARelativePath: what the kernel tells of such a socket is no way to it. That is said, where it can be, and logged, also of
// one that is waiting for an answer.
func TestBoundToARelativePath(t *testing.T) {
	log := &keptLog{}
	b := brokertest.Start(t, keepLog(log))
	dir := test.Folder(t)
	t.Chdir(dir)
	sink := brokertest.NewSocket(t, "sink")
	ask := func(from *brokertest.Sink, text string) {
		t.Helper()
		if _, err := from.Conn.WriteToUnix([]byte(text), &net.UnixAddr{Name: b.Dir + "/register", Net: "unixgram"}); err != nil {
			t.Fatal(err)
		}
	}
	ask(sink, "\n")
	log.logged(t, 1, "registration refused", "code=bad-address", "bound to", "sink", "write an absolute path")
	ask(brokertest.NewSocket(t, "second"), dir+"/sink\nreply=yes\n")
	log.logged(t, 1, "no answer sent to a registration", "second")
	if err := brokertest.NewSource(t, b.Dir).Send(stamped(1, 0, 100)); err != nil {
		t.Fatal(err)
	}
	receiveSeq(t, sink, 1, 0, 1) // the absolute path is a way to it
}
