// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// needCredentials wants the test's process to have what sending others' credentials takes.
func needCredentials(t *testing.T) {
	t.Helper()
	if lacked := sys.LackedForCredentials(); len(lacked) > 0 {
		need.Lacking(t, "unit", "only root with %v can do this", lacked)
	}
}

// attested has the kernel tell who has sent what a sink receives (SO_PASSCRED), as a StatsD agent or a syslog daemon does.
func attested(t *testing.T, s *brokertest.Sink) *brokertest.Sink {
	t.Helper()
	raw, err := s.Conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { sys.PassCredentials(int(fd), true) })
	return s
}

// newAttested is a registered sink whose receiver is told who has sent what it gets.
func newAttested(t *testing.T, dir string, options ...string) *brokertest.Sink {
	t.Helper()
	s := attested(t, brokertest.NewSocket(t, brokertest.Name()))
	r := brokertest.Register(t, dir, append([]string{s.Name}, options...)...)
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	s.ID = r.ID
	return s
}

// signed is a message with what the kernel says of its sender.
type signed struct {
	text string
	sys.Credentials
}

func receiveSigned(t *testing.T, s *brokertest.Sink) signed {
	t.Helper()
	s.Conn.SetReadDeadline(time.Now().Add(brokertest.Within))
	b, control := make([]byte, 1<<16), make([]byte, sys.ControlSpace)
	n, k, _, _, err := s.Conn.ReadMsgUnix(b, control)
	if err != nil {
		t.Fatal(err)
	}
	who, ok := sys.FindCredentials(control[:k])
	if !ok {
		t.Fatalf("nobody is said to have sent %q", b[:n])
	}
	return signed{string(b[:n]), who}
}

// itself is this process, which is the broker too.
func itself() sys.Credentials {
	return sys.Credentials{PID: int32(os.Getpid()), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
}

// sayAs has a process of that user send its pid, and returns its credentials. It stays until the returned function is called.
func sayAs(t *testing.T, dir string, uid uint32) (who sys.Credentials, end func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Dir, cmd.Stderr = append(os.Environ(), senderRole+"=unixgram "+dir+"/source", senderStays+"=yes"), "/", t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid + 1}}
	out, end := startPiped(t, cmd)
	if _, err := io.ReadFull(out, make([]byte, 5)); err != nil { // "sent\n"
		t.Fatal(err)
	}
	return sys.Credentials{PID: int32(cmd.Process.Pid), UID: uid, GID: uid + 1}, end
}

// TestPromise11_PassedOn: a sink with credentials=pass gets, for the kernel, its messages from whoever has sent them; one beside
// it, which shares what is built for both, gets them from the broker.
func TestPromise11_PassedOn(t *testing.T) {
	needCredentials(t)
	b := brokertest.Start(t)
	openToAll(t, b.Dir)
	plain := newAttested(t, b.Dir)
	pass := newAttested(t, b.Dir, "credentials=pass")
	lines := newAttested(t, b.Dir, "credentials=pass", "end=newline")
	quiet := brokertest.NewSink(t, b.Dir, "credentials=pass") // its receiver does not ask the kernel
	for uid := uint32(stranger); uid < stranger+3; uid++ {
		who, end := sayAs(t, b.Dir, uid)
		text := fmt.Sprint(who.PID)
		for _, c := range []struct {
			sink *brokertest.Sink
			want signed
		}{{pass, signed{text, who}}, {lines, signed{text + "\n", who}}, {plain, signed{text, itself()}}} {
			if got := receiveSigned(t, c.sink); got != c.want {
				t.Errorf("received %+v instead of %+v", got, c.want)
			}
		}
		if got, err := quiet.Receive(); err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
		end()
	}
	if s := sinkOf(t, b, pass.ID); s.Credentials != "pass" || s.Lost != 0 {
		t.Errorf("%+v", s)
	}
	if n := counted(b).AsOwn; n != 0 {
		t.Errorf("%d messages went as the broker's own", n)
	}
	// The same over a connection: who has connected.
	publisher := brokertest.NewPublisher(t, b.Dir)
	if err := publisher.Send([]byte("packet")); err != nil {
		t.Fatal(err)
	}
	if got := receiveSigned(t, pass); got != (signed{"packet", itself()}) {
		t.Errorf("%+v", got)
	}
}

