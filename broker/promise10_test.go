// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// Promise 10: the ends may die too.

// kept connects a sink that acknowledges, and returns the ok it got.
func kept(t *testing.T, dir string, options ...string) (*brokertest.Client, wire.Reply) {
	t.Helper()
	c, ok := brokertest.Greet(t, dir, "subscribe", append([]string{"ack=yes"}, options...)...)
	if ok.Err != nil {
		t.Fatalf("%q: %v", options, ok.Err)
	}
	return c, ok
}

// ack says that everything below done is done.
func ack(t *testing.T, c *brokertest.Client, done uint64) {
	t.Helper()
	if err := c.SendPacket(wire.AppendAck(nil, done)); err != nil {
		t.Fatal(err)
	}
}

// numbers receives n messages and returns the number of the first and what they say; they have to come in order.
func numbered(t *testing.T, c *brokertest.Client, n int) (first uint64, messages []string) {
	t.Helper()
	next := uint64(0)
	for len(messages) < n {
		p, err := c.Receive()
		if err != nil {
			t.Fatalf("after %d of %d: %v", len(messages), n, err)
		}
		if len(messages) == 0 {
			first, next = p.First, p.First
		}
		if p.First != next {
			t.Fatalf("got %d instead of %d", p.First, next)
		}
		next += uint64(p.Count)
		wire.EachRecord(p.Records, func(m []byte) bool { messages = append(messages, string(m)); return true })
	}
	return first, messages
}

