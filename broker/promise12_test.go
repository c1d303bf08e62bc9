// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// Promise 12: in view. What a broker killed at any moment leaves of it is in broker/crashtest.

// viewing connects a sink in view.
func viewing(t *testing.T, dir string, options ...string) (*brokertest.Viewer, wire.Reply) {
	t.Helper()
	v, ok := brokertest.NewViewer(t, dir, options...)
	if ok.Err != nil {
		t.Fatalf("%q: %v", options, ok.Err)
	}
	return v, ok
}

// views receives n messages, and returns what they say.
func views(t *testing.T, v *brokertest.Viewer, n int) (messages []string) {
	t.Helper()
	for len(messages) < n {
		some, err := v.Next(brokertest.Within)
		if err != nil {
			t.Fatalf("after %d of %d: %v", len(messages), n, err)
		}
		for _, m := range some {
			messages = append(messages, string(m))
		}
	}
	return messages
}

// TestPromise12_InView: a sink in view sees what is sent from its beginning on, in order and whole, asleep or not; what it is done with
// counts as accepted, and nothing leaves the ring before.
func TestPromise12_InView(t *testing.T) {
	b := brokertest.Start(t)
	source := brokertest.NewSource(t, b.Dir)
	plain := brokertest.NewSink(t, b.Dir)
	v, ok := viewing(t, b.Dir, "label=db")
	say(t, source, 0, 10)
	got := views(t, v, 10)
	for i, m := range got {
		if m != fmt.Sprint(i) {
			t.Errorf("message %d is %q", i, m)
		}
	}
	if s := sinkOf(t, b, ok.ID); s.Accepted != 0 || s.Waiting != 10 || s.Unacknowledged != 10 || !s.Ack || !s.View {
		t.Errorf("before it has said anything: %+v", s)
	}
	go func() {
		time.Sleep(30 * time.Millisecond)
		say(t, source, 10, 12)
	}()
	if got := views(t, v, 2); got[0] != "10" {
		t.Errorf("woken for %q", got)
	}
	test.Eventually(t, "10 are done", func() bool { return sinkOf(t, b, ok.ID).Accepted >= 10 })
	if err := v.Say(ok.Next + 12); err != nil {
		t.Fatal(err)
	}
	test.Eventually(t, "all are done", func() bool { return sinkOf(t, b, ok.ID).Waiting == 0 })
	for i := range 12 {
		if m, err := plain.Receive(); err != nil || string(m) != fmt.Sprint(i) {
			t.Fatalf("the sink beside it got %q, %v", m, err)
		}
	}
	large := strings.Repeat("x", 200<<10)
	if err := source.Send([]byte(large)); err != nil {
		t.Fatal(err)
	}
	if got := views(t, v, 1); got[0] != large {
		t.Errorf("a large one of %d bytes", len(got[0]))
	}
	v.Close()
	gone(t, b, ok.ID)
}

// TestPromise12_Refused: what a sink in view cannot be.
func TestPromise12_Refused(t *testing.T) {
	b := brokertest.Start(t)
	for _, options := range [][]string{{"share=a"}, {"tap=yes"}, {"meta=yes"}, {"batch=1"}} {
		if _, ok := brokertest.NewViewer(t, b.Dir, options...); ok.Err == nil || ok.Err.Code != wire.CodeBadOption {
			t.Errorf("%q: %+v", options, ok)
		}
	}
	for _, r := range []wire.Reply{
		brokertest.Register(t, b.Dir, brokertest.NewSocket(t, brokertest.Name()).Name, "view=yes"),
		func() wire.Reply { _, ok := brokertest.Greet(t, b.Dir, "publish", "view=yes"); return ok }(),
	} {
		if r.Err == nil || r.Err.Code != wire.CodeBadOption {
			t.Errorf("a registration, and a source: %+v", r)
		}
	}
	if n := len(b.Channel.Status().Registrations); n == 0 {
		t.Error("nothing was counted")
	}
	_, sinks := b.Channel.List()
	if len(sinks) != 0 {
		t.Errorf("%+v", sinks)
	}
}

