// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"bytes"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// Bad input on source and control, and sinks that misbehave: refused with an error that says what to do,
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
	test.Eventually(t, "ten messages of the probe", func() bool { return p.n.Load() >= 10 })
	close(p.stop)
	took := <-p.took
	slices.Sort(took)
	m, w := took[len(took)/2], took[len(took)-1]
	t.Logf("%d messages meanwhile: median %s, worst %s", len(took), m, w)
	if m > median || w > worst {
		t.Errorf("a message took %s (median), %s (worst)", m, w)
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
