// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// told is a message with its origin.
type told struct {
	text string
	wire.Origin
}

// receiveTold receives n messages of a sink that asks for origins.
func receiveTold(t *testing.T, c *brokertest.Client, n int) (all []told) {
	t.Helper()
	for len(all) < n {
		p, err := c.Receive()
		if err != nil {
			t.Fatalf("%d of %d messages: %v", len(all), n, err)
		}
		seq := p.First
		wire.EachRecord(p.Records, func(b []byte) bool {
			all = append(all, told{string(b), p.OriginOf(seq)})
			seq++
			return true
		})
	}
	return all
}

// between wants each to have been received in that time.
func between(t *testing.T, from time.Time, all []told) {
	t.Helper()
	for _, m := range all {
		if at := time.Unix(0, m.Time); at.Before(from) || at.After(time.Now()) {
			t.Errorf("%.20q was received at %v, and sent after %v", m.text, at, from)
		}
	}
}

// self is who this process is.
func self(source uint16) wire.Origin {
	return wire.Origin{PID: int32(os.Getpid()), UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Source: source, Known: true}
}

// is wants the messages to come from there, whenever.
func is(t *testing.T, want wire.Origin, all []told) {
	t.Helper()
	for _, m := range all {
		if m.Time = 0; m.Origin != want {
			t.Errorf("%.20q comes from %+v instead of %+v", m.text, m.Origin, want)
		}
	}
}

// TestPromise11_WhoAndWhen: a sink that asks is told of each message who has sent it, by datagram or connection, and when it
// came; one that does not ask gets what it always got.
func TestPromise11_WhoAndWhen(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t)
	asks, plain := brokertest.NewSubscriber(t, b.Dir, "meta=yes"), brokertest.NewSubscriber(t, b.Dir)
	declared := brokertest.NewSink(t, b.Dir, "frames=yes", "meta=yes")
	source, publisher := brokertest.NewSource(t, b.Dir), brokertest.NewPublisher(t, b.Dir)
	began := time.Now()
	for i := range 10 {
		if err := source.Send(fmt.Append(nil, "datagram ", i)); err != nil {
			t.Fatal(err)
		}
	}
	ten := receiveTold(t, asks, 10)
	is(t, self(1), ten)
	between(t, began, ten)
	began = time.Now()
	if err := publisher.Send([]byte("a"), nil, []byte("b")); err != nil {
		t.Fatal(err)
	}
	three := receiveTold(t, asks, 3)
	is(t, self(0), three)
	between(t, began, three)
	if three[0].Time != three[2].Time {
		t.Errorf("one packet came at different times: %v", three)
	}
	for n := 0; n < 13; {
		p, err := plain.Receive()
		if err != nil {
			t.Fatal(err)
		}
		n += p.Count
	}
	for n := 0; n < 13; {
		p, err := declared.Receive()
		if err != nil {
			t.Fatal(err)
		}
		m, err := wire.ParseMetaPacket(p)
		if err != nil {
			t.Fatal(err)
		}
		if o := m.OriginOf(m.First); o.PID != int32(os.Getpid()) {
			t.Errorf("a datagram sink is told of %+v", o)
		}
		n += m.Count
	}
}

// TestPromise11_OtherUsers tells of other users' processes, each by what it is.
func TestPromise11_OtherUsers(t *testing.T) {
	need.Root(t, "unit")
	b := brokertest.Start(t)
	openToAll(t, b.Dir)
	sink := brokertest.NewSubscriber(t, b.Dir, "meta=yes")
	for uid := uint32(stranger); uid < stranger+3; uid++ {
		for _, datagrams := range []bool{true, false} {
			pid := sendAsProcess(t, b.Dir, datagrams, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid + 1}})
			want := wire.Origin{PID: int32(pid), UID: uid, GID: uid + 1, Known: true}
			if datagrams {
				want.Source = 1
			}
			is(t, want, receiveTold(t, sink, 1)) // it has ended by now
		}
	}
}

// TestPromise11_OtherNamespace: a sender in a pid namespace below has its number in the broker's.
func TestPromise11_OtherNamespace(t *testing.T) {
	need.Root(t, "unit")
	b := brokertest.Start(t)
	sink := brokertest.NewSubscriber(t, b.Dir, "meta=yes")
	for _, datagrams := range []bool{true, false} {
		pid := sendAsProcess(t, b.Dir, datagrams, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID})
		m := receiveTold(t, sink, 1)
		if m[0].text != "1" || m[0].PID != int32(pid) || !m[0].Known {
			t.Errorf("a process that is %s there and %d here is told as %+v", m[0].text, pid, m[0].Origin)
		}
	}
}

