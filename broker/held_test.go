// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/wire"
)

// number is what the answer to a claim asks for.
func number(t *testing.T, r wire.Reply) int {
	t.Helper()
	if codeOf(r.Err) != wire.CodeProve {
		t.Fatalf("%+v instead of a number", r)
	}
	first, _, _ := strings.Cut(r.Err.Text, ":")
	n, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// setBuffer is what only who holds a socket can do.
func setBuffer(t *testing.T, s *brokertest.Sink, n int) {
	t.Helper()
	raw, err := s.Conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, n); err != nil {
			t.Error(err)
		}
	})
}

// askAs registers from a socket of that user's.
func askAs(t *testing.T, dir string, uid uint32, lines ...string) wire.Reply {
	t.Helper()
	from := brokertest.NewSocket(t, brokertest.Name())
	defer from.Close()
	raw, err := from.Conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		if err := unix.Fchown(int(fd), int(uid), int(uid)); err != nil {
			t.Error(err)
		}
	})
	return registerAs(t, dir, uid, from, lines...)
}

// TestPromise8_Held: who holds a socket that somebody else has made can make it a sink, which counts for him, and not for who has
// made it; whose socket it is can end that.
func TestPromise8_Held(t *testing.T) {
	needRoot(t)
	b := brokertest.Start(t, func(cfg *broker.Config) { cfg.SinksPerUser = 2 })
	openToAll(t, b.Dir)
	held := brokertest.NewSocket(t, brokertest.Name())
	claims := func(uid uint32, lines ...string) wire.Reply {
		return askAs(t, b.Dir, uid, append([]string{held.Name, "prove=yes"}, lines...)...)
	}
	if r := registerAs(t, b.Dir, stranger, nil, held.Name); codeOf(r.Err) != wire.CodeNotOwner {
		t.Fatalf("without a proof: %+v", r)
	}
	n := number(t, claims(stranger))
	if again := number(t, claims(stranger)); again != n {
		t.Errorf("it was %d, and is %d", n, again)
	}
	receivesNothing(t, held, "a socket of which nothing is proved")
	setBuffer(t, held, n)
	if other := claims(stranger - 1); codeOf(other.Err) != wire.CodeProve || number(t, other) == n {
		t.Errorf("somebody else's proof: %+v", other)
	}
	r := claims(stranger, "label=held")
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	if s := sinkOf(t, b, r.ID); s.UID != stranger || s.Patience == "forever" {
		t.Errorf("%+v", s)
	}
	message(t, b)
	if got, err := held.Receive(); err != nil || string(got) != "a message" {
		t.Errorf("%q, %v", got, err)
	}
	// A proof is for once, and the sink stays.
	if again := claims(stranger); codeOf(again.Err) != wire.CodeProve {
		t.Errorf("the same proof again: %+v", again)
	}
	setBuffer(t, held, number(t, claims(stranger)))
	if again := claims(stranger, "patience=100ms"); again.Err != nil || again.ID != r.ID {
		t.Errorf("proved again: %+v, it is %d", again, r.ID)
	}
	// Somebody else who holds it has no say.
	setBuffer(t, held, number(t, claims(stranger-1)))
	if other := claims(stranger - 1); codeOf(other.Err) != wire.CodeInUse {
		t.Errorf("held by two: %+v", other)
	}
	// More than the channel's patience is not to be had by it, though root has made the socket.
	setBuffer(t, held, number(t, claims(stranger, "patience=100ms")))
	if more := claims(stranger, "patience=forever"); codeOf(more.Err) != wire.CodeDenied {
		t.Errorf("patience: %+v", more)
	}
	if e := b.Channel.Drop(stranger-1, "held"); codeOf(e) != wire.CodeDenied {
		t.Errorf("dropped by somebody else: %v", e)
	}
	// Its quota is that of who holds it.
	mine := strangersSocket(t, brokertest.Name())
	if r := registerAs(t, b.Dir, stranger, nil, mine.Name); r.Err != nil {
		t.Fatal(r.Err)
	}
	third := brokertest.NewSocket(t, brokertest.Name())
	setBuffer(t, third, number(t, registerAs(t, b.Dir, stranger, nil, third.Name, "prove=yes")))
	if r := registerAs(t, b.Dir, stranger, nil, third.Name, "prove=yes"); codeOf(r.Err) != wire.CodeQuota {
		t.Errorf("the third of two: %+v", r)
	}
	// Whose it is makes it his own, or removes it.
	own := brokertest.Register(t, b.Dir, held.Name, "label=own")
	if own.Err != nil || sinkOf(t, b, own.ID).UID != 0 {
		t.Errorf("registered by who has made it: %+v", own)
	}
	gone(t, b, r.ID)
	if other := claims(stranger); codeOf(other.Err) != wire.CodeInUse { // he had proved to hold it
		t.Errorf("held, and its owner's: %+v", other)
	}
}