// TestPromise11_PassedOnFromTheGone: a sender that is gone by the time its message is sent on makes no message be lost, late or out
// of turn. It comes from the broker then, and is counted; what is behind it comes from whom it does.
func TestPromise11_PassedOnFromTheGone(t *testing.T) {
	needCredentials(t)
	b := brokertest.Start(t)
	pass := newAttested(t, b.Dir, "credentials=pass", "patience=1m")
	source := brokertest.NewSource(t, b.Dir)
	// Its queue is full: what comes now waits in the ring.
	n := 0
	for ; ; n++ {
		if err := source.Send([]byte("fill")); err != nil {
			t.Fatal(err)
		}
		// What waits for a moment is not what waits for room.
		waits, deadline := true, time.Now().Add(2*time.Second)
		for ; waits && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			waits = sinkOf(t, b, pass.ID).Waiting > 0
		}
		if waits {
			break
		}
	}
	gone := []int{sendAsProcess(t, b.Dir, true, nil), sendAsProcess(t, b.Dir, true, nil)}
	if err := source.Send([]byte("between")); err != nil {
		t.Fatal(err)
	}
	gone = append(gone, sendAsProcess(t, b.Dir, true, nil))
	if err := source.Send([]byte("behind")); err != nil {
		t.Fatal(err)
	}
	test.Eventually(t, "all of them in the ring", func() bool { return b.Channel.Status().Entered == uint64(n+6) })
	for range n + 1 {
		if got := receiveSigned(t, pass); got != (signed{"fill", itself()}) {
			t.Fatalf("%+v", got)
		}
	}
	for _, want := range []string{fmt.Sprint(gone[0]), fmt.Sprint(gone[1]), "between", fmt.Sprint(gone[2]), "behind"} {
		if got := receiveSigned(t, pass); got != (signed{want, itself()}) {
			t.Errorf("received %+v instead of %q", got, want)
		}
	}
	if s := sinkOf(t, b, pass.ID); s.Lost != 0 || s.Waiting != 0 {
		t.Errorf("%+v", s)
	}
	if n := counted(b).AsOwn; n != 3 {
		t.Errorf("%d messages are counted as the broker's own", n)
	}
}

// TestPromise11_PassedOnFromTheShortLived: of ten thousand processes that send their pid and end, each message comes from that process
// or, counted, from the broker.
func TestPromise11_PassedOnFromTheShortLived(t *testing.T) {
	needCredentials(t)
	const senders = 10_000
	program := buildShortLived(t)
	b := brokertest.Start(t)
	pass := newAttested(t, b.Dir, "credentials=pass", "patience=1m")
	crowd := exec.Command(program, b.Dir+"/source", strconv.Itoa(senders))
	if err := crowd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { crowd.Process.Kill(); crowd.Wait() })
	asOwn := uint64(0)
	for i := range senders {
		switch got := receiveSigned(t, pass); {
		case got.Credentials == itself():
			asOwn++
		case fmt.Sprint(got.PID) != got.text:
			t.Fatalf("message %d, %q, comes from %+v", i, got.text, got.Credentials)
		}
	}
	s := sinkOf(t, b, pass.ID) // the last one is accounted for
	if n := counted(b).AsOwn; n != asOwn || s.Lost != 0 || s.Accepted != senders {
		t.Errorf("%d came from the broker, and %d are counted; %+v", asOwn, n, s)
	}
	t.Logf("of %d, %d came from the broker", senders, asOwn)
}

// TestPromise11_PassedOnAcrossNamespaces: a sender in a pid namespace below is known by its number in the broker's; one that has no
// number there comes from the broker, and is counted.
func TestPromise11_PassedOnAcrossNamespaces(t *testing.T) {
	needCredentials(t)
	dir := test.Folder(t)
	pass := attested(t, brokertest.NewSocket(t, dir+"/pass"))
	p := newProcess(t, "--sink", pass.Name+",credentials=pass")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	p.start(t)
	p.serves(t)
	test.Eventually(t, "the sink is reached, and the kernel asked", func() bool {
		_, sinks := p.status(t)
		return len(sinks) == 1 && sinks[slices.Collect(maps.Keys(sinks))[0]].State == "ready"
	})
	source := brokertest.NewSource(t, p.Dir)
	if err := source.Send([]byte("from outside")); err != nil {
		t.Fatal(err)
	}
	// The broker is outside of nothing that this process is in: as it is seen from here, it has sent that.
	if got := receiveSigned(t, pass); got != (signed{"from outside", sys.Credentials{PID: int32(p.cmd.Process.Pid)}}) {
		t.Errorf("%+v", got)
	}
	// Whoever gets a message may be faster than the broker is in counting it.
	test.Eventually(t, "it is counted as the broker's own", func() bool { st, _ := p.status(t); return st.AsOwn == 1 })

	b := brokertest.Start(t)
	inside := newAttested(t, b.Dir, "credentials=pass", "patience=1m")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Dir, cmd.Stderr = append(os.Environ(), senderRole+"=unixgram "+b.Dir+"/source", senderStays+"=yes"), "/", t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	startPiped(t, cmd)
	if got := receiveSigned(t, inside); got != (signed{"1", sys.Credentials{PID: int32(cmd.Process.Pid)}}) {
		t.Errorf("%+v", got)
	}
}