// TestPromise12_DoneThatCannotBe: done moved back means nothing, done between two records is the next one's number anyway, and done
// beyond head costs the connection: the place stays.
func TestPromise12_DoneThatCannotBe(t *testing.T) {
	b := brokertest.Start(t)
	source := brokertest.NewSource(t, b.Dir)
	v, ok := viewing(t, b.Dir, "label=db", "keep=1m")
	say(t, source, 0, 10)
	views(t, v, 10)
	accepted := func(n uint64) {
		t.Helper()
		test.Eventually(t, fmt.Sprint(n, " are done"), func() bool { return sinkOf(t, b, ok.ID).Accepted == n })
	}
	for _, step := range []struct{ done, accepted uint64 }{{5, 5}, {2, 5}, {6, 6}, {0, 6}} {
		if err := v.Say(ok.Next + step.done); err != nil {
			t.Fatal(err)
		}
		accepted(step.accepted)
	}
	// In the page, which is looked at when there is something new, and by the connection.
	for i, done := range []uint64{ok.Next + 100, 1<<63 + 5, ^uint64(0), ok.Next + 100} {
		if i < 3 {
			asked := v.Reader.Say(done)
			say(t, source, 10+i, 11+i)
			if asked { // it has waited for so long that it is to be told before it looks again
				if err := v.SendPacket(wire.AppendAck(nil, ok.Next+6)); err != nil {
					t.Fatal(err)
				}
			}
		} else if err := v.SendPacket(wire.AppendAck(nil, done)); err != nil {
			t.Fatal(err)
		}
		told := ""
		for told == "" {
			if err := v.Wait(brokertest.Within); err != nil {
				told = err.Error()
			}
		}
		if !strings.Contains(told, wire.CodeBadAck) {
			t.Errorf("%d: %s", done, told)
		}
		test.Eventually(t, "it is away", func() bool { return sinkOf(t, b, ok.ID).State == "absent" })
		if !v.Reader.Over() {
			t.Error("its page does not say that it is over")
		}
		accepted(6)
		var again wire.Reply
		if v, again = viewing(t, b.Dir, "label=db", "keep=1m"); again.Next != ok.Next+6 {
			t.Errorf("back at %d", again.Next)
		}
		if got := views(t, v, 4); got[0] != "6" {
			t.Errorf("back to %q", got)
		}
	}
	// The place is the sink's, in view or not.
	v.Close()
	test.Eventually(t, "it is away", func() bool { return sinkOf(t, b, ok.ID).State == "absent" })
	c, again := kept(t, b.Dir, "label=db", "keep=1m")
	if _, got := numbered(t, c, 4); again.ID != ok.ID || got[0] != "6" || sinkOf(t, b, ok.ID).View {
		t.Errorf("back with packets to %q", got)
	}
	ack(t, c, ok.Next+8)
	c.Close()
	test.Eventually(t, "it is away", func() bool { s := sinkOf(t, b, ok.ID); return s.State == "absent" && s.Accepted == 8 })
	v, _ = viewing(t, b.Dir, "label=db", "keep=1m")
	if got := views(t, v, 2); got[0] != "8" || !sinkOf(t, b, ok.ID).View {
		t.Errorf("back in view to %q", got)
	}
}

