// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/wire"
)

// The store is what its service manager makes of it: it can be emptied under a running broker, be too small, or not be there.

// holds says whether the store has the ring and so many sinks and clients.
func holds(t *testing.T, k *Keeper, clients int) bool {
	t.Helper()
	sinks, memory, err := k.Stored()
	if err != nil {
		t.Fatal(err)
	}
	return len(sinks) == clients && len(memory) == 2
}

// wentOn checks that a broker has the ring of the one before, and so many sinks.
func wentOn(t *testing.T, k *Keeper, sinks int) {
	t.Helper()
	st, list, err := k.List()
	if err != nil {
		t.Fatalf("%v\n%s", err, k.Log())
	}
	if st.Starts < 2 || len(list) != sinks {
		t.Errorf("the broker has a ring that %d have opened, and %d sinks of %d\n%s", st.Starts, len(list), sinks, k.Log())
	}
	want := fmt.Sprintf("level=INFO msg=\"went on with the ring of the last broker\" event=started sinks=%d", sinks)
	if err := until(patience, func() (bool, error) { return strings.Contains(k.Log(), want), nil }); err != nil {
		t.Errorf("the journal does not say that the broker went on: %v\n%s", err, k.Log())
	}
}

// client is a sink with a connection, which is closed at the end.
func client(t *testing.T, k *Keeper) {
	t.Helper()
	fd, _, err := greet(k.Setup.Dir, "subscribe", wire.Hello{})
	if err != nil {
		t.Fatalf("%v\n%s", err, k.Log())
	}
	t.Cleanup(func() { unix.Close(fd) })
}

// TestPromise7_EmptiedStoreIsFilledAgain: the service manager lets go of descriptors while the broker runs, of all or some,
// as a daemon-reload does that finds a lower limit. The broker notices by itself, and says so.
func TestPromise7_EmptiedStoreIsFilledAgain(t *testing.T) {
	for what, reload := range map[string]func(k *Keeper){
		"all":    func(k *Keeper) { k.systemd.EmptyStore() },
		"newest": func(k *Keeper) { k.systemd.Reload(4, true) },
		"oldest": func(k *Keeper) { k.systemd.Reload(4, false) },
	} {
		t.Run(what, func(t *testing.T) {
			k := newKeeper(t)
			up(t, k, Death{})
			a := member(t, k, "a")
			member(t, k, "b")
			client(t, k)
			// What a predecessor has stored is looked after as well, that which came after its last witness too.
			if err := k.Kill(); err != nil {
				t.Fatal(err)
			}
			up(t, k, Death{})
			err := until(patience, func() (bool, error) {
				return holds(t, k, 3) && k.systemd.Stored()[0] == activation.LastWitness, nil
			})
			if err != nil {
				t.Fatalf("stored are %v: %v", k.systemd.Stored(), err)
			}
			reload(k)
			k.systemd.SetStoreMax(100)
			if holds(t, k, 3) {
				t.Fatalf("the store has lost nothing: %v", k.systemd.Stored())
			}
			if err := until(patience, func() (bool, error) { return holds(t, k, 3), nil }); err != nil {
				t.Fatalf("stored are %v: %v\n%s", k.systemd.Stored(), err, k.Log())
			}
			err = until(patience, func() (bool, error) { return strings.Contains(k.Log(), "event=descriptor-store"), nil })
			if err != nil {
				t.Errorf("the journal says nothing of it: %v\n%s", err, k.Log())
			}
			if err := k.Kill(); err != nil {
				t.Fatal(err)
			}
			up(t, k, Death{})
			wentOn(t, k, 3)
			reaches(t, k, a)
		})
	}
}

// TestPromise7_EmptiedStoreAtTheEnd: it is emptied, and the broker is told to stop before it has looked again.
func TestPromise7_EmptiedStoreAtTheEnd(t *testing.T) {
	k := newKeeper(t)
	up(t, k, Death{})
	a := member(t, k, "a")
	k.systemd.EmptyStore()
	if err := k.Stop(); err != nil {
		t.Fatal(err)
	}
	if !holds(t, k, 1) {
		t.Fatalf("stored are %v\n%s", k.systemd.Stored(), k.Log())
	}
	up(t, k, Death{})
	wentOn(t, k, 1)
	reaches(t, k, a)
}

