// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/msgmux/msgmux/cmd/msgmux-nats/natstest"
)

// pair is a channel, one server with a stream, and another channel, on this host.
type pair struct {
	server    *natstest.Server
	js        jetstream.JetStream
	near, far *channelOn
	common    []string
}

func newPair(t *testing.T, config jetstream.StreamConfig) *pair {
	t.Helper()
	p := &pair{server: natstest.Start(t, natstest.Options{})}
	conn, err := nats.Connect(p.server.URL, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if p.js, err = jetstream.New(conn); err != nil {
		t.Fatal(err)
	}
	if config.Name = "S"; config.Subjects == nil {
		config.Subjects = []string{"m"}
	}
	if _, err := p.js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	p.near, p.far = newChannel(t, nil), newChannel(t, nil)
	p.common = []string{"server=" + p.server.URL, "stream=S", "keep=forever", "patience=forever"}
	return p
}

func (p *pair) out(t *testing.T, settings ...string) *process {
	t.Helper()
	return newBridge(t, nil, "out", p.near, append(append(settings, "out=m", "writer=near"), p.common...)...)
}

func (p *pair) in(t *testing.T, settings ...string) *process {
	t.Helper()
	return newBridge(t, nil, "in", p.far, append(append(settings, "in=m", "writer=far"), p.common...)...)
}

// say sends the messages from one number to another into a channel.
func say(t *testing.T, c *channelOn, from, to uint64) {
	t.Helper()
	k := talker{}
	k.sent.Store(from)
	k.speak(t, c, to)
}

func (p *pair) update(t *testing.T, change func(*jetstream.StreamConfig)) {
	t.Helper()
	s, err := p.js.Stream(t.Context(), "S")
	if err == nil {
		c := s.CachedInfo().Config
		change(&c)
		_, err = p.js.UpdateStream(t.Context(), c)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (p *pair) length(t *testing.T) uint64 {
	t.Helper()
	s, err := p.js.Stream(t.Context(), "S")
	if err != nil {
		return 0
	}
	return s.CachedInfo().State.Msgs
}

// ends says whether the stream ends with the message numbered n.
func (p *pair) ends(t *testing.T, n uint64) bool {
	t.Helper()
	s, err := p.js.Stream(t.Context(), "S")
	if err != nil {
		return false
	}
	m, err := s.GetMsg(t.Context(), s.CachedInfo().State.LastSeq)
	return err == nil && string(m.Data) == string(message(n))
}

// ends wants a bridge to end with that status, and one line that says why.
func ends(t *testing.T, p *process, status int, words ...string) {
	t.Helper()
	if got := p.Status(); got != status {
		t.Fatalf("it has ended with status %d, want %d:\n%s", got, status, p.output.String())
	}
	said := p.output.String()
	line := said[strings.LastIndex(strings.TrimSuffix(said, "\n"), "\n")+1:]
	if !strings.HasPrefix(line, "msgmux-nats: ") {
		t.Errorf("its last line is %q", line)
	}
	for _, word := range words {
		if !strings.Contains(line, word) {
			t.Errorf("its last line does not say %q: %s", word, line)
		}
	}
}

// forget has a bridge that does not run begin anew.
func forget(t *testing.T, p *process) {
	t.Helper()
	if out, err := exec.Command(program(t, "msgmux-nats"), "forget", p.settings).CombinedOutput(); err != nil {
		t.Fatalf("forget: %v\n%s", err, out)
	}
}

// joinedTo says whether the bridge's sink in a channel is there.
func joinedTo(t *testing.T, c *channelOn) bool {
	t.Helper()
	sink := bridgeSink(t, c)
	return sink.Label != "" && sink.AbsentSince.IsZero()
}

// TestOutStopsForAPerson with its own status and one clear line, and goes on when it is mended: nothing is lost.
func TestOutStopsForAPerson(t *testing.T) {
	t.Parallel()
	p := newPair(t, jetstream.StreamConfig{AllowBatchPublish: true, MaxMsgs: 1000, Discard: jetstream.DiscardNew})
	out := p.out(t)
	say(t, p.near, 0, 500)
	eventually(t, "500 messages", func() bool { return p.length(t) == 500 })

	say(t, p.near, 500, 1200)
	ends(t, out, 4, "the stream is full", "maximum messages exceeded")
	p.update(t, func(c *jetstream.StreamConfig) { c.MaxMsgs = 1200 })
	out.Run()
	eventually(t, "1200 messages", func() bool { return p.length(t) == 1200 })

	// Somebody else writes there, and is taken out again.
	ack, err := p.js.Publish(t.Context(), "m", []byte("somebody else's"))
	if err == nil {
		t.Fatalf("it was not full: %+v", ack)
	}
	p.update(t, func(c *jetstream.StreamConfig) { c.MaxMsgs = -1 })
	if ack, err = p.js.Publish(t.Context(), "m", []byte("somebody else's")); err != nil {
		t.Fatal(err)
	}
	say(t, p.near, 1200, 1300)
	ends(t, out, 7, "somebody else has written there", "is of no bridge")
	if n := p.length(t); n != 1201 {
		t.Errorf("behind somebody else's message there are %d", n-1201)
	}
	s, err := p.js.Stream(t.Context(), "S")
	if err == nil {
		err = s.DeleteMsg(t.Context(), ack.Sequence)
	}
	if err != nil {
		t.Fatal(err)
	}
	out.Run()
	eventually(t, "1300 messages", func() bool { return p.length(t) == 1300 })
	check(t, p.js, "m", 1300)

	// The stream is emptied behind its back: it was made anew as far as the bridge is concerned.
	out.Stop()
	if err := s.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	out.Run()
	ends(t, out, 6, "the stream is not the one it was", "has no message on m")
	forget(t, out)
	out.Run()
	eventually(t, "it begins anew", func() bool { return joinedTo(t, p.near) })
	say(t, p.near, 1300, 1310)
	eventually(t, "10 messages", func() bool { return p.length(t) == 10 })
	out.Stop()

	if err := p.js.DeleteStream(t.Context(), "S"); err != nil {
		t.Fatal(err)
	}
	out.Run()
	ends(t, out, 3, "there is no such stream")
	if _, err := p.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"m"}, Retention: jetstream.WorkQueuePolicy}); err != nil {
		t.Fatal(err)
	}
	out.Run()
	ends(t, out, 5, "not fit for it", "retention")
}