func say(t *testing.T, s *brokertest.Source, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := s.Send(fmt.Appendf(nil, "%d", i)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPromise10_KeptSink: a sink that went comes back to what it has not done, and nothing it has not done leaves the ring.
func TestPromise10_KeptSink(t *testing.T) {
	b := brokertest.Start(t)
	c, ok := kept(t, b.Dir, "label=db", "keep=1m")
	source := brokertest.NewSource(t, b.Dir)
	say(t, source, 0, 10)
	if first, _ := numbered(t, c, 10); first != ok.Next {
		t.Errorf("begins with %d, and the ok said %d", first, ok.Next)
	}
	s := sinkOf(t, b, ok.ID)
	if s.Accepted != 0 || s.Waiting != 10 || counted(b).Delivered != ok.Next {
		t.Errorf("before it has acknowledged: %+v", s)
	}
	ack(t, c, ok.Next+4)
	test.Eventually(t, "acknowledged", func() bool { return sinkOf(t, b, ok.ID).Accepted == 4 })
	ack(t, c, ok.Next+7)
	c.Close()
	test.Eventually(t, "it is away", func() bool { return sinkOf(t, b, ok.ID).State == "absent" })
	say(t, source, 10, 15)

	c, again := kept(t, b.Dir, "label=db", "keep=1m")
	if again.ID != ok.ID || again.Label != "db" || again.Epoch != ok.Epoch || again.Next != ok.Next+7 {
		t.Errorf("back as %+v, was %+v", again, ok)
	}
	if first, messages := numbered(t, c, 8); first != ok.Next+7 || messages[0] != "7" || messages[7] != "14" {
		t.Errorf("from %d on %q", first, messages)
	}
	ack(t, c, ok.Next+15)
	test.Eventually(t, "all done", func() bool {
		s := sinkOf(t, b, ok.ID)
		return s.Accepted == 15 && s.Waiting == 0 && s.Lost == 0 && b.Channel.Status().Delivered == ok.Next+15
	})
}

// TestPromise10_SaidLast: what a sink says last counts, also if it closes with something unread, of which the kernel tells first.
func TestPromise10_SaidLast(t *testing.T) {
	b := brokertest.Start(t)
	c, ok := kept(t, b.Dir, "label=db", "keep=1m")
	source := brokertest.NewSource(t, b.Dir)
	for sent := range 2 { // in a packet of its own, of which the second is not read
		say(t, source, sent, sent+1)
		test.Eventually(t, "it is sent", func() bool { return sinkOf(t, b, ok.ID).Unacknowledged == uint64(sent)+1 })
	}
	numbered(t, c, 1)
	ack(t, c, ok.Next+1)
	c.Close()
	test.Eventually(t, "it is away", func() bool { return sinkOf(t, b, ok.ID).State == "absent" })
	if s := sinkOf(t, b, ok.ID); s.Accepted != 1 {
		t.Errorf("it had said that 1 is done, and %d is", s.Accepted)
	}
}

// TestPromise10_OnlyDoneLeaves: with sinks that acknowledge alone, nothing leaves the ring that none has done, however long that
// takes; and it is room at once when one has.
func TestPromise10_OnlyDoneLeaves(t *testing.T) {
	b := brokertest.Start(t, func(c *broker.Config) { c.Geometry.Size, c.Geometry.MaxMessage = 1<<20, 64<<10 })
	c, ok := kept(t, b.Dir, "label=db", "keep=1m", "patience=10ms")
	source := brokertest.NewSource(t, b.Dir)
	stop, got := make(chan struct{}), make(chan uint64)
	sent := flood(source, 1, 8<<10, stop)
	go func() {
		var last uint64
		for { // it reads and says nothing
			p, err := c.ReceivePacketWithin(300 * time.Millisecond)
			if err != nil {
				got <- last
				return
			}
			q, _ := wire.ParseSinkPacket(p)
			last = q.First + uint64(q.Count)
		}
	}()
	last := <-got
	if st := counted(b); st.Delivered != ok.Next || st.Tail > ok.Next || !st.Sources.Blocked {
		t.Errorf("nothing is done, and the channel says %+v", st)
	}
	ack(t, c, last)
	p, err := c.Receive()
	if err != nil || p.First != last {
		t.Errorf("after its acknowledgement: %d, %v, want %d", p.First, err, last)
	}
	close(stop)
	go func() {
		for done := p.First; ; {
			if done += uint64(p.Count); c.SendPacket(wire.AppendAck(nil, done)) != nil {
				return
			}
			if p, err = c.ReceiveWithin(300 * time.Millisecond); err != nil {
				got <- done
				return
			}
		}
	}()
	if n := <-sent; <-got != ok.Next+n {
		t.Errorf("%d messages were sent", n)
	}
}

// TestPromise10_Position: a sink that stores its place gets exactly what comes after it, kept or not.
func TestPromise10_Position(t *testing.T) {
	b := brokertest.Start(t)
	holder, first := kept(t, b.Dir, "label=holder", "keep=1m") // has done nothing, so that the ring keeps all
	defer holder.Close()
	source := brokertest.NewSource(t, b.Dir)
	say(t, source, 0, 20)
	test.Eventually(t, "they are in the ring", func() bool { return b.Channel.Status().Entered == 20 })
	c, ok := kept(t, b.Dir, fmt.Sprintf("from=%x:%d", first.Epoch, first.Next+12))
	if ok.Next != first.Next+12 {
		t.Errorf("begins with %d", ok.Next)
	}
	if _, messages := numbered(t, c, 8); messages[0] != "12" {
		t.Errorf("got %q", messages)
	}
	if s := sinkOf(t, b, ok.ID); s.Lost != 0 {
		t.Errorf("%+v", s)
	}
	for _, from := range []string{fmt.Sprintf("%x:%d", first.Epoch, first.Next+21), "x", "12", ":", "0:1", "1:", fmt.Sprintf("%x:-1", first.Epoch)} {
		if _, ok := brokertest.Greet(t, b.Dir, "subscribe", "ack=yes", "from="+from); ok.Err == nil || ok.Err.Code != wire.CodeBadOption {
			t.Errorf("from=%s: %+v", from, ok)
		}
	}
	// Another epoch: the answer says which one there is, and everything that the ring has is new.
	_, other := kept(t, b.Dir, fmt.Sprintf("from=%x:%d", first.Epoch+1, 5))
	if other.Epoch != first.Epoch || other.Next != b.Channel.Status().Tail {
		t.Errorf("from another epoch: %+v", other)
	}
	// A kept sink that has stored more than it said.
	ack(t, holder, first.Next+3)
	holder.Close()
	test.Eventually(t, "it is away", func() bool { return sinkOf(t, b, first.ID).State == "absent" })
	if _, ok := kept(t, b.Dir, "label=holder", "keep=1m", fmt.Sprintf("from=%x:%d", first.Epoch, first.Next+9)); ok.Next != first.Next+9 || ok.ID != first.ID {
		t.Errorf("back as %+v", ok)
	}
}

// TestPromise10_Names: what is kept belongs to one connection at a time, of its user.
func TestPromise10_Names(t *testing.T) {
	b := brokertest.Start(t)
	c, ok := kept(t, b.Dir, "label=db", "keep=1m")
	source := brokertest.NewSource(t, b.Dir)
	say(t, source, 0, 3)
	numbered(t, c, 3)
	ack(t, c, ok.Next+2)
	if _, again := brokertest.Greet(t, b.Dir, "subscribe", "ack=yes", "label=db", "keep=1m"); again.Err == nil || again.Err.Code != wire.CodeInUse {
		t.Errorf("a second one: %+v", again)
	}
	next, again := kept(t, b.Dir, "label=db", "keep=1m", "replace=yes")
	if again.ID != ok.ID || again.Next != ok.Next+2 {
		t.Errorf("in its place: %+v", again)
	}
	p, err := c.ReceivePacket()
	if last, _ := wire.ParseReply(p); err != nil || last.Err == nil || last.Err.Code != wire.CodeInUse {
		t.Errorf("the one before hears %q, %v", p, err)
	}
	if _, err := c.ReceivePacket(); err == nil {
		t.Error("the one before stays connected")
	}
	if first, _ := numbered(t, next, 1); first != ok.Next+2 {
		t.Errorf("got %d", first)
	}
	// Leaving for good.
	if err := next.SendPacket([]byte(wire.Leave)); err != nil {
		t.Fatal(err)
	}
	next.Close()
	gone(t, b, ok.ID)
	plain := brokertest.NewSubscriber(t, b.Dir, "label=plain")
	defer plain.Close()
	if _, taken := brokertest.Greet(t, b.Dir, "subscribe", "ack=yes", "label=plain", "keep=1m"); taken.Err == nil || taken.Err.Code != wire.CodeInUse {
		t.Errorf("the name of another sink: %+v", taken)
	}
}

// TestPromise10_KeptForItsTime: what nobody comes back for goes, and what it leaves is told.
func TestPromise10_KeptForItsTime(t *testing.T) {
	log := &keptLog{}
	b := brokertest.Start(t, keepLog(log))
	c, ok := kept(t, b.Dir, "label=db", "keep=100ms")
	source := brokertest.NewSource(t, b.Dir)
	say(t, source, 0, 5)
	numbered(t, c, 5)
	ack(t, c, ok.Next+3)
	c.Close()
	gone(t, b, ok.ID)
	log.logged(t, 1, "kept-over", "sink=db", "abandoned=2")
	if st := b.Channel.Status(); st.Abandoned != 2 {
		t.Errorf("%+v", st)
	}
}

// TestPromise10_BadAcks: what cannot be said costs the sink its connection, and nobody else anything.
func TestPromise10_BadAcks(t *testing.T) {
	b := brokertest.Start(t)
	source := brokertest.NewSource(t, b.Dir)
	for name, packet := range map[string][]byte{
		"beyond what was sent": wire.AppendAck(nil, 1<<62),
		"seven bytes":          make([]byte, 7),
		"nine bytes":           make([]byte, 9),
		"a long packet":        make([]byte, 100000),
		"text":                 []byte("leave!"),
	} {
		c, ok := kept(t, b.Dir, "label=db", "keep=1m")
		say(t, source, 0, 3)
		numbered(t, c, 3)
		if err := c.SendPacket(packet); err != nil {
			t.Fatal(err)
		}
		p, err := c.ReceivePacket()
		if last, _ := wire.ParseReply(p); err != nil || last.Err == nil || last.Err.Code != wire.CodeBadAck {
			t.Errorf("%s: heard %q, %v", name, p, err)
		}
		c, again := kept(t, b.Dir, "label=db", "keep=1m")
		if again.ID != ok.ID || again.Next != ok.Next {
			t.Errorf("%s: back as %+v, was %+v", name, again, ok)
		}
		numbered(t, c, 3)
		ack(t, c, ok.Next+1) // lower than before, and below what is kept: both mean nothing
		ack(t, c, 0)
		ack(t, c, ok.Next+3)
		c.Close()
		test.Eventually(t, "all done", func() bool { return sinkOf(t, b, ok.ID).Accepted == ok.Next+3-sinkOf(t, b, ok.ID).Start })
	}
	// From one that does not acknowledge nothing is taken.
	plain := brokertest.NewSubscriber(t, b.Dir)
	for range 100 {
		if plain.SendPacket(wire.AppendAck(nil, 1<<62)) != nil {
			break
		}
	}
	say(t, source, 3, 4)
	numbered(t, plain, 1)
	works(t, b.Dir)
}

// TestPromise10_Options: what does not go together is refused.
func TestPromise10_Options(t *testing.T) {
	b := brokertest.Start(t)
	for _, test := range []struct {
		socket  string
		options []string
	}{
		{"subscribe", []string{"keep=1m", "label=a"}},
		{"subscribe", []string{"ack=yes", "keep=1m"}},
		{"subscribe", []string{"from=1:1"}},
		{"subscribe", []string{"ack=yes", "tap=yes"}},
		{"subscribe", []string{"ack=yes", "replace=yes"}},
		{"subscribe", []string{"ack=yes", "batch=1"}},
		{"subscribe", []string{"ack=yes", "share=s", "batch=0"}},
		{"subscribe", []string{"ack=yes", "share=s", "from=1:1"}},
		{"subscribe", []string{"mark=yes", "label=a"}},
		{"publish", []string{"mark=yes"}},
		{"publish", []string{"keep=1m", "label=a"}},
		{"publish", []string{"ack=yes"}},
		{"publish", []string{"label=a", "keep=-1s", "mark=yes"}},
	} {
		if _, ok := brokertest.Greet(t, b.Dir, test.socket, test.options...); ok.Err == nil || ok.Err.Code != wire.CodeBadOption {
			t.Errorf("%s %q: %+v", test.socket, test.options, ok)
		}
	}
	if r := brokertest.Register(t, b.Dir, brokertest.Name(), "ack=yes"); r.Err == nil || r.Err.Code != wire.CodeBadOption {
		t.Errorf("a registration: %+v", r)
	}
}

// marked connects a marked source.
func marked(t *testing.T, dir string, options ...string) (*brokertest.Client, wire.Reply) {
	t.Helper()
	var c *brokertest.Client
	var ok wire.Reply
	test.Eventually(t, "the source is connected", func() bool {
		c, ok = brokertest.Greet(t, dir, "publish", append([]string{"mark=yes"}, options...)...)
		return ok.Err == nil || ok.Err.Code != wire.CodeBusy
	})
	if ok.Err != nil {
		t.Fatalf("%q: %v", options, ok.Err)
	}
	return c, ok
}

// markedPacket is a packet of a marked source.
func markedPacket(mark uint64, messages ...string) []byte {
	b := binary.LittleEndian.AppendUint64(nil, mark)
	for _, m := range messages {
		b = wire.AppendRecord(b, []byte(m))
	}
	return b
}

// TestPromise10_MarkedSource: a source that comes back is told what is in the channel.
func TestPromise10_MarkedSource(t *testing.T) {
	b := brokertest.Start(t)
	sink := brokertest.NewSubscriber(t, b.Dir)
	c, ok := marked(t, b.Dir, "label=log", "keep=1m")
	if !ok.Marked || ok.Mark != 0 || ok.Epoch == 0 {
		t.Errorf("at first: %+v", ok)
	}
	for _, p := range [][]byte{markedPacket(10, "a", "b"), markedPacket(20, "c"), markedPacket(7, "d"), markedPacket(8)} {
		if err := c.SendPacket(p); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	c, again := marked(t, b.Dir, "label=log", "keep=1m")
	if again.Mark != 8 || again.ID != ok.ID {
		t.Errorf("back as %+v", again)
	}
	if _, messages := numbered(t, sink, 4); fmt.Sprint(messages) != "[a b c d]" {
		t.Errorf("got %q", messages)
	}
	if _, second := brokertest.Greet(t, b.Dir, "publish", "mark=yes", "label=log", "keep=1m"); second.Err == nil || second.Err.Code != wire.CodeInUse {
		t.Errorf("a second one: %+v", second)
	}
	if err := c.SendPacket(markedPacket(99, "e")); err != nil {
		t.Fatal(err)
	}
	next, replaced := marked(t, b.Dir, "label=log", "keep=1m", "replace=yes")
	if replaced.Mark != 99 {
		t.Errorf("in its place: %+v", replaced)
	}
	if p, err := c.ReceivePacket(); err != nil || string(p[:12]) != "error in-use" {
		t.Errorf("the one before hears %q, %v", p, err)
	}
	// A packet that is none costs the connection, and the mark stays.
	for _, p := range [][]byte{make([]byte, 3), append(markedPacket(100), 1, 2, 3), append(markedPacket(101, "x"), 9, 0, 0, 0)} {
		if err := next.SendPacket(p); err != nil {
			t.Fatal(err)
		}
		if p, err := next.ReceivePacket(); err != nil || string(p[:16]) != "error bad-packet" {
			t.Errorf("after % x: %q, %v", p, p, err)
		}
		next.Close()
		if next, ok = marked(t, b.Dir, "label=log", "keep=1m"); ok.Mark != 99 {
			t.Errorf("after % x: %+v", p, ok)
		}
	}
	if err := next.SendPacket([]byte(wire.Leave)); err != nil {
		t.Fatal(err)
	}
	next.Close()
	test.Eventually(t, "the mark is forgotten", func() bool {
		_, ok := brokertest.Greet(t, b.Dir, "publish", "mark=yes", "label=log")
		return ok.Err == nil && ok.Mark == 0
	})
}

// TestPromise10_SharedWork: what a member of a share has not done goes to the next that asks, before anything newer.
func TestPromise10_SharedWork(t *testing.T) {
	b := brokertest.Start(t)
	source := brokertest.NewSource(t, b.Dir)
	say(t, source, 0, 5)
	one, ok := kept(t, b.Dir, "share=work", "batch=2")
	if _, messages := numbered(t, one, 2); fmt.Sprint(messages) != "[0 1]" {
		t.Errorf("got %q", messages)
	}
	two, _ := kept(t, b.Dir, "share=work", "batch=1")
	first, messages := numbered(t, two, 1)
	if fmt.Sprint(messages) != "[2]" {
		t.Errorf("got %q", messages)
	}
	ack(t, two, first+1)
	if _, messages := numbered(t, two, 1); fmt.Sprint(messages) != "[3]" {
		t.Errorf("got %q", messages)
	}
	if st := counted(b); st.Delivered != ok.Next {
		t.Errorf("0 is not done, and delivered is %d", st.Delivered)
	}
	ack(t, one, ok.Next+1) // of its two, one
	test.Eventually(t, "0 is done", func() bool { return b.Channel.Status().Delivered == ok.Next+1 })
	one.Close()
	three, _ := kept(t, b.Dir, "share=work")
	if _, messages := numbered(t, three, 1); fmt.Sprint(messages) != "[1]" {
		t.Errorf("got %q", messages)
	}
	ack(t, three, ok.Next+2)
	if _, messages := numbered(t, three, 1); fmt.Sprint(messages) != "[4]" {
		t.Errorf("got %q", messages)
	}
	ack(t, three, ok.Next+5)
	two.Close() // 3 is not done, and goes to one that has done 4
	if _, messages := numbered(t, three, 1); fmt.Sprint(messages) != "[3]" {
		t.Errorf("got %q", messages)
	}
	ack(t, three, ok.Next+5) // said again: not what is in hand
	ack(t, three, ok.Next+4)
	test.Eventually(t, "all done", func() bool {
		st := b.Channel.Status()
		return st.Delivered == ok.Next+5 && st.Accepted == 5 && st.Sinks.Total == 1
	})
}

// TestPromise10_KeptShare: a share that is kept outlives all of its members.
func TestPromise10_KeptShare(t *testing.T) {
	b := brokertest.Start(t)
	source := brokertest.NewSource(t, b.Dir)
	say(t, source, 0, 3)
	one, ok := kept(t, b.Dir, "share=work", "keep=1m")
	numbered(t, one, 3)
	ack(t, one, ok.Next+1)
	one.Close()
	test.Eventually(t, "it is away", func() bool { return sinkOf(t, b, ok.ID).State == "absent" })
	say(t, source, 3, 5) // nobody takes them yet
	two, _ := kept(t, b.Dir, "share=work", "keep=1m")
	if _, messages := numbered(t, two, 2); fmt.Sprint(messages) != "[1 2]" {
		t.Errorf("got %q", messages)
	}
	ack(t, two, ok.Next+3)
	if _, messages := numbered(t, two, 2); fmt.Sprint(messages) != "[3 4]" {
		t.Errorf("got %q", messages)
	}
	ack(t, two, ok.Next+5)
	gone(t, b, ok.ID)
	test.Eventually(t, "all done", func() bool { return b.Channel.Status().Delivered == ok.Next+5 })
}

// TestPromise10_Strangers: what is kept for an ordinary user counts for him, away or not, stays for as long as he may ask for, and
// is his alone.
func TestPromise10_Strangers(t *testing.T) {
	need.Root(t, "another user")
	b := brokertest.Start(t, func(c *broker.Config) { c.SinksPerUser = 8 })
	openToAll(t, b.Dir)
	mine, ok := kept(t, b.Dir, "label=mine", "keep=forever")
	for _, test := range []struct {
		socket  string
		options []string
		code    string
	}{
		{"subscribe", []string{"ack=yes", "label=mine", "keep=1m"}, wire.CodeInUse},
		{"subscribe", []string{"ack=yes", "label=mine", "keep=1m", "replace=yes"}, wire.CodeInUse},
		{"subscribe", []string{"ack=yes", "label=his", "keep=11m"}, wire.CodeDenied},
		{"subscribe", []string{"ack=yes", "label=his", "keep=forever"}, wire.CodeDenied},
		{"publish", []string{"mark=yes", "label=his", "keep=11m"}, wire.CodeDenied},
	} {
		if got := strangers(t, b.Dir+"/"+test.socket, 1, test.options...); !strings.HasPrefix(got[0], "error "+test.code) {
			t.Errorf("%q: %q, want %s", test.options, got[0], test.code)
		}
	}
	for _, socket := range []string{"subscribe", "publish"} {
		options := map[string][]string{"subscribe": {"ack=yes", "label=n#", "keep=1m"}, "publish": {"mark=yes", "label=n#", "keep=1m"}}[socket]
		for i, answer := range strangers(t, b.Dir+"/"+socket, 12, options...) {
			if want := map[bool]string{true: "ok", false: "error quota"}[i < 8]; !strings.HasPrefix(answer, want) {
				t.Errorf("%s %d: %q, want %s", socket, i, answer, want)
			}
		}
	}
	// The same mark under the same name is another user's mark.
	if _, ok := marked(t, b.Dir, "label=n1", "keep=1m"); ok.Mark != 0 {
		t.Errorf("root's own source of that name: %+v", ok)
	}
	source := brokertest.NewSource(t, b.Dir)
	say(t, source, 0, 1)
	if first, _ := numbered(t, mine, 1); first != ok.Next {
		t.Errorf("got %d", first)
	}
}

// TestPromise10_FloodOfAcks: a sink that says more than anybody wants to hear costs nobody a message.
func TestPromise10_FloodOfAcks(t *testing.T) {
	b := brokertest.Start(t)
	c, ok := kept(t, b.Dir, "label=db", "keep=1m")
	stop := make(chan struct{})
	said := make(chan int)
	go func() {
		n := 0
		defer func() { said <- n }()
		for {
			select {
			case <-stop:
				return
			default:
				c.TrySend() // nothing to say is said, too
				if c.SendPacket(wire.AppendAck(nil, 0)) == nil {
					n++
				}
			}
		}
	}()
	source, sink := brokertest.NewSource(t, b.Dir), brokertest.NewSubscriber(t, b.Dir)
	for i := range 500 {
		say(t, source, i, i+1)
		if _, m := numbered(t, sink, 1); m[0] != fmt.Sprint(i) {
			t.Fatalf("got %q instead of %d", m, i)
		}
	}
	if first, messages := numbered(t, c, 500); first != ok.Next || messages[499] != "499" {
		t.Errorf("it got %d, %q", first, messages[499])
	}
	close(stop)
	if n := <-said; n == 0 {
		t.Error("nothing was said")
	}
}

// TestPromise10_BackAtOnce: a client that was killed may be back before the broker has noticed the end of its connection.
func TestPromise10_BackAtOnce(t *testing.T) {
	b := brokertest.Start(t)
	reader := brokertest.NewSubscriber(t, b.Dir)
	go func() {
		for {
			if _, err := reader.ReceivePacketWithin(time.Minute); err != nil {
				return
			}
		}
	}()
	stop := make(chan struct{})
	defer close(stop)
	flood(brokertest.NewSource(t, b.Dir), 4, 100, stop)
	for i := range 300 {
		c, ok := brokertest.Greet(t, b.Dir, "subscribe", "ack=yes", "label=db", "keep=1m", "patience=0")
		if ok.Err != nil {
			t.Fatalf("the sink, connection %d: %v", i, ok.Err)
		}
		c.Close()
	}
}

// TestPromise10_ShareOfOneKind: all sinks of a share acknowledge, or none. They have one cursor, and what one is sent that cannot say
// what it has done would be under way for ever.
func TestPromise10_ShareOfOneKind(t *testing.T) {
	b := brokertest.Start(t)
	refuses := func(what string, err *wire.Error) {
		t.Helper()
		if err == nil || err.Code != wire.CodeBadOption {
			t.Errorf("%s got %v, want %s", what, err, wire.CodeBadOption)
		}
	}
	subscribe := func(options ...string) (*brokertest.Client, *wire.Error) {
		c, ok := brokertest.Greet(t, b.Dir, "subscribe", options...)
		return c, ok.Err
	}
	kept(t, b.Dir, "share=acks")
	_, err := subscribe("share=acks")
	refuses("who does not acknowledge", err)
	d := brokertest.NewSocket(t, brokertest.Name())
	refuses("a datagram sink", brokertest.Register(t, b.Dir, d.Name, "share=acks").Err)
	kept(t, b.Dir, "share=acks")

	brokertest.NewSink(t, b.Dir, "share=plain")
	_, err = subscribe("share=plain", "ack=yes")
	refuses("who acknowledges among others", err)
	brokertest.NewSubscriber(t, b.Dir, "share=plain")

	// Also when all of them are away.
	away, _ := kept(t, b.Dir, "share=kept", "keep=1m")
	away.Close()
	test.Eventually(t, "the share is away", func() bool { return b.Channel.Status().Sinks.Absent == 1 })
	refuses("a datagram sink of a share that is away", brokertest.Register(t, b.Dir, d.Name, "share=kept").Err)
}