// TestPromise12_LeftBehind: a sink in view that stops is waited for by its patience; then others go on without loss, and it finds out
// what it has missed, exactly: never another message, never a part of one.
func TestPromise12_LeftBehind(t *testing.T) {
	b := brokertest.Start(t, func(c *broker.Config) { c.Geometry.Size, c.Geometry.MaxMessage = 1<<20, 64<<10 })
	stopped, ok := viewing(t, b.Dir, "patience=20ms")
	good, goodOK := viewing(t, b.Dir, "patience=forever")
	source := brokertest.NewSource(t, b.Dir)
	stop := make(chan struct{})
	sent := flood(source, 1, 3000, stop)
	seen := uint64(0)
	check := func(v *brokertest.Viewer, next uint64) uint64 {
		t.Helper()
		some, err := v.Next(300 * time.Millisecond)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		if len(some) > 0 {
			_, next, _ = stamp(some[0])
		}
		for _, m := range some {
			if _, n, whole := stamp(m); !whole || n != next {
				t.Fatalf("message %d instead of %d, whole: %v", n, next, whole)
			}
			next++
		}
		return next
	}
	for deadline := time.Now().Add(brokertest.Within); sinkOf(t, b, ok.ID).Lost < 2000; {
		if before := seen; good.Lost != 0 {
			t.Fatalf("%d lost at %d", good.Lost, before)
		}
		seen = check(good, seen)
		if time.Now().After(deadline) {
			t.Fatalf("it is not left behind: %+v", sinkOf(t, b, ok.ID))
		}
	}
	close(stop)
	total := uint64(0)
	for done := false; !done; {
		select {
		case total = <-sent:
			done = true
		default:
			seen = check(good, seen)
		}
	}
	for seen < total {
		seen = check(good, seen)
	}
	had, at := uint64(0), uint64(0)
	for at < total {
		before, lost := at, stopped.Lost
		if at = check(stopped, at); at == before {
			t.Fatalf("it stays at %d of %d", at, total)
		}
		had += at - before - (stopped.Lost - lost)
	}
	_ = stopped.Say(stopped.Reader.Next())
	_ = good.Say(good.Reader.Next())
	for _, of := range []struct {
		v  *brokertest.Viewer
		id uint64
	}{{stopped, ok.ID}, {good, goodOK.ID}} {
		test.Eventually(t, "the books balance", func() bool {
			s := sinkOf(t, b, of.id)
			return s.Waiting == 0 && s.Accepted+s.Lost == total && s.Lost >= of.v.Lost
		})
	}
	if good.Lost != 0 || stopped.Lost == 0 || had+stopped.Lost != total {
		t.Errorf("of %d the stopped one had %d and lost %d; the other lost %d", total, had, stopped.Lost, good.Lost)
	}
}

// TestPromise12_LyingPages: pages that say anything at all, at any time, while the broker is busy. Only their own sinks have to do with
// that: others miss nothing, the broker lives, and the books balance.
func TestPromise12_LyingPages(t *testing.T) {
	for name, lie := range map[string]func(*rand.Rand, uint64) uint64{
		"anything": func(r *rand.Rand, _ uint64) uint64 { return r.Uint64() },
		"nearly":   func(r *rand.Rand, next uint64) uint64 { return next + r.Uint64N(5000) - 2500 },
		"forward":  func(r *rand.Rand, next uint64) uint64 { return next + r.Uint64N(300) },
	} {
		t.Run(name, func(t *testing.T) {
			b := brokertest.Start(t, func(c *broker.Config) { c.Geometry.Size, c.Geometry.MaxMessage = 1<<20, 64<<10 })
			good, ok := viewing(t, b.Dir, "patience=forever")
			source := brokertest.NewSource(t, b.Dir)
			stop, over := make(chan struct{}), make(chan int)
			sent := flood(source, 1, 700, stop)
			go func() {
				random, times := rand.New(rand.NewPCG(1, 2)), 0
				defer func() { over <- times }()
				for ; ; times++ {
					liar, ok := brokertest.NewViewer(t, b.Dir, "patience=5ms")
					if ok.Err != nil {
						t.Errorf("the liar: %v", ok.Err)
						return
					}
					page, err := sys.Map(liar.Page, 0, view.PageSize)
					if err != nil {
						t.Error(err)
						return
					}
					for range 20_000 {
						select {
						case <-stop:
							sys.Unmap(page)
							liar.Discard()
							return
						default:
						}
						at := 8 * random.IntN(16)
						sys.Word(page, at).Store(lie(random, ok.Next+uint64(times)))
					}
					sys.Unmap(page)
					liar.Discard()
				}
			}()
			seen := uint64(0)
			next := func(d time.Duration) {
				some, err := good.Next(d)
				if err != nil && (d == brokertest.Within || !errors.Is(err, os.ErrDeadlineExceeded)) {
					t.Fatal(err)
				}
				for _, m := range some {
					if _, n, whole := stamp(m); !whole || n != seen {
						t.Fatalf("message %d instead of %d, whole: %v", n, seen, whole)
					}
					seen++
				}
			}
			for begun := time.Now(); time.Since(begun) < lyingFor(t); {
				next(brokertest.Within)
			}
			close(stop)
			total := uint64(0)
			for done := false; !done; {
				select {
				case total = <-sent:
					done = true
				default:
					next(10 * time.Millisecond) // it may have all there is
				}
			}
			for seen < total {
				next(brokertest.Within)
			}
			_ = good.Say(good.Reader.Next())
			times := <-over
			test.Eventually(t, "the books balance", func() bool {
				s := sinkOf(t, b, ok.ID)
				return s.Accepted == total && s.Lost == 0 && s.Waiting == 0
			})
			test.Eventually(t, "the liars are gone", func() bool { _, sinks := b.Channel.List(); return len(sinks) == 1 })
			if good.Lost != 0 || times < 2 {
				t.Errorf("%d lost, %d liars", good.Lost, times)
			}
			t.Logf("%d messages, %d liars", total, times)
		})
	}
}

