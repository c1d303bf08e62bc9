// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/wire"
)

// Promise 12: a sink in view sees only whole messages of its own future, and misses none that it is waited for.

// viewer is a sink in view in this process.
type viewer struct {
	window
	ok   wire.Reply
	next uint64 // the number that the next message has to say
	lost uint64
}

// numberedMessage is message n of a source: its number, and bytes that follow from it.
func numberedMessage(n uint64) []byte {
	b := make([]byte, 8+n*2654435761%3000)
	for i := 8; i < len(b); i++ {
		b[i] = byte(n*31 + uint64(i)*7)
	}
	binary.LittleEndian.PutUint64(b, n)
	return b
}

// newViewer subscribes in view, and again as long as the broker dies over it.
func newViewer(dir string, o wire.Options) (*viewer, error) {
	o.View = true
	for deadline := time.Now().Add(askPatience); ; time.Sleep(2 * time.Millisecond) {
		v := &viewer{window: window{buf: make([]byte, 64<<10)}}
		var err error
		if v.fd, v.ok, err = helloOnce(dir, "subscribe", wire.Hello{Options: o}); err == nil {
			if err = v.receive(); err == nil && v.reader != nil {
				return v, nil
			}
			unix.Close(v.fd)
			if err == nil {
				err = errors.New("no descriptors came")
			}
		}
		var refusal *wire.Error
		if errors.As(err, &refusal) && refusal.Code != wire.CodeInternal && refusal.Code != wire.CodeBusy || time.Now().After(deadline) {
			return nil, err
		}
	}
}

// read looks once, or waits for something, and compares all that is there. It says whether there was anything. Behind a loss numbers are
// higher, and the loss tells by how much: there is one source.
func (v *viewer) read() (some bool, err error) {
	b, err := v.look()
	if err != nil || b.Count == 0 {
		return b.Need > 0, err
	}
	v.next += b.Lost
	v.lost += b.Lost
	wire.EachRecord(v.buf[:b.Size], func(m []byte) bool {
		if !bytes.Equal(m, numberedMessage(v.next)) {
			err = fmt.Errorf("message %d is another one, of %d bytes", v.next, len(m))
		}
		v.next++
		return err == nil
	})
	return true, errors.Join(err, v.say(v.reader.Next()))
}

// until reads on until the number of the last message is known and has come.
func (v *viewer) until(total *atomic.Uint64, pause func()) error {
	for deadline := time.Now().Add(askPatience); v.next != total.Load(); pause() {
		if _, err := v.read(); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("only %d messages have come", v.next)
		}
	}
	return nil
}

// numbers sends numbered messages by datagram until stop, and stores how many they were.
func numbers(t *testing.T, dir string, stop <-chan struct{}, total *atomic.Uint64) (done chan error) {
	t.Helper()
	total.Store(math.MaxUint64)
	done = make(chan error, 1)
	go func() {
		fd, err := dial(dir, "source", unix.SOCK_DGRAM)
		for n, last := uint64(0), false; err == nil && !last; n++ {
			select {
			case <-stop:
				// Before it is sent, so that whoever waits for it knows that it is the last.
				last = true
				total.Store(n + 1)
			default:
			}
			err = send(fd, numberedMessage(n), 0)
		}
		unix.Close(fd)
		done <- err
	}()
	return done
}

