// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	msgmux "github.com/msgmux/msgmux/client"
)

func atoi(t testing.TB, text string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// number reads a number from the environment.
func number(t testing.TB, variable string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	return atoi(t, text)
}

// message is the message of that number: it says so, and its length depends on it.
func message(n uint64) []byte {
	text := strconv.AppendUint(nil, n, 10)
	text = append(text, ' ')
	size := 8 + int(n*2654435761%400)
	if n%1000 == 0 {
		size = 40_000 + int(n%30_000)
	}
	for len(text) < size {
		text = append(text, byte('a'+n%26))
	}
	return text
}

// talker sends numbered messages into a channel, at a rate, until it is stopped.
type talker struct {
	sent atomic.Uint64
	stop context.CancelFunc
	done sync.WaitGroup
}

func talk(t testing.TB, c *channelOn, each time.Duration) *talker {
	t.Helper()
	source, err := c.Dial(t.Context(), msgmux.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	k := &talker{stop: cancel}
	k.done.Go(func() {
		defer source.Close()
		batch := source.Batch()
		for tick := time.NewTicker(5 * time.Millisecond); ctx.Err() == nil; <-tick.C {
			if !k.send(t, batch, k.sent.Load()+uint64(5*time.Millisecond/each)) {
				return
			}
		}
	})
	return k
}

// speak sends up to a number.
func (k *talker) speak(t testing.TB, c *channelOn, until uint64) {
	t.Helper()
	source, err := c.Dial(t.Context(), msgmux.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	k.send(t, source.Batch(), until)
}

func (k *talker) send(t testing.TB, batch *msgmux.Batch, until uint64) bool {
	t.Helper()
	for k.sent.Load() < until {
		if err := batch.Add(t.Context(), message(k.sent.Load())); err != nil {
			t.Errorf("cannot send: %v", err)
			return false
		}
		k.sent.Add(1)
	}
	if err := batch.Flush(t.Context()); err != nil {
		t.Errorf("cannot send: %v", err)
		return false
	}
	return true
}

// end stops it and tells how many messages it has sent.
func (k *talker) end() uint64 {
	k.stop()
	k.done.Wait()
	return k.sent.Load()
}

// listener is a kept sink that wants numbered messages, each once and in order.
type listener struct {
	next  atomic.Uint64
	wrong atomic.Pointer[string] // the first that was wrong
}

func listen(t testing.TB, c *channelOn) *listener {
	t.Helper()
	forever := msgmux.Forever
	sink, err := c.Subscribe(t.Context(), msgmux.SinkOptions{Label: "listener", Keep: msgmux.Forever, Patience: &forever, Ack: true})
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{}
	var done sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() {
		cancel()
		done.Wait()
		sink.Close()
	})
	done.Go(func() {
		for {
			p, err := sink.ReceivePacket(ctx)
			if err == nil {
				for m := range p.Messages() {
					if n := l.next.Load(); string(m.Payload) != string(message(n)) {
						text := fmt.Sprintf("message %.30q came, and %d was next", m.Payload, n)
						l.wrong.CompareAndSwap(nil, &text)
					}
					l.next.Add(1)
				}
				err = sink.Ack(p.Seq + uint64(p.Count))
			}
			if err != nil {
				if ctx.Err() == nil {
					text := err.Error()
					l.wrong.CompareAndSwap(nil, &text)
				}
				return
			}
		}
	})
	return l
}

// check wants the stream to hold the messages 0 to sent-1 once and in order, as records or in packets.
func check(t testing.TB, js jetstream.JetStream, subject string, sent uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var consumer jetstream.Consumer
	var err error
	eventually(t, "a consumer", func() bool { // a cluster that elects its leader may never answer what it was asked meanwhile
		once, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		consumer, err = js.OrderedConsumer(once, "S", jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}})
		return err == nil
	})
	messages, err := consumer.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer messages.Stop()
	next := uint64(0)
	for next < sent || sent == 0 {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			t.Fatalf("the stream has %d of %d: %v", next, sent, err)
		}
		one := func(payload []byte) {
			if string(payload) != string(message(next)) {
				t.Fatalf("the stream has %.30q (%v), and %d was next", payload, m.Headers(), next)
			}
			next++
		}
		if m.Headers().Get("Msgmux-Count") == "" {
			one(m.Data())
		} else {
			p, err := msgmux.ParsePacket(m.Data())
			if err != nil {
				t.Fatal(err)
			}
			for m := range p.Messages() {
				one(m.Payload)
			}
		}
		if about, err := m.Metadata(); err == nil && about.NumPending == 0 && next != sent {
			t.Fatalf("the stream ends with %d of %d", next, sent)
		}
	}
}

