// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
)

// TestPromise6_SentTo: a sink that closed its socket is forgotten at the first message for it, its descriptor and its
// name are free, and nobody else is any the worse.
func TestPromise6_SentTo(t *testing.T) {
	b := brokertest.Start(t)
	source, other := brokertest.NewSource(t, b.Dir), brokertest.NewSink(t, b.Dir)
	before := openSockets()
	for i := range uint64(20) {
		name := brokertest.Name()
		s := brokertest.NewSocket(t, name)
		r := brokertest.Register(t, b.Dir, name, "label=mortal")
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		if l := sinkOf(t, b, r.ID).Label; l != "mortal" {
			t.Errorf("its label is %s: the last one's is not free", l)
		}
		if i%2 == 0 { // with something unread, or with nothing
			if err := source.Send(stamped(1, 2*i+1000, 20)); err != nil {
				t.Fatal(err)
			}
			if _, err := other.Receive(); err != nil {
				t.Fatal(err)
			}
		}
		s.Close()
		began := time.Now()
		if err := source.Send(stamped(1, i, 20)); err != nil {
			t.Fatal(err)
		}
		receiveSeq(t, other, 1, i, i+1)
		gone(t, b, r.ID)
		if took := time.Since(began); took > time.Second {
			t.Errorf("forgotten after %s", took)
		}
	}
	test.Eventually(t, "its descriptors are closed", func() bool { return openSockets() <= before+2 })
	if st := b.Channel.Status(); st.Sinks.Total != 1 || st.Lost != 0 {
		t.Errorf("%+v", st)
	}
}

// TestPromise6_Idle: a sink that closed its socket while nothing is sent is forgotten within 5 s; also a static one,
// which becomes absent, and a member of a share, without the share.
func TestPromise6_Idle(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t)
	plain, member, stays := brokertest.NewSink(t, b.Dir), brokertest.NewSink(t, b.Dir, "share=w"), brokertest.NewSink(t, b.Dir, "share=w")
	path := b.Dir + "/by-path"
	pathSink := brokertest.NewSocket(t, path)
	r := brokertest.Register(t, b.Dir, path)
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	static := brokertest.NewSocket(t, b.Dir+"/sinks/static")
	test.Eventually(t, "the static sink is there", func() bool {
		st := b.Channel.Status().Sinks
		return st.Static == 1 && st.Absent == 0
	})
	for _, s := range []*brokertest.Sink{plain, member, pathSink, static} {
		s.Close()
	}
	closed := time.Now()
	for _, id := range []uint64{plain.ID, member.ID, r.ID} {
		gone(t, b, id)
	}
	test.Eventually(t, "the static sink is absent", func() bool { return b.Channel.Status().Sinks.Absent == 1 })
	if took := time.Since(closed); took > 5*time.Second {
		t.Errorf("forgotten after %s", took)
	}
	if s := sinkOf(t, b, stays.ID); s.Share != "w" || s.State != "ready" {
		t.Errorf("the other member of the share: %+v", s)
	}
	// Their names are free.
	for _, name := range []string{plain.Name, member.Name} {
		brokertest.NewSocket(t, name)
		if r := brokertest.Register(t, b.Dir, name); r.Err != nil {
			t.Errorf("%s again: %v", name, r.Err)
		}
	}
}

// TestPromise6_HungUp: a framed sink that hangs up is forgotten at once, idle or not.
func TestPromise6_HungUp(t *testing.T) {
	b := brokertest.Start(t)
	source := brokertest.NewSource(t, b.Dir)
	before := openSockets()
	for i := range 20 {
		c := brokertest.NewSubscriber(t, b.Dir, "label=mortal")
		if l := sinkOf(t, b, c.ID).Label; l != "mortal" {
			t.Errorf("its label is %s", l)
		}
		if i%2 == 1 {
			source.Send([]byte("unread"))
			test.Eventually(t, "sent", func() bool { return b.Channel.Status().Delivered == uint64(i+1)/2 })
		}
		began := time.Now()
		c.Close()
		gone(t, b, c.ID)
		if took := time.Since(began); took > time.Second {
			t.Errorf("forgotten after %s", took)
		}
	}
	test.Eventually(t, "its descriptors are closed", func() bool { return openSockets() <= before+2 })
}