// TestPromise12_Killed: brokers are killed at any moment while sinks in view read. Those that are waited for get everything, in order
// and whole; one that is left behind misses what it is told, and all books balance.
func TestPromise12_Killed(t *testing.T) {
	random := rand.New(rand.NewPCG(seed(t), 0))
	k := newKeeper(t)
	up(t, k, Death{})
	var total atomic.Uint64
	var viewers []*viewer
	join := func(o wire.Options) *viewer {
		v, err := newViewer(k.Setup.Dir, o)
		if err != nil {
			t.Fatalf("%v\n%s", err, k.Log())
		}
		t.Cleanup(v.close)
		viewers = append(viewers, v)
		return v
	}
	join(forever())
	join(forever())
	behind := join(wire.Options{Patience: time.Millisecond, PatienceSet: true})
	stop, ends := make(chan struct{}), make(chan error, 3)
	sent := numbers(t, k.Setup.Dir, stop, &total)
	for _, v := range viewers {
		pause := func() {}
		if v == behind {
			pause = func() { time.Sleep(5 * time.Millisecond) }
		}
		go func() { ends <- v.until(&total, pause) }()
	}
	for range 40 {
		time.Sleep(between(random, 0, 30*time.Millisecond))
		if err := k.Kill(); err != nil {
			t.Fatal(err)
		}
		death := Death{}
		if random.IntN(2) == 0 {
			death = Anywhere(1 + random.Uint64N(2000))
		}
		if err := k.Start(death); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.Kill(); err != nil {
		t.Fatal(err)
	}
	up(t, k, Death{})
	close(stop)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	for range viewers {
		// One that sleeps, and has all, is not woken by the number.
		if err := <-ends; err != nil {
			t.Errorf("%v\n%s", err, k.Log())
		}
	}
	if viewers[0].lost != 0 || viewers[1].lost != 0 {
		t.Errorf("%d and %d were lost to those that are waited for", viewers[0].lost, viewers[1].lost)
	}
	balanced(t, k, total.Load(), viewers)
	t.Logf("%d messages, %d kills; the slow one lost %d", total.Load(), k.Deaths, behind.lost)
}

// balanced waits until the broker has heard that all is done, and compares its books with what the sinks have had.
func balanced(t *testing.T, k *Keeper, total uint64, viewers []*viewer) {
	t.Helper()
	var problem string
	err := until(patience, func() (bool, error) {
		_, sinks, err := k.List()
		problem = ""
		for _, s := range sinks {
			if s.Waiting != 0 || s.Accepted+s.Lost != total {
				problem = fmt.Sprintf("%+v, of %d", s, total)
			}
			for _, v := range viewers {
				if v.ok.ID == s.ID && s.Lost < v.lost {
					problem = fmt.Sprintf("%+v, and it has missed %d", s, v.lost)
				}
			}
		}
		return problem == "", err
	})
	if err != nil || problem != "" {
		t.Errorf("%v: %s\n%s", err, problem, k.Log())
	}
}

// viewSeams are the moments of a subscription in view.
var viewSeams = []string{"attach.stored", "attach.barrier", "attach.taken", "add.cursor", "add.filled", "add.done", "greet.logged", "greet.sent", "greet.done",
	"append.logged", "append.head", "append.done", "tail.logged", "tail.delivered", "tail.done", "done.logged", "done.done", "recv.taken"}

// TestPromise12_EverySeam: a broker is killed at each moment of letting a sink in view in, and of what it does for one. The sink is in
// afterwards, or connects again, and gets what there is; nothing is left in the store of those that did not get in.
func TestPromise12_EverySeam(t *testing.T) {
	k := newKeeper(t)
	up(t, k, Death{})
	first, err := newViewer(k.Setup.Dir, forever())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(first.close)
	var total atomic.Uint64
	stop, end := make(chan struct{}), make(chan error, 1)
	sent := numbers(t, k.Setup.Dir, stop, &total)
	go func() { end <- first.until(&total, func() {}) }()
	for _, seam := range viewSeams {
		if err := k.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := k.Start(Death{Point{seam, ""}, 1}); err != nil {
			t.Fatal(err)
		}
		came := make(chan error, 1)
		go func() {
			v, err := newViewer(k.Setup.Dir, forever())
			if err == nil {
				for range 100 {
					b, failed := v.reader.Read(v.buf, math.MaxUint64)
					err = failed
					if b.Count == 0 || err != nil {
						break
					}
					v.reader.Say(v.reader.Next())
				}
				v.close()
			}
			came <- err
		}()
		if !k.AwaitDeath(5 * time.Second) {
			t.Errorf("no broker came by %s", seam)
		}
		if err := k.Kill(); err != nil {
			t.Fatal(err)
		}
		up(t, k, Death{})
		if err := <-came; err != nil {
			t.Errorf("%s: %v\n%s", seam, err, k.Log())
		}
	}
	close(stop)
	if err := errors.Join(<-sent, <-end); err != nil || first.lost != 0 {
		t.Errorf("%d lost, %v\n%s", first.lost, err, k.Log())
	}
	err = until(patience, func() (bool, error) {
		_, sinks, err := k.List()
		return len(sinks) == 1, err
	})
	if err != nil {
		t.Error(err)
	}
	err = until(patience, func() (bool, error) {
		stored, _, err := k.Stored()
		return len(stored) == 2, err // its connection, and its page
	})
	if err != nil {
		stored, _, _ := k.Stored()
		t.Errorf("the store has %q: %v", stored, err)
	}
	balanced(t, k, total.Load(), []*viewer{first})
}

// TestPromise12_Moves: the ring is moved fifty times under sinks in view, one of which never looks at what it is sent. Nothing is
// missing, and what stays of old rings is what somebody has mapped or lies in a queue.
func TestPromise12_Moves(t *testing.T) {
	k := newKeeper(t)
	up(t, k, Death{})
	v, err := newViewer(k.Setup.Dir, forever())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.close)
	stopped, err := newViewer(k.Setup.Dir, wire.Options{Patience: 0, PatienceSet: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stopped.close)
	var total atomic.Uint64
	stop, end := make(chan struct{}), make(chan error, 1)
	sent := numbers(t, k.Setup.Dir, stop, &total)
	go func() { end <- v.until(&total, func() {}) }()
	for i := range 50 {
		time.Sleep(5 * time.Millisecond)
		if err := k.Kill(); err != nil {
			t.Fatal(err)
		}
		k.Setup.Geometry.MaxSinks = 64 + uint64(i%2)
		up(t, k, Death{})
	}
	close(stop)
	if err := errors.Join(<-sent, <-end); err != nil || v.lost != 0 {
		t.Errorf("%d lost, %v\n%s", v.lost, err, k.Log())
	}
	if v.moves < 10 {
		t.Errorf("it was moved %d times", v.moves)
	}
	// The one that was stopped goes on, in whatever order it hears of the rings.
	if err := stopped.until(&total, func() {}); err != nil {
		t.Errorf("the one that was stopped: %v\n%s", err, k.Log())
	}
	balanced(t, k, total.Load(), []*viewer{v, stopped})
	t.Logf("%d messages, %d moves seen; the stopped one lost %d", total.Load(), v.moves, stopped.lost)
}
