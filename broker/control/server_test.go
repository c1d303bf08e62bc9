// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// exchange sends a packet to the control socket and returns the answer.
func exchange(t *testing.T, dir, packet string) wire.Answer {
	t.Helper()
	c := brokertest.Dial(t, dir, "control")
	defer c.Close()
	if err := c.SendPacket([]byte(packet)); err != nil {
		t.Fatal(err)
	}
	a, err := c.Answer()
	if err != nil {
		t.Fatalf("no answer to %.40q: %v", packet, err)
	}
	return a
}

// TestControlRefusesNonsense with an answer that says what is wrong.
func TestControlRefusesNonsense(t *testing.T) {
	b := brokertest.Start(t)
	stop := flood(t, b)
	for packet, want := range map[string]string{
		`{"op":"status"`:                wire.CodeBadText,
		`{"op":3}`:                      wire.CodeBadText,
		`["status"]`:                    wire.CodeBadText,
		`{"op":"status","sink":{}}`:     wire.CodeBadText,
		"\xff":                          wire.CodeBadText,
		`{"op":"explode"}`:              wire.CodeUnsupported,
		`{"op":"drop"}`:                 wire.CodeBadOption,
		`{"op":"drop","sink":"nobody"}`: wire.CodeNotFound,
		`{"op":"set","sink":"flooded","patience":"soon"}`:                       wire.CodeBadOption,
		`{"op":"status","sink":"` + strings.Repeat("x", wire.MaxRequest) + `"}`: wire.CodeTooLarge,
		`{"op":` + strings.Repeat("[", 60000) + `}`:                             wire.CodeBadText,
	} {
		if a := exchange(t, b.Dir, packet); a.OK || a.Error == nil || a.Error.Code != want {
			t.Errorf("%.60q was answered %+v, want %s", packet, a.Error, want)
		} else if len(a.Error.Text) > 500 || a.Error.Text == "" {
			t.Errorf("%.60q was answered with %d bytes: %.100q", packet, len(a.Error.Text), a.Error.Text)
		}
	}
	if n, gap := stop(); n < 10 || gap > slow*time.Second {
		t.Errorf("%d messages, %v between two", n, gap)
	}
}

// TestControlReadsNoMoreThanARequest of 10 MB. As one packet the kernel does not take that, whoever sends it, so it comes
// in the largest that it takes; the first of them is the request.
func TestControlReadsNoMoreThanARequest(t *testing.T) {
	b := brokertest.Start(t)
	c := brokertest.Dial(t, b.Dir, "control")
	raw, err := c.Conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	// Root may send larger ones.
	raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 32<<20) })
	left := 10 << 20
	for size := left; left > 0 && size > wire.MaxRequest; {
		err := c.SendPacket([]byte(`{"op":"` + strings.Repeat("x", size-9) + `"}`))
		switch {
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EMSGSIZE):
			size /= 2
		case err != nil:
			left = 0 // it was told already, and hung up on
		default:
			if left == 10<<20 {
				t.Logf("packets of %d bytes", size)
			}
			left -= size
		}
	}
	if a, err := c.Answer(); err != nil || a.Error == nil || a.Error.Code != wire.CodeTooLarge {
		t.Errorf("got %+v and %v", a, err)
	}
}