// TestOutStopsAtASealedStream and at one that another host's bridge writes to.
func TestOutStopsAtASealedStream(t *testing.T) {
	t.Parallel()
	p := newPair(t, jetstream.StreamConfig{})
	out := p.out(t)
	say(t, p.near, 0, 50)
	eventually(t, "50 messages", func() bool { return p.length(t) == 50 })
	other := newBridge(t, nil, "out", p.far, append([]string{"out=m", "writer=far"}, p.common...)...)
	ends(t, other, 7, "is of near, and this is far")
	p.update(t, func(c *jetstream.StreamConfig) { c.Sealed = true })
	say(t, p.near, 50, 60)
	ends(t, out, 5, "sealed")
	if n := p.length(t); n != 50 {
		t.Errorf("a sealed stream has %d messages, and had 50", n)
	}
}

// TestInStopsForAPerson as the other way does: a stream that was made anew, one that was set back, one that is gone, and a message
// that the channel does not take.
func TestInStopsForAPerson(t *testing.T) {
	t.Parallel()
	p := newPair(t, jetstream.StreamConfig{})
	heard := listen(t, p.far)
	in := p.in(t)
	publish := func(from, to uint64) {
		t.Helper()
		for n := from; n < to; n++ {
			if _, err := p.js.Publish(t.Context(), "m", message(n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish(0, 100)
	eventually(t, "100 messages", func() bool { return heard.next.Load() == 100 })
	in.Stop()
	for _, n := range []uint64{50, 150} { // fewer than the channel has had, and more
		if err := p.js.DeleteStream(t.Context(), "S"); err != nil {
			t.Fatal(err)
		}
		if _, err := p.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"m"}}); err != nil {
			t.Fatal(err)
		}
		publish(1000, 1000+n)
		in.Run()
		ends(t, in, 6, "the stream is not the one it was", "message 100")
	}
	// Somebody decides that it is to go on with what is there, and it does from the first message on.
	if err := p.js.DeleteStream(t.Context(), "S"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"m"}}); err != nil {
		t.Fatal(err)
	}
	publish(100, 120)
	forget(t, in)
	in.Run()
	eventually(t, "20 messages more", func() bool { return heard.next.Load() == 120 })
	in.Stop()
	if err := p.js.DeleteStream(t.Context(), "S"); err != nil {
		t.Fatal(err)
	}
	in.Run()
	ends(t, in, 3, "there is no such stream")
	if wrong := heard.wrong.Load(); wrong != nil {
		t.Error(*wrong)
	}

	q := newPair(t, jetstream.StreamConfig{})
	heard = listen(t, q.far)
	if _, err := q.js.Publish(t.Context(), "m", message(0)); err != nil {
		t.Fatal(err)
	}
	large, err := q.js.Publish(t.Context(), "m", make([]byte, 300<<10))
	if err != nil {
		t.Fatal(err)
	}
	in = q.in(t)
	ends(t, in, 10, "message 2", "too large")
	if n := heard.next.Load(); n != 1 {
		t.Errorf("of what is before a message that is too large there are %d, want 1", n)
	}
	s, err := q.js.Stream(t.Context(), "S")
	if err == nil {
		err = s.DeleteMsg(t.Context(), large.Sequence)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.js.Publish(t.Context(), "m", message(1)); err != nil {
		t.Fatal(err)
	}
	in.Run()
	eventually(t, "what is behind it", func() bool { return heard.next.Load() == 2 })
	if wrong := heard.wrong.Load(); wrong != nil {
		t.Error(*wrong)
	}
}