// TestPromise7_NoStoreAnyMore: it is emptied, and takes nothing any more. The broker lets sinks in all the same; when it is
// told to stop it gives them what it has, and does not say that a restart keeps the rest.
func TestPromise7_NoStoreAnyMore(t *testing.T) {
	k := newKeeper(t)
	up(t, k, Death{})
	member(t, k, "a")
	k.systemd.Reload(0, true)
	err := until(patience, func() (bool, error) { return strings.Contains(k.Log(), "keeps no descriptors any more"), nil })
	if err != nil {
		t.Fatalf("the journal does not say that nothing is kept: %v\n%s", err, k.Log())
	}
	b := member(t, k, "b")
	drains(t, k, b)
}

// TestPromise7_NoStore: a service manager that takes no descriptors.
func TestPromise7_NoStore(t *testing.T) {
	k := newKeeper(t)
	k.systemd.SetStoreMax(0)
	up(t, k, Death{})
	err := until(patience, func() (bool, error) {
		return strings.Contains(k.Log(), "the service manager keeps no descriptors"), nil
	})
	if err != nil {
		t.Errorf("the journal does not say that nothing is kept: %v\n%s", err, k.Log())
	}
	drains(t, k, member(t, k, "a"))
}

// drains has a broker stopped that has more for a sink than fits its queue, and wants all of it to come, and what is left over
// to be called lost.
func drains(t *testing.T, k *Keeper, s *Sink) {
	t.Helper()
	const messages = 2000
	hung := member(t, k, "hung")
	_ = hung
	out, err := newOutlet(k.Setup.Dir, Blocking, 0, 1<<10)
	if err != nil {
		t.Fatal(err)
	}
	defer out.close()
	for i := range messages {
		if err := out.send([][]byte{fmt.Appendf(nil, "message %d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	err = until(patience, func() (bool, error) {
		st, _, err := k.List()
		return err == nil && st.Entered == messages, err
	})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan int)
	go func() {
		n := 0
		for idle := time.Now(); n < messages && time.Since(idle) < patience; {
			if _, err := receive(s.fd, s.buf, 0); err == nil {
				n, idle = n+1, time.Now()
			}
		}
		got <- n
	}()
	if err := k.Stop(); err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != messages {
		t.Errorf("the sink got %d messages of %d\n%s", n, messages, k.Log())
	}
	log := k.Log()
	if !strings.Contains(log, "lost with this process") || strings.Contains(log, "a restart keeps") {
		t.Errorf("the journal does not say that the rest is lost:\n%s", log)
	}
}

// TestPromise7_TooSmallAStore: it takes less than the channel has. That is said, and what is there is used.
func TestPromise7_TooSmallAStore(t *testing.T) {
	k := newKeeper(t)
	up(t, k, Death{})
	for _, name := range []string{"a", "b", "c", "d"} {
		member(t, k, name)
	}
	k.systemd.EmptyStore()
	k.systemd.SetStoreMax(4) // a witness, and three of six
	err := until(patience, func() (bool, error) { return strings.Contains(k.Log(), "takes fewer descriptors"), nil })
	if err != nil {
		t.Errorf("the journal says nothing of it: %v\n%s", err, k.Log())
	}
}

// TestPromise7_RefusedClientIsForgotten: a framed client is refused because the service manager is deaf. Its connection ends
// at once, whoever has a copy of it, and leaves the store once the service manager listens again.
func TestPromise7_RefusedClientIsForgotten(t *testing.T) {
	k := newKeeper(t)
	up(t, k, Death{})
	k.systemd.Pause()
	fd, err := dial(k.Setup.Dir, "subscribe", unix.SOCK_SEQPACKET)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	timeouts(fd, patience, 2*patience)
	send(fd, wire.Hello{}.Append(nil), 0)
	time.Sleep(500 * time.Millisecond) // the descriptor and the barrier are in the mailbox
	fill(t, k)
	buf := make([]byte, 4096)
	n, err := receive(fd, buf, 0)
	if err != nil || !strings.HasPrefix(string(buf[:n]), "error") {
		t.Errorf("the client was answered %q, %v", buf[:max(n, 0)], err)
	}
	if n, err := receive(fd, buf, 0); n > 0 || err == unix.EAGAIN {
		t.Errorf("and then comes %q, %v instead of the end", buf[:max(n, 0)], err)
	}
	k.systemd.Resume()
	if err := until(patience, func() (bool, error) { return holds(t, k, 0), nil }); err != nil {
		t.Errorf("stored are %v: %v", k.systemd.Stored(), err)
	}
}

// fill leaves no room in the mailbox of a service manager that is paused.
func fill(t *testing.T, k *Keeper) {
	t.Helper()
	filler, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: k.systemd.Socket(), Net: "unixgram"})
	if err != nil {
		k.systemd.Resume()
		t.Fatal(err)
	}
	defer filler.Close()
	filler.SetWriteDeadline(time.Now().Add(time.Second))
	for err == nil {
		_, err = filler.Write([]byte("STATUS=other services have a lot to say"))
	}
}

