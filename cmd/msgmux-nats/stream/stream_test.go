// SPDX-License-Identifier: Apache-2.0

package stream_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/msgmux/msgmux/cmd/msgmux-nats/natstest"
	"github.com/msgmux/msgmux/cmd/msgmux-nats/stream"
)

const epoch = 0x9f3c0a1d00000001

// fixture is a server, a stream, and a link to it.
type fixture struct {
	*stream.Link
	server *natstest.Server
	conn   *nats.Conn
	js     jetstream.JetStream
}

func newFixture(t *testing.T, config jetstream.StreamConfig) *fixture {
	t.Helper()
	f := &fixture{server: natstest.Start(t, natstest.Options{})}
	var err error
	if f.conn, err = nats.Connect(f.server.URL, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.conn.Close)
	if f.js, err = jetstream.New(f.conn); err != nil {
		t.Fatal(err)
	}
	config.Name = "S"
	if _, err = f.js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	f.dial(t)
	return f
}

// dial makes a link in place of the one before.
func (f *fixture) dial(t *testing.T) {
	t.Helper()
	link, err := stream.Dial(t.Context(), stream.Config{Servers: []string{f.server.URL}, Stream: "S", Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	f.Link = link
	t.Cleanup(link.Close)
}

// letters are n records from number seq on.
func letters(seq uint64, n int) (all []stream.Letter) {
	for i := range n {
		s := stream.Stamp{Position: stream.Position{Epoch: epoch, Seq: seq + uint64(i)}, Writer: "here.web", Count: 1}
		all = append(all, stream.Letter{Stamp: s, Payload: []byte(strconv.FormatUint(s.Seq, 10))})
	}
	return all
}

// stored are the payloads in the stream, in order.
func (f *fixture) stored(t *testing.T) (all []string) {
	t.Helper()
	s, err := f.js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	for seq := s.CachedInfo().State.FirstSeq; seq <= s.CachedInfo().State.LastSeq; seq++ {
		if m, err := s.GetMsg(t.Context(), seq); err == nil {
			all = append(all, string(m.Data))
		}
	}
	return all
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: the stream holds %v, want %v", what, got, want)
	}
}

// TestPublishGoesBehindTheLastMessageOnly one by one and in batches: a repeat, and what was made for another place, is refused,
// after a restart of the server too, and nothing that was to come after it is stored.
func TestPublishGoesBehindTheLastMessageOnly(t *testing.T) {
	for _, batches := range []bool{false, true} {
		t.Run(fmt.Sprint("batches ", batches), func(t *testing.T) {
			f := newFixture(t, jetstream.StreamConfig{Subjects: []string{"m"}, AllowBatchPublish: true, Duplicates: time.Second})
			state, err := f.State(t.Context())
			if err != nil || state.CanHold("m") != nil || !state.Alone("m") || !state.Batched() {
				t.Fatalf("%+v, %v", state, err)
			}
			last, err := f.Last(t.Context(), "m")
			if err != nil || last != (stream.Last{}) {
				t.Fatalf("an empty stream: %+v, %v", last, err)
			}
			tail := stream.Tail{Subject: "m", Batches: batches}
			if err := f.Publish(t.Context(), &tail, letters(0, 3)); err != nil || tail.Behind != 3 || tail.All != 3 {
				t.Fatalf("%+v, %v", tail, err)
			}
			repeat := stream.Tail{Subject: "m", Batches: batches}
			if err := f.Publish(t.Context(), &repeat, letters(0, 3)); !errors.Is(err, stream.ErrMoved) {
				t.Errorf("a repeat: %v", err)
			}
			f.server.Kill()
			f.server.Run(t)
			f.server.Await(t)
			if f.Life().Err() == nil {
				t.Error("the link has outlived its server")
			}
			f.dial(t)
			if last, err = f.Last(t.Context(), "m"); err != nil || last.Sequence != 3 || !last.Ours || last.Stamp.Next() != (stream.Position{Epoch: epoch, Seq: 3}) || last.Stamp.Writer != "here.web" {
				t.Errorf("after a restart: %+v, %v", last, err)
			}
			if err := f.Publish(t.Context(), &repeat, letters(0, 3)); !errors.Is(err, stream.ErrMoved) {
				t.Errorf("a repeat after a restart: %v", err)
			}
			if err := f.Publish(t.Context(), &tail, letters(3, 2)); err != nil {
				t.Fatal(err)
			}
			// Somebody else takes the place of the third.
			somebody := letters(90, 1)
			other := tail
			if err := f.Publish(t.Context(), &other, somebody); err != nil {
				t.Fatal(err)
			}
			if err := f.Publish(t.Context(), &tail, letters(5, 5)); !errors.Is(err, stream.ErrMoved) {
				t.Errorf("behind somebody else's: %v", err)
			}
			expect(t, "at last", f.stored(t), "0", "1", "2", "3", "4", "90")
		})
	}
}

// TestExpectedNumbersAloneAreNotEnough is why letters that are under way together are in one batch: as single messages, the
// second is stored without the first when somebody else's message takes the number of the first. If a server ever does
// otherwise, this says so.
func TestExpectedNumbersAloneAreNotEnough(t *testing.T) {
	f := newFixture(t, jetstream.StreamConfig{Subjects: []string{"m"}, AllowBatchPublish: true})
	send := func(payload string, expected int) {
		m := &nats.Msg{Subject: "m", Header: nats.Header{}, Data: []byte(payload), Reply: f.conn.NewInbox()}
		m.Header.Set(jetstream.ExpectedLastSeqHeader, strconv.Itoa(expected))
		if err := f.conn.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.js.Publish(t.Context(), "m", []byte("somebody else's")); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		send(strconv.Itoa(i), i) // made when the stream was empty
	}
	if err := f.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the messages", func() bool { return len(f.stored(t)) == 3 })
	expect(t, "single messages", f.stored(t), "somebody else's", "1", "2")

	f = newFixture(t, jetstream.StreamConfig{Subjects: []string{"m"}, AllowBatchPublish: true})
	if _, err := f.js.Publish(t.Context(), "m", []byte("somebody else's")); err != nil {
		t.Fatal(err)
	}
	if err := f.Publish(t.Context(), &stream.Tail{Subject: "m", Batches: true}, letters(0, 3)); !errors.Is(err, stream.ErrMoved) {
		t.Errorf("a batch: %v", err)
	}
	expect(t, "a batch", f.stored(t), "somebody else's")
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// TestTwoWritersShareAStream told apart by subject, and neither disturbs the other.
func TestTwoWritersShareAStream(t *testing.T) {
	f := newFixture(t, jetstream.StreamConfig{Subjects: []string{"site.*"}, AllowBatchPublish: true})
	state, err := f.State(t.Context())
	if err != nil || state.Alone("site.a") {
		t.Fatalf("%v, or somebody else cannot publish", err)
	}
	a, b := stream.Tail{Subject: "site.a"}, stream.Tail{Subject: "site.b"}
	for i := range uint64(10) {
		if err := errors.Join(f.Publish(t.Context(), &a, letters(i, 1)), f.Publish(t.Context(), &b, letters(100+i, 1))); err != nil {
			t.Fatal(err)
		}
	}
	last, err := f.Last(t.Context(), "site.a")
	if err != nil || last.Stamp.Seq != 9 || last.Sequence != 19 {
		t.Errorf("%+v, %v", last, err)
	}
}

// TestWhatIsWrongIsToldApart by asking real servers for it.
func TestWhatIsWrongIsToldApart(t *testing.T) {
	f := newFixture(t, jetstream.StreamConfig{Subjects: []string{"m"}, AllowBatchPublish: true, MaxMsgs: 4, Discard: jetstream.DiscardNew, MaxMsgSize: 1000})
	update := func(change func(*jetstream.StreamConfig)) {
		t.Helper()
		s, err := f.js.Stream(t.Context(), "S")
		if err == nil {
			c := s.CachedInfo().Config
			change(&c)
			_, err = f.js.UpdateStream(t.Context(), c)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	large := letters(0, 2)
	large[1].Payload = make([]byte, 1000)
	for _, batches := range []bool{false, true} {
		tail := stream.Tail{Subject: "m", Batches: batches}
		if last, err := f.Last(t.Context(), "m"); err == nil {
			tail.Behind, tail.All = last.Sequence, last.Sequence
		}
		if err := f.Publish(t.Context(), &tail, large); !errors.Is(err, stream.ErrTooLarge) {
			t.Errorf("batches %v: too large: %v", batches, err)
		}
	}
	larger := letters(0, 1)
	larger[0].Payload = make([]byte, f.MaxPayload())
	if err := f.Publish(t.Context(), &stream.Tail{Subject: "m", Behind: 2, All: 2}, larger); !errors.Is(err, stream.ErrTooLarge) {
		t.Errorf("larger than the server takes: %v", err)
	}
	for _, batches := range []bool{false, true} {
		last, err := f.Last(t.Context(), "m")
		if err != nil {
			t.Fatal(err)
		}
		tail := stream.Tail{Subject: "m", Behind: last.Sequence, All: last.Sequence, Batches: batches}
		if err := f.Publish(t.Context(), &tail, letters(10, 9)); !errors.Is(err, stream.ErrFull) {
			t.Errorf("batches %v: full: %v", batches, err)
		}
	}
	expect(t, "full", f.stored(t), "0", "0", "10", "11")
	update(func(c *jetstream.StreamConfig) { c.Sealed = true })
	if err := f.Publish(t.Context(), &stream.Tail{Subject: "m", Behind: 4, All: 4}, letters(12, 1)); !errors.Is(err, stream.ErrSealed) {
		t.Errorf("sealed: %v", err)
	}
	state, err := f.State(t.Context())
	if err != nil || !errors.Is(state.CanHold("m"), stream.ErrSealed) {
		t.Errorf("the state of a sealed one: %v, %v", err, state.CanHold("m"))
	}
	life := state.Life()
	if err := f.js.DeleteStream(t.Context(), "S"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.State(t.Context()); !errors.Is(err, stream.ErrGone) || stream.IsPassing(err) {
		t.Errorf("gone: %v", err)
	}
	if err := f.Publish(t.Context(), &stream.Tail{Subject: "m"}, letters(12, 2)); err == nil {
		t.Error("published to a stream that is gone")
	}
	for reason, config := range map[string]jetstream.StreamConfig{
		"its subjects (x) do not take m":  {Subjects: []string{"x"}},
		"retention":                       {Subjects: []string{"m"}, Retention: jetstream.InterestPolicy},
		"no_ack":                          {Subjects: []string{"m"}, NoAck: true},
		"subject_transform":               {Subjects: []string{"m"}, SubjectTransform: &jetstream.SubjectTransformConfig{Source: "m", Destination: "n"}},
		"in the memory of one server":     {Subjects: []string{"m"}, Storage: jetstream.MemoryStorage},
		"acknowledges what it has not wr": {Subjects: []string{"m"}, PersistMode: jetstream.AsyncPersistMode},
	} {
		config.Name = "S"
		if _, err := f.js.CreateStream(t.Context(), config); err != nil {
			t.Fatal(reason, err)
		}
		state, err := f.State(t.Context())
		if err != nil || state.Life() == life {
			t.Errorf("%s: %v, or it is taken for the one before", reason, err)
		}
		if err := state.CanHold("m"); !errors.Is(err, stream.ErrUnfit) || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v", reason, err)
		}
		if err := f.js.DeleteStream(t.Context(), "S"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stream.Dial(t.Context(), stream.Config{Servers: []string{"nats://127.0.0.1:1"}, Stream: "S"}); err == nil || !stream.IsPassing(err) {
		t.Errorf("nobody there: %v", err)
	}
	locked := natstest.New(t, natstest.Options{Config: "authorization { user: u, password: p }"})
	locked.Run(t)
	eventually(t, "a server that lets nobody in", func() bool {
		_, err = stream.Dial(t.Context(), stream.Config{Servers: []string{locked.URL}, Stream: "S"})
		return errors.Is(err, stream.ErrRefused)
	})
}

// TestFollowInTheStreamsOrder from any place on, with a consumer that is deleted and a server that is killed: each message comes
// once.
func TestFollowInTheStreamsOrder(t *testing.T) {
	f := newFixture(t, jetstream.StreamConfig{Subjects: []string{"site.*"}})
	a, b := stream.Tail{Subject: "site.a"}, stream.Tail{Subject: "site.b"}
	for i := range uint64(100) {
		if err := errors.Join(f.Publish(t.Context(), &a, letters(i, 1)), f.Publish(t.Context(), &b, letters(1000+i, 1))); err != nil {
			t.Fatal(err)
		}
	}
	next, at := uint64(0), uint64(0)
	follow := func(until uint64) (end func() error, last stream.Delivery) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		t.Cleanup(cancel)
		deliveries, failed, err := f.Follow(ctx, []string{"site.a"}, at+1)
		if err != nil {
			t.Fatal(err)
		}
		for next < until {
			d, ok := <-deliveries
			if !ok {
				t.Fatalf("it ends before %d: %v", next, failed())
			}
			if string(d.Payload) != strconv.FormatUint(next, 10) || !d.Ours || d.Stamp.Seq != next || d.Sequence <= at {
				t.Fatalf("message %d: %+v", next, d)
			}
			next, at, last = next+1, d.Sequence, d
		}
		return func() error {
			for range deliveries {
			}
			return failed()
		}, last
	}
	if _, d := follow(30); d.Pending != 70 {
		t.Errorf("%d are behind, want 70", d.Pending)
	}
	ended, _ := follow(50) // beside the first, which is not over yet
	names := f.consumers(t)
	if len(names) != 2 {
		t.Errorf("two attempts have the consumers %v", names)
	}
	for _, name := range names {
		if err := f.js.DeleteConsumer(t.Context(), "S", name); err != nil {
			t.Fatal(err)
		}
	}
	if err := ended(); err == nil || !stream.IsPassing(err) {
		t.Errorf("a consumer that was deleted: %v", err)
	}
	ended, _ = follow(70)
	f.server.Kill()
	if err := ended(); err == nil || !stream.IsPassing(err) {
		t.Errorf("a server that was killed: %v", err)
	}
	f.server.Run(t)
	f.server.Await(t)
	f.dial(t)
	follow(100)
}

// consumers are the names of the stream's.
func (f *fixture) consumers(t *testing.T) (names []string) {
	t.Helper()
	s, err := f.js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	list := s.ConsumerNames(t.Context())
	for name := range list.Name() {
		names = append(names, name)
	}
	if err := list.Err(); err != nil {
		t.Fatal(err)
	}
	return names
}

// TestBookmarkStandsWhereItWasPut also after a restart of the server, and moves both ways.
func TestBookmarkStandsWhereItWasPut(t *testing.T) {
	f := newFixture(t, jetstream.StreamConfig{Subjects: []string{"m"}, AllowBatchPublish: true})
	if err := f.Publish(t.Context(), &stream.Tail{Subject: "m", Batches: true}, letters(0, 50)); err != nil {
		t.Fatal(err)
	}
	if _, known, err := f.Bookmark(t.Context(), "there"); known || err != nil {
		t.Errorf("a bookmark that nobody made: %v, %v", known, err)
	}
	for _, at := range []uint64{0, 50, 20} {
		if err := f.SetBookmark(t.Context(), "there", []string{"m"}, at); err != nil {
			t.Fatal(err)
		}
		if got, known, err := f.Bookmark(t.Context(), "there"); got != at || !known || err != nil {
			t.Errorf("it was put to %d: %d, %v, %v", at, got, known, err)
		}
	}
	// One that is not there yet is made where it is to stand, at once.
	if err := f.SetBookmark(t.Context(), "elsewhere", []string{"m"}, 50); err != nil {
		t.Fatal(err)
	}
	f.server.Kill()
	f.server.Run(t)
	f.server.Await(t)
	f.dial(t)
	for name, want := range map[string]uint64{"there": 20, "elsewhere": 50} {
		if got, known, err := f.Bookmark(t.Context(), name); got != want || !known || err != nil {
			t.Errorf("%s after a restart: %d, %v, %v", name, got, known, err)
		}
		if n, err := f.Waiting(t.Context(), name); n != 50-want || err != nil {
			t.Errorf("behind %s there are %d, %v", name, n, err)
		}
	}
}

// TestSubjectsMatch as the server does it.
func TestSubjectsMatch(t *testing.T) {
	for _, test := range []struct {
		pattern, subject string
		want             bool
	}{
		{"m", "m", true}, {"m", "n", false}, {"m", "m.n", false}, {"*", "m", true}, {"*", "m.n", false}, {"m.*", "m", false}, {"m.*", "m.n", true},
		{"m.>", "m", false}, {"m.>", "m.n", true}, {"m.>", "m.n.o", true}, {">", "m.n", true}, {"*.n", "m.n", true}, {"*.n.*", "m.n", false},
	} {
		if got := stream.Matches(test.pattern, test.subject); got != test.want {
			t.Errorf("%s takes %s: %v, want %v", test.pattern, test.subject, got, test.want)
		}
	}
}

// FuzzStamp reads what it printed, and nothing else.
func FuzzStamp(f *testing.F) {
	f.Add("9f3c0a1d00000001:7", "3", "9", "here.web")
	f.Add(":", "-1", "", "")
	f.Fuzz(func(t *testing.T, position, count, lost, writer string) {
		h := nats.Header{stream.HeaderPosition: {position}, stream.HeaderCount: {count}, stream.HeaderLost: {lost}, stream.HeaderWriter: {writer}}
		s, ours, err := stream.ParseStamp(h)
		if ours && err == nil && (s.Position.String() != position || s.Epoch == 0 || s.Writer != writer) {
			t.Errorf("%q is read as %+v", position, s)
		}
	})
}