// TestPromise6_HungUpSources: connected sources that hang up leave the table, also while nothing is received, unless
// something that they sent is still to be read.
func TestPromise6_HungUpSources(t *testing.T) {
	b := brokertest.Start(t, func(cfg *broker.Config) { cfg.Geometry.MaxClients = 4 })
	for range 20 {
		c := brokertest.NewPublisher(t, b.Dir)
		c.Close()
		time.Sleep(5 * time.Millisecond)
	}
	for i := range uint64(3) {
		c := brokertest.NewPublisher(t, b.Dir)
		if err := c.Send(stamped(1, i, 20)); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	sink := brokertest.NewSink(t, b.Dir)
	seen := make(map[uint64]bool)
	for range 3 {
		m, err := sink.Receive()
		if err != nil {
			t.Fatal(err)
		}
		_, seq, _ := stamp(m)
		seen[seq] = true
	}
	if len(seen) != 3 {
		t.Errorf("received %v", seen)
	}
}

// TestPromise6_Identity: a socket is known by its inode. Registered twice it is one sink; another socket under the same
// name is another sink, and the old one is gone.
func TestPromise6_Identity(t *testing.T) {
	b := brokertest.Start(t)
	source := brokertest.NewSource(t, b.Dir)
	path := b.Dir + "/s"
	for _, name := range []string{brokertest.Name(), path} {
		s := brokertest.NewSocket(t, name)
		first := brokertest.Register(t, b.Dir, name, "label=x", "patience=100ms")
		again := brokertest.Register(t, b.Dir, name, "label=y", "patience=200ms", "start=oldest")
		if first.Err != nil || again.Err != nil || first.ID != again.ID {
			t.Fatalf("%+v, %+v: want one id", first, again)
		}
		if got := sinkOf(t, b, first.ID); got.Label != "y" || got.Patience != "200ms" || got.Start != b.Channel.Status().Delivered {
			t.Errorf("registered again: %+v", got)
		}
		// Without a label it keeps the one it has.
		brokertest.Register(t, b.Dir, name)
		if got := sinkOf(t, b, first.ID); got.Label != "y" {
			t.Errorf("registered without a label: %+v", got)
		}
		for _, line := range []string{"tap=yes", "frames=yes", "share=z"} {
			if r := brokertest.Register(t, b.Dir, name, line); codeOf(r.Err) != "bad-option" {
				t.Errorf("%s on top: %v", line, r.Err)
			}
		}
		if name == path { // by another way
			if r := brokertest.Register(t, b.Dir, b.Dir+"/./s"); r.ID != first.ID {
				t.Errorf("the same socket by another path: %+v", r)
			}
			brokertest.Register(t, b.Dir, path)
		}
		if err := source.Send(stamped(1, 7, 20)); err != nil {
			t.Fatal(err)
		}
		receiveSeq(t, s, 1, 7, 8)
		receivesNothing(t, s, "a sink registered several times")

		s.Close()
		if name == path {
			removeFile(t, path)
		}
		anew := brokertest.NewSocket(t, name)
		r := brokertest.Register(t, b.Dir, name, "label=y")
		if r.Err != nil || r.ID == first.ID {
			t.Fatalf("another socket of that name: %+v", r)
		}
		if got := sinkOf(t, b, r.ID); got.Label != "y" {
			t.Errorf("%+v: the old one still has the label", got)
		}
		if _, there := findSink(b, first.ID); there {
			t.Error("the dead sink of that name is still there")
		}
		if err := source.Send(stamped(1, 9, 20)); err != nil {
			t.Fatal(err)
		}
		receiveSeq(t, anew, 1, 9, 10)
		anew.Close()
		source.Send(stamped(1, 10, 20))
		gone(t, b, r.ID)
		// Held for whoever comes: read it before the next round.
		drain := brokertest.NewSink(t, b.Dir)
		receiveSeq(t, drain, 1, 10, 11)
		brokertest.Register(t, b.Dir, drain.Name, "remove")
	}
}

// TestPromise6_Rebound: when another user binds the name of a sink that died, nothing is sent there.
func TestPromise6_Rebound(t *testing.T) {
	needRoot(t)
	b := brokertest.Start(t)
	source := brokertest.NewSource(t, b.Dir)
	other := brokertest.NewSink(t, b.Dir)
	sink := brokertest.NewSink(t, b.Dir)
	sink.Close()
	impostor := strangersSocket(t, sink.Name)
	for i := range uint64(3) {
		if err := source.Send(stamped(1, i, 20)); err != nil {
			t.Fatal(err)
		}
	}
	receiveSeq(t, other, 1, 0, 3)
	gone(t, b, sink.ID)
	receivesNothing(t, impostor, "the new owner of the name")
}

// TestPromise6_ShareLives: a share lives while a member does, and each message goes to one member, whoever can take it.
func TestPromise6_ShareLives(t *testing.T) {
	b := brokertest.Start(t)
	source := brokertest.NewSource(t, b.Dir)
	var members []*brokertest.Sink
	for range 3 {
		members = append(members, brokertest.NewSink(t, b.Dir, "share=workers"))
	}
	const total = 25 // less than what two queues take
	for i := range uint64(total) {
		if err := source.Send(stamped(1, i, 20)); err != nil {
			t.Fatal(err)
		}
	}
	test.Eventually(t, "all are accepted", func() bool { return b.Channel.Status().Delivered == total })
	had := make(map[uint64]bool)
	took := 0
	for _, m := range members {
		got := readAll(t, b, m)
		if len(got) > 0 {
			took++
		}
		for _, seq := range got {
			if had[seq] {
				t.Errorf("message %d went to two members", seq)
			}
			had[seq] = true
		}
		if s := sinkOf(t, b, m.ID); s.Accepted != uint64(len(got)) || s.Share != "workers" {
			t.Errorf("took %d: %+v", len(got), s)
		}
	}
	if len(had) != total || took < 2 {
		t.Errorf("%d of %d arrived, at %d members", len(had), total, took)
	}
	members[0].Close()
	members[1].Close()
	for i := range uint64(10) {
		if err := source.Send(stamped(2, i, 20)); err != nil {
			t.Fatal(err)
		}
	}
	receiveSeq(t, members[2], 2, 0, 10)
	if st := b.Channel.Status(); st.Lost+st.Abandoned > 0 {
		t.Errorf("%+v", st)
	}
	for i := range 2 {
		test.Eventually(t, fmt.Sprintf("member %d is gone", i), func() bool {
			source.Send(stamped(3, 0, 20))
			members[2].Receive()
			_, there := findSink(b, members[i].ID)
			return !there
		})
	}
}