// crowdOf opens connections that say nothing.
func crowdOf(t *testing.T, n int, network, address string) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, 0, n)
	t.Cleanup(func() {
		for _, c := range conns {
			c.Close()
		}
	})
	for len(conns) < n {
		c, err := net.Dial(network, address)
		if errors.Is(err, syscall.EAGAIN) { // the listen queue is full for a moment
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	return conns
}

// TestSilentClientsOfControl keep nobody out, are told why they have to go, and delay no message.
func TestSilentClientsOfControl(t *testing.T) {
	b := brokertest.Start(t)
	stop := flood(t, b)
	silent := crowdOf(t, 1000, "unixpacket", b.Dir+"/control")
	began := time.Now()
	if a := brokertest.Ask(t, b.Dir, wire.Request{Op: wire.OpStatus}); !a.OK {
		t.Errorf("got %+v", a)
	}
	if d := time.Since(began); d > slow*time.Second {
		t.Errorf("status took %v", d)
	}
	codes := make(map[string]int)
	for _, c := range silent {
		c.SetReadDeadline(time.Now().Add(within))
		text, err := io.ReadAll(c)
		var a wire.Answer
		if err != nil || json.Unmarshal(text, &a) != nil || a.Error == nil {
			t.Fatalf("got %q and %v", text, err)
		}
		codes[a.Error.Code]++
	}
	if codes[wire.CodeBusy] < 900 || codes[wire.CodeTimeout] < 10 || codes[wire.CodeBusy]+codes[wire.CodeTimeout] != 1000 {
		t.Errorf("they got %v", codes)
	}
	if n, gap := stop(); n < 100 || gap > slow*time.Second {
		t.Errorf("%d messages, %v between two", n, gap)
	}
}

// TestIdleSenders: a thousand who are connected to a socket for datagrams, and say nothing, keep nobody out. (Those of the
// sockets for connections are TestSilentClients of the broker, the one above, and TestMetricsClientsThatHang.)
func TestIdleSenders(t *testing.T) {
	b := brokertest.Start(t)
	stop := flood(t, b)
	for _, socket := range []string{"source", "register"} {
		idle := crowdOf(t, 1000, "unixgram", b.Dir+"/"+socket)
		brokertest.NewSink(t, b.Dir, "label=beside-"+socket, "tap=yes")
		if a := brokertest.Ask(t, b.Dir, wire.Request{Op: wire.OpStatus}); !a.OK || len(idle) != 1000 {
			t.Errorf("%s: got %+v", socket, a)
		}
	}
	if n, gap := stop(); n < 100 || gap > slow*time.Second {
		t.Errorf("%d messages, %v between two", n, gap)
	}
}

// TestControlAnswersAboutManySinks in time: 4,000 in less than 100 ms, on a machine that has nothing else to do.
func TestControlAnswersAboutManySinks(t *testing.T) {
	if slow > 4 {
		t.Skip("measures time")
	}
	const n = 4000
	b := brokertest.Start(t, manySinks(n))
	addSinks(t, b, n)
	best := time.Hour
	for range 5 {
		began := time.Now()
		a := brokertest.Ask(t, b.Dir, wire.Request{Op: wire.OpList})
		best = min(best, time.Since(began))
		if len(a.Sinks) != n {
			t.Fatalf("%d sinks", len(a.Sinks))
		}
	}
	t.Logf("the answer and its reading: %v", best)
	if best > time.Second { // other tests may be running
		t.Errorf("took %v", best)
	}
}

// BenchmarkList is an answer about 4,000 sinks: asked, made, sent, read to its end, and with parsed taken apart.
func BenchmarkList(b *testing.B) {
	const n = 4000
	broker := brokertest.Start(b, manySinks(n))
	addSinks(b, broker, n)
	for _, parsed := range []bool{false, true} {
		b.Run(fmt.Sprintf("parsed=%v", parsed), func(b *testing.B) {
			for b.Loop() {
				c := brokertest.Dial(b, broker.Dir, "control")
				if err := c.SendPacket([]byte(`{"op":"list"}`)); err != nil {
					b.Fatal(err)
				}
				if parsed {
					if a, err := c.Answer(); err != nil || len(a.Sinks) != n {
						b.Fatalf("%d sinks, %v", len(a.Sinks), err)
					}
				} else {
					for _, err := c.ReceivePacket(); !errors.Is(err, io.EOF); _, err = c.ReceivePacket() {
						if err != nil {
							b.Fatal(err)
						}
					}
				}
				c.Close()
			}
		})
	}
}

// TestControlListenerMustFit: no datagrams, no stream.
func TestControlListenerMustFit(t *testing.T) {
	dir := test.Folder(t)
	for _, network := range []string{"unix"} {
		l, err := net.Listen(network, dir+"/"+network)
		if err != nil {
			t.Fatal(err)
		}
		f, err := l.(*net.UnixListener).File()
		l.Close()
		if err != nil {
			t.Fatal(err)
		}
		if err := newControl(f); err == nil {
			t.Errorf("a control socket of kind %s was taken", network)
		}
	}
	_ = os.Remove(dir + "/unix")
}