// senderRole makes this program one that sends its pid as a message, and ends.
const senderRole = "MSGMUX_SENDER"

// senderStays has it end with its input only.
const senderStays = "MSGMUX_SENDER_STAYS"

func beSender(role string) int {
	kind, path, _ := strings.Cut(role, " ")
	conn, err := net.Dial(kind, path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer conn.Close()
	message := strconv.AppendInt(nil, int64(os.Getpid()), 10)
	if kind == "unixgram" && os.Getuid() != 0 {
		// Credentials that are not its own go no further than to the kernel.
		own := unix.Ucred{Pid: int32(os.Getpid()), Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())}
		for what, who := range map[string]unix.Ucred{
			"another process": {Pid: 1, Uid: own.Uid, Gid: own.Gid}, "root": {Pid: own.Pid, Gid: own.Gid}, "group root": {Pid: own.Pid, Uid: own.Uid},
		} {
			if err := sendClaiming(conn.(*net.UnixConn), what, who); !errors.Is(err, unix.EPERM) {
				fmt.Fprintf(os.Stderr, "as %s: %v\n", what, err)
				return 1
			}
		}
	}
	if kind == "unixpacket" {
		if _, err = conn.Write([]byte(wire.Protocol)); err == nil {
			_, err = conn.Read(make([]byte, 1024))
		}
		message = wire.AppendRecord(nil, message)
	}
	if err == nil {
		_, err = conn.Write(message)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if os.Getenv(senderStays) != "" {
		fmt.Println("sent")
		io.Copy(io.Discard, os.Stdin)
	}
	return 0
}

// sendClaiming sends a datagram with credentials that the sender says are its own.
func sendClaiming(conn *net.UnixConn, text string, who unix.Ucred) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		_, inner = unix.SendmsgN(int(fd), []byte(text), unix.UnixCredentials(&who), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
	return errors.Join(err, inner)
}

// sendAsProcess has a process of its own send its pid, and returns when it has ended.
func sendAsProcess(t *testing.T, dir string, datagrams bool, attr *syscall.SysProcAttr) (pid int) {
	t.Helper()
	role := "unixpacket " + dir + "/publish"
	if datagrams {
		role = "unixgram " + dir + "/source"
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Dir, cmd.Stderr, cmd.SysProcAttr = append(os.Environ(), senderRole+"="+role), "/", t.Output(), attr
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.Pid()
}

// TestPromise11_Forged: root may give credentials that are not its own. (That nobody else may, each sender of another user in
// these tests tries.)
func TestPromise11_Forged(t *testing.T) {
	need.Root(t, "unit")
	b := brokertest.Start(t)
	sink := brokertest.NewSubscriber(t, b.Dir, "meta=yes")
	who := unix.Ucred{Pid: 1, Uid: 12345, Gid: 54321}
	if err := sendClaiming(brokertest.NewSource(t, b.Dir).Conn, "root may", who); err != nil {
		t.Fatal(err)
	}
	is(t, wire.Origin{PID: 1, UID: 12345, GID: 54321, Source: 1, Known: true}, receiveTold(t, sink, 1))
}

// TestPromise11_NotKnown: nobody is named who is not known: what was sent before anybody asked, also if it was still in the
// kernel's queue by then.
func TestPromise11_NotKnown(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t)
	source := brokertest.NewSource(t, b.Dir)
	tap := brokertest.NewSubscriber(t, b.Dir, "tap=yes", "meta=yes")
	tap.Close()
	gone(t, b, tap.ID)
	sends := func(text string) {
		t.Helper()
		if err := source.Send([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	sends("nobody is there") // and so it stays in the kernel's queue
	sink := brokertest.NewSubscriber(t, b.Dir, "meta=yes")
	m := receiveTold(t, sink, 1)
	is(t, wire.Origin{Source: 1}, m)
	sends("somebody")
	is(t, self(1), receiveTold(t, sink, 1))
	plain := brokertest.NewSubscriber(t, b.Dir)
	sink.Close()
	gone(t, b, sink.ID)
	sends("nobody asks")
	if _, err := plain.Receive(); err != nil {
		t.Fatal(err)
	}
	late := brokertest.NewSubscriber(t, b.Dir, "meta=yes", "start=oldest")
	sends("somebody again")
	all := receiveTold(t, late, 4)
	is(t, wire.Origin{Source: 1}, all[:1])
	is(t, self(1), all[1:2])
	is(t, wire.Origin{}, all[2:3])
	is(t, self(1), all[3:])
	if all[2].Time != 0 {
		t.Errorf("somebody has looked at the clock: %+v", all[2])
	}
}

// shortLived has as many processes as its second argument says, one after the other, send their pid to the socket that its first
// one names. With vfork(2) they share its memory, so that there can be very many.
const shortLived = `
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	char text[20];
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	strncpy(to.sun_path, argv[1], sizeof to.sun_path - 1);
	if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
		return 1;
	for (int n = atoi(argv[2]); n > 0; n--) {
		int status = 1;
		pid_t pid = vfork();
		if (pid == 0)
			_exit(send(fd, text, sprintf(text, "%d", getpid()), 0) < 0);
		if (waitpid(pid, &status, 0) < 0 || status != 0)
			return 1;
	}
	return 0;
}
`

func buildShortLived(t *testing.T) (program string) {
	t.Helper()
	gcc := need.Program(t, "unit", "gcc", "gcc")
	program = t.TempDir() + "/senders"
	cmd := exec.Command(gcc, "-O", "-o", program, "-x", "c", "-")
	cmd.Stdin = strings.NewReader(shortLived)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

// TestPromise11_ShortLivedSenders: ten thousand processes, each of which sends its pid and ends at once. A sink that reads
// nothing meanwhile is told of each of them.
func TestPromise11_ShortLivedSenders(t *testing.T) {
	const total = 10_000
	program := buildShortLived(t)
	b := brokertest.Start(t, func(c *broker.Config) { c.Geometry = ring.Geometry{Size: 16 << 20, MaxMessage: 1 << 10, MaxSinks: 8} })
	sink := brokertest.NewSubscriber(t, b.Dir, "meta=yes", "patience=1m")
	if out, err := exec.Command(program, b.Dir+"/source", strconv.Itoa(total)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	senders := make(map[int32]bool)
	for i, m := range receiveTold(t, sink, total) {
		if pid, err := strconv.Atoi(m.text); err != nil || !m.Known || m.PID != int32(pid) || m.Time == 0 {
			t.Fatalf("message %d of process %s is told as %+v", i, m.text, m.Origin)
		}
		senders[m.PID] = true
	}
	if len(senders) < total/2 {
		t.Errorf("only %d senders: pids came again too soon for this to prove anything", len(senders))
	}
}

// TestPromise11_UsedUp: where there are more senders than the ring has room for, the oldest are not known any more, and each
// message is there.
func TestPromise11_UsedUp(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t)
	sink := brokertest.NewSubscriber(t, b.Dir, "meta=yes", "patience=1m")
	reader := brokertest.NewSubscriber(t, b.Dir)
	source := brokertest.NewSource(t, b.Dir)
	total := 3000 // one at a time, and so each of a time of its own
	for i := range total {
		if err := source.Send(fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
		if _, err := reader.Receive(); err != nil {
			t.Fatal(err)
		}
	}
	// What lies in the sink's own queue was told when it was sent; a sink that comes now is told what is known still.
	late := brokertest.NewSubscriber(t, b.Dir, "meta=yes", "start=oldest")
	known := 0
	for i, m := range receiveTold(t, late, total) {
		if m.text != strconv.Itoa(i) {
			t.Fatalf("message %d is %q", i, m.text)
		}
		switch {
		case m.Known:
			is(t, self(1), []told{m})
			known++
		case m.Origin != wire.Origin{}:
			t.Errorf("message %d is half known: %+v", i, m.Origin)
		case known > 0:
			t.Fatalf("message %d is forgotten, and an older one is not", i)
		}
	}
	if known < 900 || known > 1024 {
		t.Errorf("%d of %d are known", known, total)
	}
	receiveTold(t, sink, total)
}

// TestPromise11_WholePackets: origins take no room from records. What a source has sent as one packet, as long as it may be, a sink
// that asks gets as one.
func TestPromise11_WholePackets(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t)
	asks, publisher := brokertest.NewSubscriber(t, b.Dir, "meta=yes"), brokertest.NewPublisher(t, b.Dir)
	for _, size := range []int{0, 16, 256, 32 << 10} {
		n := (wire.MaxPacket - wire.SinkHeader) / wire.Padded(size)
		if err := publisher.Send(slices.Repeat([][]byte{make([]byte, size)}, n)...); err != nil {
			t.Fatal(err)
		}
		p, err := asks.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if p.Count != n || len(p.Origins) != wire.OriginSize || p.OriginOf(p.First+uint64(n)-1).PID != int32(os.Getpid()) {
			t.Errorf("%d messages of %d bytes came as a packet of %d, with %d bytes of origins", n, size, p.Count, len(p.Origins))
		}
	}
}

// TestPromise11_ManyInAPacket: a packet has room for so many origins, and each message is told rightly where there are more.
func TestPromise11_ManyInAPacket(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t)
	asks, publisher := brokertest.NewSubscriber(t, b.Dir, "meta=yes"), brokertest.NewPublisher(t, b.Dir)
	const messages = 2*wire.MaxOrigins + wire.MaxOrigins/2
	var want []told
	for i := range messages {
		if err := publisher.Send(fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
		want = append(want, receiveTold(t, asks, 1)...) // so that each is received by itself
	}
	late := brokertest.NewSubscriber(t, b.Dir, "meta=yes", "start=oldest")
	for len(want) > 0 {
		p, err := late.Receive()
		if err != nil {
			t.Fatalf("with %d of %d missing: %v", len(want), messages, err)
		}
		if n := len(p.Origins) / p.OriginSize; n != p.Count || n != min(wire.MaxOrigins, len(want)) {
			t.Fatalf("a packet of %d messages with %d origins; %d are to come", p.Count, n, len(want))
		}
		seq := p.First
		wire.EachRecord(p.Records, func(text []byte) bool {
			if got := (told{string(text), p.OriginOf(seq)}); got != want[0] {
				t.Errorf("message %d is told as %+v instead of %+v", seq, got, want[0])
			}
			seq, want = seq+1, want[1:]
			return true
		})
	}
}

// TestPromise11_SilentSink: one that asks for origins and never reads is left behind like any other.
func TestPromise11_SilentSink(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, func(c *broker.Config) { c.Patience = 100 * time.Millisecond })
	silent, reads := brokertest.NewSubscriber(t, b.Dir, "meta=yes"), brokertest.NewSubscriber(t, b.Dir, "meta=yes")
	source := brokertest.NewSource(t, b.Dir)
	const total = 4000
	failed := make(chan error, 1)
	go func() {
		for i := range uint64(total) {
			// So large that the ring holds fewer than it keeps origins of, however many receives they come in: one for each KiB.
			if err := source.Send(stamped(1, i, 1200)); err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	for i, m := range receiveTold(t, reads, total) {
		if _, seq, ok := stamp([]byte(m.text)); !ok || seq != uint64(i) || m.PID != int32(os.Getpid()) {
			t.Fatalf("message %d is %d, whole: %v, from %+v", i, seq, ok, m.Origin)
		}
	}
	if err := <-failed; err != nil {
		t.Error(err)
	}
	if s := sinkOf(t, b, silent.ID); s.Lost == 0 {
		t.Errorf("the silent sink has lost nothing: %+v", s)
	}
	// What it reads at last is told rightly all the same.
	p, err := silent.Receive()
	if o := p.OriginOf(p.First); err != nil || o.PID != int32(os.Getpid()) {
		t.Errorf("the silent sink reads %+v, %v", o, err)
	}
}

// TestPromise11_Queue: a message queue tells nothing of who has sent, but when.
func TestPromise11_Queue(t *testing.T) {
	_, in, out := newQueue(t)
	b := brokertest.StartWith(t, func(_ *broker.Config, set *activation.Set) {
		set.SourceQueues = []activation.Descriptor{{Name: "source-mq", FD: in, Kind: activation.MessageQueue}}
	})
	sink := brokertest.NewSubscriber(t, b.Dir, "meta=yes")
	began := time.Now()
	if errno := (sys.Kernel{}).QueueSend("", out, []byte("by a queue")); errno != 0 {
		t.Fatal(errno)
	}
	m := receiveTold(t, sink, 1)
	is(t, wire.Origin{Source: 2}, m)
	between(t, began, m)
}