// TestCredentialsNeedCapabilities: without the capabilities credentials=pass is refused by name of what is lacking, wherever it is
// asked for, and a sink that has it from a broker before goes on with the broker's own.
func TestCredentialsNeedCapabilities(t *testing.T) {
	lacking := func(cfg *broker.Config) { broker.SetLacked(cfg, "CAP_SYS_ADMIN", "CAP_SETGID") }
	options := t.TempDir()
	if err := os.WriteFile(options+"/pass.conf", []byte("credentials=pass\nend=newline\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	j := &keptLog{}
	b := brokertest.Start(t, lacking, keepLog(j), func(cfg *broker.Config) { cfg.OptionsDir = options })
	s := brokertest.NewSocket(t, brokertest.Name())
	r := brokertest.Register(t, b.Dir, s.Name, "credentials=pass")
	if r.Err == nil || r.Err.Code != wire.CodeDenied || !strings.Contains(r.Err.Text, "CAP_SYS_ADMIN, CAP_SETGID") {
		t.Errorf("%v", r.Err)
	}
	if r := brokertest.Register(t, b.Dir, s.Name, "credentials=own"); r.Err != nil {
		t.Error(r.Err)
	}
	// What is wrong with a file of options makes the whole of it unused, and the sink one without options.
	static := brokertest.NewSocket(t, b.Dir+"/sinks/pass")
	j.logged(t, 1, "options of a static sink are not used", "CAP_SYS_ADMIN, CAP_SETGID")
	becomes(t, b, "pass", "ready")
	if err := brokertest.NewSource(t, b.Dir).Send([]byte("as it is")); err != nil {
		t.Fatal(err)
	}
	if got, err := static.Receive(); err != nil || string(got) != "as it is" {
		t.Errorf("%q, %v", got, err)
	}
	cfg := brokertest.Config()
	cfg.Log = j.Handler
	cfg.Sinks = []broker.StaticSink{{Address: wire.Address{Name: "/x"}, Options: wire.Options{Credentials: true}}}
	lacking(&cfg)
	_, err := broker.Open(cfg, activation.Set{})
	if err == nil || !strings.Contains(err.Error(), "cannot have the sink /x") || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") {
		t.Errorf("a broker with such a sink on its command line begins: %v", err)
	}
}

// TestCredentialsThatTheKernelRefuses: a broker that believes it may, and may not, as in a user namespace of its own, has every message
// arrive all the same, as its own and counted.
func TestCredentialsThatTheKernelRefuses(t *testing.T) {
	need.Root(t, "unit")
	dir := test.Folder(t)
	if err := os.Chown(dir, stranger, stranger); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Dir, cmd.Stderr = append(os.Environ(), believerRole+"="+dir), dir, t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
	out, _ := startPiped(t, cmd)
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil { // "ready\n"
		t.Fatal(err)
	}
	openToAll(t, dir)
	pass := newAttested(t, dir, "credentials=pass")
	source := brokertest.NewSource(t, dir)
	const n = 1000
	go func() {
		for i := range n {
			source.Send(fmt.Append(nil, i))
		}
	}()
	believer := sys.Credentials{PID: int32(cmd.Process.Pid), UID: stranger, GID: stranger}
	for i := range n {
		if got := receiveSigned(t, pass); got != (signed{fmt.Sprint(i), believer}) {
			t.Fatalf("message %d is %+v", i, got)
		}
	}
	test.Eventually(t, "all of them counted", func() bool {
		a := brokertest.Ask(t, dir, wire.Request{Op: wire.OpStatus})
		return a.Status != nil && a.Status.AsOwn == n
	})
}

// believerRole makes this program a broker that thinks that it may send others' credentials.
const believerRole = "MSGMUX_BELIEVER"

func beBeliever(dir string) int {
	b, err := brokertest.Run(dir, slog.DiscardHandler, func(cfg *broker.Config) { broker.SetLacked(cfg) })
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	b.Stop()
	return 0
}

// TestCredentialsChange: a sink may get the senders' credentials from the next message on, and no more, without losing its place.
func TestCredentialsChange(t *testing.T) {
	needCredentials(t)
	b := brokertest.Start(t)
	openToAll(t, b.Dir)
	s := newAttested(t, b.Dir)
	for _, pass := range []bool{false, true, false, true} {
		if r := brokertest.Register(t, b.Dir, s.Name, "credentials="+map[bool]string{true: "pass", false: "own"}[pass]); r.Err != nil || r.ID != s.ID {
			t.Fatalf("%+v", r)
		}
		who, end := sayAs(t, b.Dir, stranger)
		want := signed{fmt.Sprint(who.PID), itself()}
		if pass {
			want.Credentials = who
		}
		if got := receiveSigned(t, s); got != want {
			t.Errorf("%v: received %+v instead of %+v", pass, got, want)
		}
		end()
	}
}