// asideSeams are the seams of a ring that takes the place of a broken one.
var asideSeams = []string{"aside.filled", "aside.published"}

// TestPromise7_KilledWhileSettingAside: a broken ring is set aside, and the broker is killed on the way, before or after each
// sink. All of them are in the next one.
func TestPromise7_KilledWhileSettingAside(t *testing.T) {
	deaths := []Death{{Point{"add.filled", ""}, 1}, {Point{"add.filled", ""}, 2}, {Point{"add.filled", ""}, 3}}
	for _, name := range asideSeams {
		deaths = append(deaths, Death{Point{name, ""}, 1})
	}
	for _, headless := range []bool{false, true} {
		for _, d := range deaths {
			t.Run(fmt.Sprintf("%s %d headless %v", d.Point, d.Hit, headless), func(t *testing.T) {
				k := newKeeper(t)
				up(t, k, Death{})
				a := member(t, k, "a")
				member(t, k, "b")
				member(t, k, "c")
				if err := a.Register(); err != nil { // so that the other registrations are consumed
					t.Fatal(err)
				}
				if err := k.Kill(); err != nil {
					t.Fatal(err)
				}
				damage(t, k, headless)
				if !die(t, k, d, patience) {
					t.Fatal("no broker came by there")
				}
				up(t, k, Death{})
				_, sinks, err := k.List()
				if err != nil || len(sinks) != 3 {
					t.Errorf("%d sinks of 3 are left, %v\n%s", len(sinks), err, k.Log())
				}
				if !holds(t, k, 3) {
					t.Errorf("stored are %v", k.systemd.Stored())
				}
				reaches(t, k, a)
			})
		}
	}
}

// damage makes the stored ring one that cannot be used. Of a headless one the state does not even say what it is.
func damage(t *testing.T, k *Keeper, headless bool) {
	t.Helper()
	fd, err := k.Memory(activation.StateName)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	at := int64(4096 + 8) // the head
	if headless {
		at = 0 // the magic
	}
	if _, err := unix.Pwrite(fd, []byte{1, 2, 3, 4, 5, 6, 7, 8}, at); err != nil {
		t.Fatal(err)
	}
	if _, ok := ring.GenerationOf(fd); ok == headless {
		t.Fatalf("the damage is another one: headless %v", ok)
	}
}

// TestPromise7_SourcesKeepTheirNumbers: whichever sockets for sources come beside it, and in whatever order they are handed over,
// one has the number that it had under the broker before, for messages of that time may be told by it.
func TestPromise7_SourcesKeepTheirNumbers(t *testing.T) {
	k := newKeeper(t)
	numbers := func() map[string]uint32 {
		t.Helper()
		up(t, k, Death{})
		st, _, err := k.List()
		if err != nil {
			t.Fatalf("%v\n%s", err, k.Log())
		}
		all := make(map[string]uint32)
		for _, s := range st.Sources.Sockets {
			all[strings.TrimPrefix(s.Path, k.Setup.Dir+"/")] = s.Number
		}
		return all
	}
	if got, want := numbers(), map[string]uint32{"source": 1, secondSource: 2, "publish": 0}; !maps.Equal(got, want) {
		t.Errorf("numbers %v, want %v", got, want)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: k.Setup.Dir + "/another"}), k.systemd.Give("source", fd), k.Kill()); err != nil {
		t.Fatal(err)
	}
	if got, want := numbers(), map[string]uint32{"source": 1, secondSource: 2, "another": 3, "publish": 0}; !maps.Equal(got, want) {
		t.Errorf("numbers %v, want %v", got, want)
	}
}