// TestPromise8_HeldByAnother: who has made a socket removes the sink that somebody who was given it has made of it.
func TestPromise8_HeldByAnother(t *testing.T) {
	needRoot(t)
	b := brokertest.Start(t)
	openToAll(t, b.Dir)
	held := strangersSocket(t, brokertest.Name())
	other := uint32(stranger - 1)
	setBuffer(t, held, number(t, askAs(t, b.Dir, other, held.Name, "prove=yes")))
	r := askAs(t, b.Dir, other, held.Name, "prove=yes")
	if r.Err != nil || sinkOf(t, b, r.ID).UID != other {
		t.Fatalf("%+v", r)
	}
	if r := askAs(t, b.Dir, stranger-2, held.Name, "remove"); codeOf(r.Err) != wire.CodeNotFound {
		t.Errorf("removed by a third: %+v", r)
	}
	if r := registerAs(t, b.Dir, stranger, nil, held.Name, "remove"); r.Err != nil {
		t.Errorf("removed by who has made it: %v", r.Err)
	}
	gone(t, b, r.ID)
}

// TestPromise8_NotHeld: without holding a socket nobody proves to, whatever his address, path or other sockets are; and nothing is sent
// into it meanwhile.
func TestPromise8_NotHeld(t *testing.T) {
	needRoot(t)
	b := brokertest.Start(t)
	openToAll(t, b.Dir)
	victim := brokertest.NewSocket(t, b.Dir+"/victim")
	os.Chmod(victim.Name, 0o777)
	os.Chmod(b.Dir, 0o777)
	path := b.Dir + "/mine"
	claim := func(lines ...string) wire.Reply {
		return registerAs(t, b.Dir, stranger, nil, append([]string{path, "prove=yes"}, lines...)...)
	}
	// His own socket proves nothing of another one that his path leads to then.
	mine := brokertest.NewSocket(t, path) // made by root, and in his hands
	setBuffer(t, mine, number(t, claim()))
	removeFile(t, path)
	if err := os.Symlink(victim.Name, path); err != nil {
		t.Fatal(err)
	}
	if r := claim(); codeOf(r.Err) != wire.CodeProve && codeOf(r.Err) != wire.CodeAccess {
		t.Errorf("a link to another socket: %+v", r)
	}
	removeFile(t, path)
	if err := os.Link(victim.Name, path); err != nil {
		t.Fatal(err)
	}
	if r := claim(); codeOf(r.Err) != wire.CodeProve && codeOf(r.Err) != wire.CodeAccess {
		t.Errorf("another name of another socket: %+v", r)
	}
	// Nor does a pair of sockets: it takes from its other end alone.
	removeFile(t, path)
	pair := brokertest.NewSocket(t, path)
	raw, _ := pair.Conn.SyscallConn()
	raw.Control(func(fd uintptr) { unix.Connect(int(fd), &unix.SockaddrUnix{Name: victim.Name}) })
	if r := claim(); codeOf(r.Err) != wire.CodeAccess {
		t.Errorf("a connected socket: %+v", r)
	}
	// The broker's own sockets are held by others too, and are no sinks.
	if r := registerAs(t, b.Dir, stranger, nil, b.Dir+"/source", "prove=yes"); codeOf(r.Err) != wire.CodeLoop {
		t.Errorf("a socket of the broker's: %+v", r)
	}
	if r := brokertest.Register(t, b.Dir, victim.Name, "prove=yes", "remove"); codeOf(r.Err) != wire.CodeBadOption {
		t.Errorf("a removal: %+v", r)
	}
	message(t, b)
	receivesNothing(t, victim, "the victim")
}

// TestPromise7_Held: a sink of which somebody has proved that he holds it outlives a broker.
func TestPromise7_Held(t *testing.T) {
	needRoot(t)
	p := startProcess(t, "--hold", "--buffer", "1M")
	defer func() {
		p.signal(t, unix.SIGTERM)
		p.wait(t)
	}()
	openToAll(t, p.Dir)
	held := brokertest.NewSocket(t, brokertest.Name())
	setBuffer(t, held, number(t, askAs(t, p.Dir, stranger, held.Name, "prove=yes")))
	r := askAs(t, p.Dir, stranger, held.Name, "prove=yes")
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	before, _ := p.status(t)
	if err := unix.Kill(before.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := brokertest.NewSource(t, p.Dir).Send([]byte("a message")); err != nil {
		t.Fatal(err)
	}
	if got, err := held.Receive(); err != nil || string(got) != "a message" {
		t.Errorf("%q, %v", got, err)
	}
	after, sinks := p.status(t)
	if after.PID == before.PID || sinks[r.ID].UID != stranger {
		t.Errorf("%+v", sinks)
	}
}