// lyingFor is how long pages and stages lie, for each way to do it: MSGMUX_LIES.
func lyingFor(t *testing.T) time.Duration {
	t.Helper()
	text, given := os.LookupEnv("MSGMUX_LIES")
	if !given {
		return 2 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestPromise12_Many: so many sinks in view that all places are taken, each counted twice, and no more.
func TestPromise12_Many(t *testing.T) {
	b := brokertest.Start(t, func(c *broker.Config) { c.Geometry.MaxSinks, c.SinksPerUser = 2100, 2100 })
	var all []*brokertest.Viewer
	for {
		v, ok := brokertest.NewViewer(t, b.Dir)
		if ok.Err != nil {
			if ok.Err.Code != wire.CodeQuota {
				t.Fatal(ok.Err)
			}
			break
		}
		all = append(all, v)
	}
	if len(all) < 1000 || len(all) > 1050 {
		t.Errorf("%d sinks in view of 2100 places", len(all))
	}
	source := brokertest.NewSource(t, b.Dir)
	say(t, source, 0, 3)
	for i, v := range all {
		if got := views(t, v, 3); got[2] != "2" {
			t.Fatalf("%d got %q", i, got)
		}
	}
	all[0].Close()
	test.Eventually(t, "there is room", func() bool {
		_, ok := brokertest.NewViewer(t, b.Dir)
		return ok.Err == nil
	})
}

// attackRole makes this program another user's, who has the descriptors of a sink in view.
const attackRole = "MSGMUX_VIEW_ATTACK"

// beAttacker tries what must not be possible with the ring (descriptor 3) and with the page (4), and says what was.
func beAttacker() int {
	const ring, page = 3, 4
	b, err := unix.Mmap(ring, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		fmt.Println("cannot even read:", err)
		return 1
	}
	failed := 0
	must := func(what string, err error) {
		if err == nil {
			fmt.Println("possible:", what)
			failed = 1
		}
	}
	open := func(fd, flags int) error {
		n, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), flags, 0)
		if err == nil {
			unix.Close(n)
		}
		return err
	}
	mapped := func(fd int) error {
		_, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		return err
	}
	seal := func(fd, seals int) error { _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); return err }
	must("ring: open for writing", open(ring, unix.O_RDWR))
	must("ring: open for writing alone", open(ring, unix.O_WRONLY))
	must("ring: open and truncate", open(ring, unix.O_RDWR|unix.O_TRUNC))
	must("ring: change its mode", unix.Fchmod(ring, 0o666))
	must("ring: change its owner", unix.Fchown(ring, os.Getuid(), -1))
	must("ring: truncate", unix.Ftruncate(ring, 4096))
	must("ring: truncate by its name", unix.Truncate(fmt.Sprintf("/proc/self/fd/%d", ring), 4096))
	must("ring: map for writing", mapped(ring))
	must("ring: make a mapping writable", unix.Mprotect(b, unix.PROT_READ|unix.PROT_WRITE))
	must("ring: seal against writing", seal(ring, unix.F_SEAL_WRITE))
	must("ring: seal against writing in future", seal(ring, 0x10))
	must("ring: punch a hole", unix.Fallocate(ring, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096))
	_, err = unix.Pwrite(ring, []byte("x"), 0)
	must("ring: write", err)
	must("page: truncate", unix.Ftruncate(page, 0))
	must("page: grow", unix.Ftruncate(page, 1<<20))
	must("page: seal against writing", seal(page, unix.F_SEAL_WRITE))
	return failed
}