// TestTwoBridgesByMistake for one channel, both ways: one works, the other says why not, and takes over when the first is gone.
func TestTwoBridgesByMistake(t *testing.T) {
	t.Parallel()
	p := newPair(t, jetstream.StreamConfig{AllowBatchPublish: true})
	heard := listen(t, p.far)
	talker := talk(t, p.near, time.Millisecond)
	out, in := p.out(t), p.in(t)
	eventually(t, "the first messages", func() bool { return heard.next.Load() > 100 })
	for first, again := range map[*process]func(*testing.T, ...string) *process{out: p.out, in: p.in} {
		second := again(t)
		ends(t, second, 8, "in use")
		if first.HasEnded() {
			t.Errorf("%s has ended for it", first.name)
		}
		second.Run()
		first.Kill()
		at := heard.next.Load()
		eventually(t, "the second takes over", func() bool { return heard.next.Load() > at+500 })
	}
	sent := talker.end()
	eventually(t, "all messages", func() bool { return heard.next.Load() == sent })
	check(t, p.js, "m", sent)
	if wrong := heard.wrong.Load(); wrong != nil {
		t.Error(*wrong)
	}
}

// TestADayWithoutTheFarSide on a short ring: while the servers are away, others on the near channel go on, the bridge is left behind
// after its patience, and afterwards it knows to the message what is missing, and the stream says so where it is missing.
func TestADayWithoutTheFarSide(t *testing.T) {
	t.Parallel()
	p := newPair(t, jetstream.StreamConfig{AllowBatchPublish: true})
	p.common = []string{"server=" + p.server.URL, "stream=S", "keep=forever", "patience=300ms"}
	near := newChannel(t, nil, "--buffer", "1M", "--max-message", "128K")
	p.near = near
	other := listen(t, near) // it is waited for, and loses nothing
	out := p.out(t)
	eventually(t, "the bridge", func() bool { return joinedTo(t, near) }) // it gets what is sent from then on: the other sink takes it
	say(t, near, 0, 1000)
	eventually(t, "1000 messages", func() bool { return p.length(t) == 1000 })
	p.server.Kill()
	const day = 60_000 // some 15 MB through a ring of 1 MiB
	say(t, near, 1000, day)
	eventually(t, "the other sink", func() bool { return other.next.Load() == day })
	if wrong := other.wrong.Load(); wrong != nil {
		t.Error(*wrong)
	}
	if out.HasEnded() {
		t.Error("the bridge has ended because its servers are away")
	}
	p.server.Run(t)
	p.server.Await(t)
	say(t, near, day, day+100)
	lost := uint64(0)
	eventually(t, "all that is left", func() bool {
		sink := bridgeSink(t, near)
		lost = sink.Lost
		return sink.Lost > 0 && sink.Waiting == 0 && p.ends(t, day+99)
	})
	consumer, err := p.js.OrderedConsumer(t.Context(), "S", jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer messages.Stop()
	missing, next := uint64(0), uint64(0)
	for next < day+100 {
		m, err := messages.Next(jetstream.NextContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		here := uint64(0)
		if text := m.Headers().Get("Msgmux-Lost"); text != "" {
			here = atoi(t, text)
		}
		missing, next = missing+here, next+here
		if string(m.Data()) != string(message(next)) {
			t.Fatalf("%.20q comes after %d, of which %d are said to be missing", m.Data(), next, here)
		}
		next++
	}
	// What the channel gave up while the bridge had it under way is lost by its count, and in the stream.
	if missing == 0 || missing > lost {
		t.Errorf("the stream says that %d are missing, the channel that %d are lost", missing, lost)
	}
	t.Logf("%d of %d messages are missing in the stream, %d are lost by the channel's count", missing, day+100, lost)
	if said := out.output.String(); !strings.Contains(said, "messages are missing in the stream") {
		t.Error("the bridge does not say that messages are missing")
	}
}