// chaos kills and cuts at random.
type chaos struct {
	t      testing.TB
	seed   uint64
	random *rand.Rand
	kinds  map[string]int // what was done
	far    []*host        // whose links may be cut

	processes []*process
	servers   *servers
}

func newChaos(t testing.TB, seed, stream uint64, processes []*process, s *servers, hosts []*host) *chaos {
	return &chaos{t: t, seed: seed, random: rand.New(rand.NewPCG(seed, stream)), kinds: map[string]int{},
		far: append(slices.Clone(hosts), s.hosts...), processes: processes, servers: s}
}

// strike kills some, cuts some, and sees to it that all come back.
func (c *chaos) strike() {
	var after []func()
	for n := 1 + c.random.IntN(3)*c.random.IntN(2); n > 0; n-- {
		switch pick := c.random.IntN(len(c.processes) + 3); {
		case pick < len(c.processes):
			p := c.processes[pick]
			c.kinds[p.name]++
			p.Kill()
			after = append(after, p.Run)
		case pick < len(c.processes)+2:
			s := c.servers.all[c.random.IntN(len(c.servers.all))]
			if s.Process() == nil {
				continue
			}
			c.kinds["nats-server"]++
			s.Kill()
			after = append(after, func() { s.Run(c.t) })
		default:
			h := c.far[c.random.IntN(len(c.far))]
			if h.cut {
				continue
			}
			c.kinds["link"]++
			h.Cut(true)
			after = append(after, func() { h.Cut(false) })
		}
	}
	for _, again := range after {
		time.Sleep(time.Duration(c.random.IntN(400)) * time.Millisecond)
		again()
	}
}

// total is how many were killed or cut.
func (c *chaos) total() (n int) {
	for _, k := range c.kinds {
		n += k
	}
	return n
}

// TestKills kills the near broker, the bridges, NATS servers, their leader among them, and the far broker at random, several at the same
// moment, and cuts links and mends them: every message is in the stream once and in order, and comes to the far channel's kept
// sink once and in order. MSGMUX_BRIDGE_KILLS is how many (100 over all), MSGMUX_SEED says which.
func TestKills(t *testing.T) {
	kills := number(t, "MSGMUX_BRIDGE_KILLS", 100)
	seed := number(t, "MSGMUX_SEED", uint64(time.Now().UnixNano()))
	variants := []struct {
		name     string
		servers  int
		subjects []string
		packets  bool
	}{
		{"one server, batches of records", 1, []string{"site.near"}, false},
		{"one server, packets", 1, []string{"site.*"}, true},
		{"three servers, batches of records", 3, []string{"site.near"}, false},
		{"three servers, packets", 3, []string{"site.near"}, true},
	}
	for i, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			n := newNetwork(t)
			s := newServers(t, n, v.servers)
			desk, nearHost, farHost := n.newHost("desk"), n.newHost("near"), n.newHost("far")
			js := s.connect(t, desk)
			s.stream(t, js, jetstream.StreamConfig{Subjects: v.subjects, AllowBatchPublish: true})
			near, far := newChannel(t, nearHost, "--buffer", "64M"), newChannel(t, farHost)
			heard := listen(t, far)
			common := []string{"server=" + s.URLs, "stream=S", "keep=forever", "patience=forever", "packets=" + map[bool]string{true: "yes", false: "no"}[v.packets]}
			out := newBridge(t, nearHost, "out", near, append(common, "out=site.near", "writer=near")...).supervise()
			in := newBridge(t, farHost, "in", far, append(common, "in=site.near", "writer=far")...).supervise()
			eventually(t, "the kept sink", func() bool {
				_, all, err := near.Sinks(t.Context())
				return err == nil && len(all) == 1
			})
			c := newChaos(t, seed, uint64(i), []*process{out, in, near.broker, far.broker}, s, []*host{nearHost, farHost})
			talker := talk(t, near, time.Millisecond)
			for c.total() < int(kills)/len(variants) && heard.wrong.Load() == nil {
				time.Sleep(time.Duration(c.random.IntN(1500)) * time.Millisecond)
				c.strike()
			}
			sent := talker.end()
			t.Logf("seed %d: %d messages, %v", seed, sent, c.kinds)
			for deadline := time.Now().Add(2 * time.Minute); heard.next.Load() < sent && heard.wrong.Load() == nil && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			}
			if wrong := heard.wrong.Load(); wrong != nil {
				t.Errorf("seed %d: at the far sink, %s", seed, *wrong)
			}
			if got := heard.next.Load(); got != sent {
				t.Errorf("seed %d: the far sink has %d of %d messages", seed, got, sent)
			}
			check(t, js, "site.near", sent)
			for _, p := range []*process{out, in} {
				if status := p.Stop(); status != 0 {
					t.Errorf("seed %d: %s has ended with status %d", seed, p.name, status)
				}
			}
		})
	}
}