// TestPromise12_Strangers: another user, given the descriptors, can read the ring and nothing else; neither file changes its size.
func TestPromise12_Strangers(t *testing.T) {
	need.Root(t, "another user")
	b := brokertest.Start(t)
	v, ok := viewing(t, b.Dir, "label=db")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), attackRole+"=1")
	for _, fd := range []int{v.Ring, v.Page} {
		n, err := sys.Duplicate(fd)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(n), "")
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	source := brokertest.NewSource(t, b.Dir)
	say(t, source, 0, 1)
	if got := views(t, v, 1); got[0] != "0" || sinkOf(t, b, ok.ID).Waiting != 1 {
		t.Errorf("afterwards: %q", got)
	}
}

// sinkInC is the example of a sink in view.
func sinkInC(t *testing.T) (program string) {
	t.Helper()
	return inC(t, "sink")
}

// inC builds an example.
func inC(t *testing.T, name string) (program string) {
	t.Helper()
	return buildC(t, "../docs/examples/view/"+name+".c")
}

// buildC builds a program that uses the header for C, without a warning.
func buildC(t *testing.T, source string, flags ...string) (program string) {
	t.Helper()
	gcc := need.Program(t, "unit", "gcc", "gcc libc6-dev")
	program = t.TempDir() + "/program"
	args := append([]string{"-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O2", "-I../docs/examples/view"}, flags...)
	if out, err := exec.Command(gcc, append(args, "-o", program, source)...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// TestPromise12_BothInC: the header for C at both ends, which waits by itself, is interrupted by signals, has its program wait by poll(2), or
// reads in place, watched by the sanitizers: every message comes, whole and in order.
func TestPromise12_BothInC(t *testing.T) {
	program := buildC(t, "testdata/both.c", "-pthread", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
	for _, how := range []string{"wait", "signal", "poll", "look"} {
		b := brokertest.Start(t, func(c *broker.Config) { c.Geometry.Size, c.Geometry.MaxMessage = 1<<20, 64<<10 })
		out, err := exec.Command(program, b.Dir, "30000", how).CombinedOutput()
		var interrupted, polled int
		if _, scan := fmt.Sscan(string(out), &interrupted, &polled); err != nil || scan != nil {
			t.Fatalf("%s: %v: %s", how, err, out)
		}
		if interrupted == 0 && how == "signal" || polled == 0 && how == "poll" {
			t.Errorf("%s: nobody has waited: %s", how, out)
		}
		t.Logf("%s: %d times interrupted, %d times in poll", how, interrupted, polled)
		b.Stop()
	}
}

// TestPromise12_InCPlusPlus: programs in C++ may use the header, too.
func TestPromise12_InCPlusPlus(t *testing.T) {
	gpp := need.Program(t, "c++", "g++", "g++")
	for _, name := range []string{"sink", "source"} {
		if out, err := exec.Command(gpp, "-std=c++11", "-x", "c++", "-Wall", "-Wextra", "-Werror", "-O2", "-o", t.TempDir()+"/program",
			"../docs/examples/view/"+name+".c").CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// TestPromise12_SinkKilled: a kept sink in view is killed at any moment, also while it sleeps, and comes back to what it has not done:
// nothing is missing in what it and those before it have written, and others have nothing to do with it.
func TestPromise12_SinkKilled(t *testing.T) {
	program, random := sinkInC(t), rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	b := brokertest.Start(t, func(c *broker.Config) { c.Geometry.Size, c.Geometry.MaxMessage = 1<<20, 64<<10 })
	other, otherOK := viewing(t, b.Dir, "patience=forever")
	var out test.Output
	begin := func() *exec.Cmd {
		cmd := exec.Command(program, b.Dir+"/subscribe", "label=c", "keep=1m", "replace=yes", "patience=forever")
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	cmd := begin()
	test.Eventually(t, "it is there", func() bool { _, sinks := b.Channel.List(); return len(sinks) == 2 })
	const total = 20_000
	source := brokertest.NewSource(t, b.Dir)
	go func() {
		for i := range total {
			if i%1000 == 0 {
				time.Sleep(10 * time.Millisecond)
			}
			if err := source.Send(fmt.Appendf(nil, "%d %s", i, strings.Repeat("x", i%300))); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	over := make(chan int)
	go func() {
		n := 0
		for n < total {
			some, err := other.Next(brokertest.Within)
			if err != nil {
				t.Error(err)
				break
			}
			n += len(some)
		}
		_ = other.Say(other.Reader.Next())
		over <- n
	}()
	next := 0
	// read looks at what one process has written: it begins where one before it ended, or earlier.
	read := func() {
		t.Helper()
		before := -1
		for line := range strings.Lines(out.String()) {
			var n int
			if !strings.HasSuffix(line, "\n") {
				break // killed in the middle of it
			}
			if _, err := fmt.Sscan(line, &n); err != nil || before >= 0 && n != before+1 || before < 0 && n > next {
				t.Fatalf("%q after %d, and %d is next", line, before, next)
			}
			before = n
		}
		next = max(next, before+1)
		out.Reset()
	}
	for range 25 {
		time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
		read()
		cmd = begin()
	}
	test.Eventually(t, "all is done", func() bool {
		_, sinks := b.Channel.List()
		return len(sinks) == 2 && sinks[0].Waiting+sinks[1].Waiting == 0 && sinks[0].Accepted+sinks[1].Accepted == 2*total
	})
	cmd.Process.Kill()
	cmd.Wait()
	if read(); next != total {
		t.Errorf("%d of %d have come", next, total)
	}
	if n := <-over; n != total || other.Lost != 0 || sinkOf(t, b, otherOK.ID).Lost != 0 {
		t.Errorf("the other one has %d, and lost %d", n, other.Lost)
	}
}

// TestPromise12_InC: the header for C, and the example that uses it, compiled without a warning: it gets every message, and is done with
// those that it has written, while the broker runs and to what there was when it ended.
func TestPromise12_InC(t *testing.T) {
	program := sinkInC(t)
	b := brokertest.Start(t, func(c *broker.Config) { c.Geometry.Size, c.Geometry.MaxMessage = 1<<20, 256<<10 })
	var out, failed test.Output
	cmd := exec.Command(program, b.Dir+"/subscribe", "label=c", "patience=forever")
	cmd.Stdout, cmd.Stderr = &out, &failed
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	test.Eventually(t, "it is there", func() bool { _, sinks := b.Channel.List(); return len(sinks) == 1 })
	source := brokertest.NewSource(t, b.Dir)
	var want strings.Builder
	for i := range 3000 {
		m := fmt.Sprintf("%d %s", i, strings.Repeat("x", i*7%2000))
		if i%500 == 0 {
			m += strings.Repeat("long", 40_000)
		}
		want.WriteString(m + "\n")
		if err := source.Send([]byte(m)); err != nil {
			t.Fatal(err)
		}
		if i == 1000 {
			test.Eventually(t, "it has all so far", func() bool { _, sinks := b.Channel.List(); return sinks[0].Accepted == 1001 })
		}
	}
	b.Stop()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, failed.String())
	}
	if got := out.String(); got != want.String() {
		t.Errorf("%d bytes instead of %d: %s", len(got), want.Len(), failed.String())
	}
	refused := exec.Command(program, b.Dir+"/nowhere")
	if err := refused.Run(); err == nil {
		t.Error("no error without a broker")
	}
}
