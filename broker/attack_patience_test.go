// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// An ordinary user who may read wants others to get nothing: what he gains by sinks that hang, again and again, each for
// less than its patience. broker/ring has the same attacks against the rule alone.

// hog is what the attacker's process does, many times over if Many says so.
type hog struct {
	Dir     string
	Socket  string // subscribe, register or publish
	Options string // lines of the hello or registration
	Many    int
	First   time.Duration // how long it reads when it has come
	Hang    time.Duration // how long it does not read then
	Read    time.Duration // how long it reads before it hangs again; 0: it closes instead, and comes back
	Rate    int           // bytes/s of one that reads all the time, and slowly; 0: none does
	Entries int           // of poll(2) on its socket, beside which it reads or sends all the time
}

// hogRole hands a hog to the process that is to be it.
const hogRole = "MSGMUX_TEST_HOG"

// TestBeHog is that process, and not a test.
func TestBeHog(t *testing.T) {
	var h hog
	if role := os.Getenv(hogRole); role == "" {
		t.Skip("runs within TestPromise4_NoSecondPatience")
	} else if err := json.Unmarshal([]byte(role), &h); err != nil {
		t.Fatal(err)
	}
	for i := range h.Many {
		go func() {
			time.Sleep(h.Hang * time.Duration(i) / time.Duration(h.Many))
			for {
				if conn := h.come(); conn != nil {
					h.stay(conn)
					conn.Close()
				}
			}
		}()
	}
	select {} // until it is killed
}

// come becomes a sink, nil if that did not work.
func (h *hog) come() *net.UnixConn {
	if h.Socket != "register" {
		conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: h.Dir + "/" + h.Socket, Net: "unixpacket"})
		if err != nil {
			return nil
		}
		conn.SetDeadline(time.Now().Add(time.Second))
		conn.Write([]byte(wire.Protocol + "\n" + h.Options))
		b := make([]byte, 64<<10)
		if n, err := conn.Read(b); err != nil || !strings.HasPrefix(string(b[:n]), "ok") {
			conn.Close()
			return nil
		}
		return conn
	}
	name := brokertest.Name()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return nil
	}
	conn.SetDeadline(time.Now().Add(time.Second))
	conn.WriteToUnix([]byte(name+"\n"+h.Options), &net.UnixAddr{Name: h.Dir + "/register", Net: "unixgram"})
	return conn
}

// stay is what it does while it is there.
func (h *hog) stay(conn *net.UnixConn) {
	b := make([]byte, 256<<10)
	conn.SetDeadline(time.Time{})
	if h.Entries > 0 {
		h.poll(conn)
	}
	if h.Rate > 0 {
		for next := time.Now(); ; time.Sleep(time.Until(next)) {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			next = next.Add(time.Duration(n) * time.Second / time.Duration(h.Rate))
		}
	}
	for d := h.First; ; d = h.Read {
		conn.SetReadDeadline(time.Now().Add(d))
		for {
			if _, err := conn.Read(b); err != nil {
				break
			}
		}
		if time.Sleep(h.Hang); h.Read == 0 {
			return
		}
	}
}

// TestPromise4_NoSecondPatience: once such a user has used up what a user may, others keep 85 % of their rate, as long as
// it lasts. Here it is three quarters, at some time of several, because others may use the machine; without the rule they keep a third
// at best.
func TestPromise4_NoSecondPatience(t *testing.T) {
	needRoot(t)
	const (
		patience = 400 * time.Millisecond
		hang     = patience * 95 / 100
		ringSize = 1 << 20
	)
	for _, c := range append(hogs(patience, ringSize), namedHog{"subordinate uids", hog{Socket: "subscribe", Many: 1, Hang: hang}}) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := brokertest.Start(t, withPatience(patience), func(cfg *broker.Config) {
				cfg.Geometry.Size, cfg.Geometry.MaxMessage, cfg.Queue = ringSize, 32<<10, 64<<10
				broker.SetUsers(cfg, subordinates(t, 500_000, 10))
			})
			openToAll(t, b.Dir)
			got := paced(t, b, time.Millisecond)
			rate := func(d time.Duration) float64 {
				n, began := got.Load(), time.Now()
				time.Sleep(d)
				return float64(got.Load()-n) / time.Since(began).Seconds()
			}
			whole := rate(500 * time.Millisecond)
			c.hog.Dir = b.Dir
			if c.name == "subordinate uids" {
				for i := range uint32(10) { // not all at the same time
					h := c.hog
					h.Hang -= time.Duration(i) * hang / 20
					be(t, &h, 500_000+i)
				}
			} else {
				be(t, &c.hog, stranger)
			}
			test.Eventually(t, "the attacker is a sink", func() bool {
				_, sinks := b.Channel.List()
				return len(sinks) > 1
			})
			time.Sleep(5 * patience / 2)
			rest := 0.0
			for try := 0; try < 5 && rest < whole*3/4; try++ {
				rest = max(rest, rate(2*time.Second))
			}
			t.Logf("%.0f messages/s before, %.0f meanwhile: %.2f", whole, rest, rest/whole)
			if rest < whole*3/4 {
				t.Errorf("%.0f messages/s before, %.0f meanwhile", whole, rest)
			}
			_, sinks := b.Channel.List()
			for _, s := range sinks {
				if s.UID == 0 && s.Lost > 0 {
					t.Errorf("root's sink lost %d messages", s.Lost)
				}
			}
		})
	}
}

