// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestSinksBeginWhereTheyAskTo: at a number, so many back, at the oldest.
func TestSinksBeginWhereTheyAskTo(t *testing.T) {
	channel := realChannel(t)
	reader, source := subscribe(t, channel, msgmux.SinkOptions{}), dial(t, channel)
	const n = 100
	for i := range n {
		if err := source.Send(inTime(t), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
		if _, err := reader.Receive(inTime(t)); err != nil {
			t.Fatal(err)
		}
	}
	head := uint64(n)
	for _, test := range []struct {
		start msgmux.Start
		first func(head uint64) uint64
	}{
		{msgmux.Oldest(), func(uint64) uint64 { return 0 }},
		{msgmux.Last(10), func(head uint64) uint64 { return head - 10 }},
		{msgmux.Last(1000), func(uint64) uint64 { return 0 }},
		{msgmux.At(42), func(uint64) uint64 { return 42 }},
		{msgmux.At(0), func(uint64) uint64 { return 0 }},
		{msgmux.Last(0), func(head uint64) uint64 { return head }},
		{msgmux.Start{}, func(head uint64) uint64 { return head }},
		{msgmux.At(5000), func(head uint64) uint64 { return head }},
	} {
		sink := subscribe(t, channel, msgmux.SinkOptions{Start: test.start})
		if err := source.Send(inTime(t), []byte("and one")); err != nil {
			t.Fatal(err)
		}
		if got, err := sink.Receive(inTime(t)); err != nil || got.Seq != test.first(head) || sink.Stats().Gaps != 0 {
			t.Errorf("%+v at %d: got number %d and %v; %+v", test.start, head, got.Seq, err, sink.Stats())
		}
		if _, err := reader.Receive(inTime(t)); err != nil { // it was delivered
			t.Fatal(err)
		}
		sink.Close()
		head++
	}
}

// TestReconnectIsExact while the channel lives: an administrator drops the sink again and again under load, and it gets
// every message once, in order.
func TestReconnectIsExact(t *testing.T) {
	t.Parallel() // it mostly waits: a sink comes back once a second
	channel := realChannel(t)
	sink := subscribe(t, channel, msgmux.SinkOptions{Label: "dropped", Reconnect: true, OnGap: func(g msgmux.Gap) { t.Errorf("was told %+v", g) }})
	// The channel goes on meanwhile.
	other, source := subscribe(t, channel, msgmux.SinkOptions{}), dial(t, channel)
	go func() { _ = each(t.Context(), other, func(msgmux.Message) error { return nil }) }()
	var sent atomic.Uint64
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for ; sent.Load() < 3000; sent.Add(1) {
			if err := source.Send(t.Context(), binary.LittleEndian.AppendUint64(nil, sent.Load())); err != nil {
				t.Error(err)
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	go func() {
		for range 3 {
			time.Sleep(400 * time.Millisecond)
			// Between two of its lives there is nobody to drop.
			test.Eventually(t, "the drop", func() bool { return channel.Drop(inTime(t), fmt.Sprintf("#%d", sink.ID())) == nil })
		}
	}()
	for next := range uint64(3000) {
		m, err := sink.Receive(inTime(t))
		if err != nil {
			t.Fatal(err)
		}
		if got := binary.LittleEndian.Uint64(m.Payload); got != next || m.Seq != next {
			t.Fatalf("got message %d, number %d, want %d", got, m.Seq, next)
		}
	}
	<-stop
	if got := sink.Stats(); got.Reconnects < 2 || got.Lost != 0 || got.Gaps != 0 || got.Messages != 3000 {
		t.Errorf("%+v", got)
	}
}

// TestReconnectSaysWhereItWas, and draws its conclusions from where the broker has it begin.
func TestReconnectSaysWhereItWas(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, test := range map[string]struct {
		answer string // of the second time
		first  uint64
		lost   uint64 // as the first packet tells
		gaps   []msgmux.Gap
		want   []uint64
	}{
		"exactly":               {"ok id=9 epoch=ab next=12\n", 12, 0, nil, []uint64{12, 13, 14}},
		"some are gone":         {"ok id=9 epoch=ab next=15\n", 15, 0, []msgmux.Gap{{Before: 15, Lost: 3}}, []uint64{15, 16, 17}},
		"and some lost then":    {"ok id=9 epoch=ab next=15\n", 17, 2, []msgmux.Gap{{Before: 17, Lost: 5}}, []uint64{17, 18, 19}},
		"lost then":             {"ok id=9 epoch=ab next=12\n", 14, 2, []msgmux.Gap{{Before: 14, Lost: 2}}, []uint64{14, 15, 16}},
		"some come again":       {"ok id=9 epoch=ab next=11\n", 11, 0, nil, []uint64{12, 13}},
		"lost then, and had":    {"ok id=9 epoch=ab next=10\n", 13, 3, []msgmux.Gap{{Before: 13, Lost: 1}}, []uint64{13, 14, 15}},
		"another channel":       {"ok id=9 epoch=cd next=5\n", 5, 0, []msgmux.Gap{{Before: 5, Anew: true}}, []uint64{5, 6, 7}},
		"a broker of no epochs": {"ok id=9\n", 12, 0, []msgmux.Gap{{Before: 12, Anew: true}}, []uint64{12, 13, 14}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			channel := folder(t)
			listener := listen(t, channel, "subscribe")
			var gaps []msgmux.Gap
			came := make(chan *msgmux.Sink, 1)
			go func() {
				sink, err := channel.Subscribe(inTime(t), msgmux.SinkOptions{Start: msgmux.Oldest(), Reconnect: true,
					OnGap: func(g msgmux.Gap) { gaps = append(gaps, g) }})
				if err != nil {
					t.Error(err)
				}
				came <- sink
			}()
			broker := admit(t, listener, "ok id=7 label=given epoch=ab next=10\n")
			sink := <-came
			defer sink.Close()
			if broker.hello.Start != wire.StartOldest || sink.Label() != "given" {
				t.Errorf("the first hello begins at %s, the label is %q", broker.hello.Start, sink.Label())
			}
			broker.deliver(t, 10, 0, "a", "b")
			broker.Close()
			received := make(chan []uint64, 1)
			go func() {
				var numbers []uint64
				for range 2 + len(test.want) {
					m, err := sink.Receive(inTime(t))
					if err != nil {
						t.Error(err)
						break
					}
					numbers = append(numbers, m.Seq)
				}
				received <- numbers
			}()
			broker = admit(t, listener, test.answer)
			if want := wire.StartAt(0xab, 12); broker.hello.Start != want {
				t.Errorf("the second hello begins at %s, want %s", broker.hello.Start, want)
			}
			broker.deliver(t, test.first, test.lost, "c", "d", "e")
			if got := <-received; !slices.Equal(got, append([]uint64{10, 11}, test.want...)) {
				t.Errorf("got %v", got)
			}
			if !slices.Equal(gaps, test.gaps) {
				t.Errorf("was told %+v", gaps)
			}
			if got := sink.Stats(); got.Messages != uint64(2+len(test.want)) || got.Bytes != got.Messages {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestAnewBeginsWithTheOldest of the new channel: it is all news.
func TestAnewBeginsWithTheOldest(t *testing.T) {
	t.Parallel() // it mostly waits
	channel := folder(t)
	program := buildBroker(t)
	stop := runBroker(t, program, channel)
	sink, source := subscribe(t, channel, msgmux.SinkOptions{Reconnect: true}), dial(t, channel)
	for i := range 20 {
		if err := source.Send(inTime(t), fmt.Append(nil, "old ", i)); err != nil {
			t.Fatal(err)
		}
		if _, err := sink.Receive(inTime(t)); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	defer runBroker(t, program, channel)()
	// Before the sink is back, another one has all of the new.
	other := subscribe(t, channel, msgmux.SinkOptions{})
	for i := range 30 {
		text := fmt.Append(nil, "new ", i)
		if err := source.Send(inTime(t), text); err != nil {
			t.Fatal(err)
		}
		if got, err := other.Receive(inTime(t)); err != nil || !bytes.Equal(got.Payload, text) {
			t.Fatal(string(got.Payload), err)
		}
	}
	for i := range 30 {
		if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != fmt.Sprint("new ", i) {
			t.Fatalf("got %q and %v, want %d", got.Payload, err, i)
		}
	}
	if got := sink.Stats(); got.Gaps != 1 || got.Lost != 0 {
		t.Errorf("%+v", got)
	}
}
