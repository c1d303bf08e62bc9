// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/ring"
)

// setQueueLength sets how many datagrams wait in the queue of each socket that is made from now on: 10 is the kernel's
// own default, 512 is what systemd sets.
func setQueueLength(t *testing.T, n int) {
	t.Helper()
	if os.Getenv(namespaceMark) == "" {
		return
	}
	if err := os.WriteFile("/proc/sys/net/unix/max_dgram_qlen", []byte(strconv.Itoa(n)), 0); err != nil {
		t.Logf("queues stay as they are: %v", err)
	}
}

// seed is the seed of a test: $MSGMUX_SEED, or a new one.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := uint64(time.Now().UnixNano())
	if text := os.Getenv("MSGMUX_SEED"); text != "" {
		var err error
		if n, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("MSGMUX_SEED: %v", err)
		}
	}
	t.Logf("MSGMUX_SEED=%d", n)
	return n
}

// setting is one kind of channel.
type setting struct {
	geometry ring.Geometry
	queue    int // messages that a socket's queue takes
	largest  int // bytes of the largest message sent
}

// settings vary what decides how many messages one operation is about: how many a receive takes, how many a queue
// takes from a send, and where the ring ends.
var settings = []setting{
	{ring.Geometry{Size: 1 << 20, MaxMessage: 64 << 10, MaxSinks: 64, MaxClients: 16}, 512, 64 << 10},
	{ring.Geometry{Size: 1 << 20, MaxMessage: 64 << 10, MaxSinks: 64, MaxClients: 16}, 10, 64 << 10},
	{ring.Geometry{Size: 8 << 20, MaxMessage: 4 << 20, MaxSinks: 64, MaxClients: 16}, 512, 150 << 10}, // 4 a receive
	{ring.Geometry{Size: 2 << 20, MaxMessage: 1 << 20, MaxSinks: 64, MaxClients: 16}, 64, 64 << 10},   // 16 a receive
}

func (s *setting) setup() Setup {
	return Setup{Geometry: s.geometry, Patience: 50 * time.Millisecond}
}

func (s *setting) traffic(seed uint64) Traffic {
	t := Traffic{Seed: seed, Largest: s.largest}
	// What the kernel would not send at all cannot be refused.
	if s.geometry.MaxMessage == uint64(s.largest) {
		t.TooLarge = s.largest + 1 + int(seed%1000)
	}
	return t
}

// everyWay is a load with every kind of source.
var everyWay = []string{Blocking, Blocking, NonBlocking, NonBlocking, Unconnected, Publish, Publish}

// newLoad makes a channel with everything on it.
func newLoad(t *testing.T, s *setting, seed uint64, shape Shape) *Load {
	t.Helper()
	setQueueLength(t, s.queue)
	k, err := NewKeeper(s.setup())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	l, err := NewLoad(k, s.traffic(seed), shape)
	if err != nil {
		t.Fatalf("%v\n%s", err, k.Log())
	}
	return l
}

// die starts a broker that dies at d, or by somebody else's hand within limit, and says whether d came to pass.
func die(t *testing.T, k *Keeper, d Death, limit time.Duration) bool {
	t.Helper()
	if err := k.Start(d); err != nil {
		t.Fatal(err)
	}
	itself := k.AwaitDeath(limit)
	if err := k.Kill(); err != nil {
		t.Fatal(err)
	}
	return itself
}

// balance lets the channel come to rest and compares the books. Each violation fails the test.
func balance(t *testing.T, l *Load) *Books {
	t.Helper()
	for _, err := range l.Quiesce() {
		t.Errorf("violation: %v", err)
	}
	b, err := l.Books()
	if err != nil {
		t.Fatalf("%v\n%s", err, l.Keeper.Log())
	}
	for _, v := range b.Violations() {
		t.Errorf("violation: %s", v)
	}
	if t.Failed() {
		t.Logf("log:\n%s", l.Keeper.Log())
	}
	return b
}

// between is a random duration.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)))
}

// newKeeper is an empty channel.
func newKeeper(t *testing.T) *Keeper {
	t.Helper()
	k, err := NewKeeper(settings[0].setup())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

// up starts a broker that dies at d, and waits until it is ready.
func up(t *testing.T, k *Keeper, d Death) {
	t.Helper()
	if err := k.Start(d); err != nil {
		t.Fatal(err)
	}
	if err := k.AwaitReady(); err != nil {
		t.Fatalf("%v\n%s", err, k.Log())
	}
}

// works checks that a sink, new to the channel or not, gets a new message.
func works(t *testing.T, k *Keeper, name string) {
	t.Helper()
	s, err := NewSink(k.Setup.Dir, &Traffic{Largest: 1 << 10}, name, ByName, forever(), Fast)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := s.Register(); err != nil {
		t.Fatalf("%v\n%s", err, k.Log())
	}
	reaches(t, k, s)
}

// stamp makes messages that nobody else sends.
var stamp atomic.Uint64

// reaches sends a message, and fails unless s, which nobody reads, gets it, whatever comes before it.
func reaches(t *testing.T, k *Keeper, s *Sink) {
	t.Helper()
	out, err := newOutlet(k.Setup.Dir, NonBlocking, 0, 1<<10)
	if err != nil {
		t.Fatal(err)
	}
	defer out.close()
	text := fmt.Appendf(nil, "is anybody there? %d", stamp.Add(1))
	if err := out.send([][]byte{text}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(hang); time.Now().Before(deadline); {
		n, err := receive(s.fd, s.buf, 0)
		if err == nil && n <= len(s.buf) && bytes.Equal(s.buf[:n], text) {
			return
		}
	}
	t.Fatalf("the message did not come within %v\n%s", hang, k.Autopsy())
}

// hang is after how long a broker that does nothing is taken to hang.
const hang = 10 * time.Second