type namedHog struct {
	name string
	hog  hog
}

// hogs are the ways to be one, where sinks have that patience and the ring so many bytes.
func hogs(patience time.Duration, ringSize int) []namedHog {
	hang := patience * 95 / 100
	return []namedHog{
		{"subscribe", hog{Socket: "subscribe", Many: 1, Hang: hang}},
		{"register", hog{Socket: "register", Many: 1, Hang: hang}},
		{"several", hog{Socket: "subscribe", Many: 8, Hang: hang}},
		{"several registered", hog{Socket: "register", Many: 8, Hang: hang}},
		{"less patience", hog{Socket: "subscribe", Options: "patience=100ms", Many: 1, Hang: 95 * time.Millisecond}},
		{"start=oldest", hog{Socket: "subscribe", Options: "start=oldest", Many: 2, First: 50 * time.Millisecond, Hang: hang}},
		{"pauses", hog{Socket: "subscribe", Many: 1, Hang: hang, Read: 20 * time.Millisecond}},
		{"slow", hog{Socket: "subscribe", Many: 1, Rate: int(5 * time.Duration(ringSize) / 4 * time.Second / patience)}},
	}
}

// BenchmarkSecondPatience is what others keep of their rate at full speed, with everything as it comes: from three seconds after the
// attacker has come, for five, beside the same time before that.
func BenchmarkSecondPatience(b *testing.B) {
	needRoot(b)
	for _, c := range hogs(time.Second, 16<<20) {
		b.Run(c.name, func(b *testing.B) {
			for range b.N {
				br := brokertest.Start(b)
				openToAll(b, br.Dir)
				got := paced(b, br, 0)
				rate := func() float64 {
					n, began := got.Load(), time.Now()
					time.Sleep(5 * time.Second)
					return float64(got.Load()-n) / time.Since(began).Seconds()
				}
				whole := rate()
				c.hog.Dir = br.Dir
				be(b, &c.hog, stranger)
				time.Sleep(3 * time.Second)
				b.ReportMetric(rate()/whole, "kept")
				b.ReportMetric(whole*(32<<10)/1e6, "MB/s")
			}
		})
	}
}

// be starts the attacker's process, as that user, until the test ends.
func be(t testing.TB, h *hog, uid uint32) {
	t.Helper()
	role, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	// Another user cannot reach the folder of the test binary; the link in procfs is not looked up by path.
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestBeHog$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s", hogRole, role))
	cmd.Dir, cmd.Stderr = "/", t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: stranger}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
}

// paced has a source send 32 KiB every so often (each ms, that fills a ring of 1 MiB in 32 ms; 0: as fast as it can), and root's
// sink read it; it counts messages. What the source could not send in time it does not send later.
func paced(t testing.TB, b *brokertest.Broker, every time.Duration) *atomic.Uint64 {
	t.Helper()
	const size = 32 << 10
	publisher, reader := brokertest.NewPublisher(t, b.Dir), brokertest.NewSubscriber(t, b.Dir)
	got := new(atomic.Uint64)
	go func() {
		message := make([]byte, size-4)
		for next := time.Now(); publisher.Send(message) == nil; time.Sleep(time.Until(next)) {
			if next = next.Add(every); time.Since(next) > 20*time.Millisecond {
				next = time.Now()
			}
		}
	}()
	go func() {
		for {
			p, err := reader.Receive()
			if err != nil {
				return
			}
			wire.EachRecord(p.Records, func(m []byte) bool {
				if len(m) == size-4 { // others may send, too
					got.Add(1)
				}
				return true
			})
		}
	}()
	return got
}
