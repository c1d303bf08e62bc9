// SPDX-License-Identifier: Apache-2.0

package msgmux_test

// How the client comes to a connection and loses it again: beside a broker that is the test, and does what a real one
// does only at bad moments.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestHellosSayTheOptions of sources and of sinks.
func TestHellosSayTheOptions(t *testing.T) {
	channel := folder(t)
	publish, subscribe := listen(t, channel, "publish"), listen(t, channel, "subscribe")
	dialled := make(chan error, 1)
	go func() {
		_, err := channel.Dial(inTime(t), msgmux.SourceOptions{Label: "web"})
		dialled <- err
	}()
	if got, want := admit(t, publish, "ok\n").hello, (wire.Hello{Options: wire.Options{Label: "web"}}); got != want {
		t.Errorf("the source says %+v", got)
	}
	if err := <-dialled; err != nil {
		t.Error(err)
	}
	sink, broker := subscribed(t, channel, subscribe, msgmux.SinkOptions{
		Label: "archive", Patience: new(1500 * time.Millisecond), Start: msgmux.Oldest(), Share: "writers", Reconnect: true,
	})
	want := wire.Hello{Options: wire.Options{
		Label: "archive", Patience: 1500 * time.Millisecond, PatienceSet: true, Start: wire.StartOldest, Share: "writers",
	}}
	if broker.hello != want || sink.ID() != 7 || sink.Label() != "archive" {
		t.Errorf("sink %d, %q, says %+v", sink.ID(), sink.Label(), broker.hello)
	}
	if _, err := channel.Dial(inTime(t), msgmux.SourceOptions{Label: "a b"}); !errors.Is(err, msgmux.ErrBadOption) {
		t.Errorf("a label that no broker takes: got %v", err)
	}
}

// clients are the two ways to say hello, each a function that closes again what it got.
func clients(channel msgmux.Channel) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"publish": func(ctx context.Context) error {
			source, err := channel.Dial(ctx, msgmux.SourceOptions{})
			if err == nil {
				source.Close()
			}
			return err
		},
		"subscribe": func(ctx context.Context) error {
			sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{})
			if err == nil {
				sink.Close()
			}
			return err
		},
	}
}

// TestHungUpBeforeOk comes back after a second, and not before, as long as its context lasts.
func TestHungUpBeforeOk(t *testing.T) {
	t.Parallel() // it mostly waits
	channel := folder(t)
	for name, join := range clients(channel) {
		listener := listen(t, channel, name)
		joined := make(chan error, 1)
		go func() { joined <- join(inTime(t)) }()
		// The first hello is read, the second is not: then the kernel says ECONNRESET.
		admit(t, listener, "").Close()
		began := time.Now()
		conn, err := listener.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(shortly) // the hello is there
		conn.Close()
		admit(t, listener, "ok id=1\n")
		if err := <-joined; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(began); took < 1900*time.Millisecond || took > 4*time.Second {
			t.Errorf("%s: was back twice within %v", name, took)
		}

		ctx, cancel := context.WithTimeout(context.Background(), shortly)
		go func() { joined <- join(ctx) }()
		admit(t, listener, "").Close()
		if err := <-joined; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: between two attempts: got %v", name, err)
		}
		cancel()
		listener.Close()
	}
}

// TestNoAnswerToTheHello is waited for until the context is done; nonsense is no answer, and no refusal.
func TestNoAnswerToTheHello(t *testing.T) {
	channel := folder(t)
	for name, join := range clients(channel) {
		listener := listen(t, channel, name)
		ctx, cancel := context.WithTimeout(context.Background(), shortly)
		if err := join(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %v", name, err)
		}
		cancel()
		admit(t, listener, "").Close()
		joined := make(chan error, 1)
		go func() { joined <- join(inTime(t)) }()
		admit(t, listener, "\xff what")
		var failed *msgmux.OpError
		if err := <-joined; !errors.As(err, &failed) || failed.Code != "" || errors.Is(err, msgmux.ErrRefused) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestRefusedHello wants the broker's code and text, also if it did not read the hello, and no way around.
func TestRefusedHello(t *testing.T) {
	channel := folder(t)
	bindDatagram(t, channel, "source")
	for name, join := range clients(channel) {
		listener := listen(t, channel, name)
		for _, read := range []bool{true, false} {
			joined := make(chan error, 1)
			go func() { joined <- join(inTime(t)) }()
			answer := "error quota 64 are enough\n"
			if read {
				admit(t, listener, answer).Close()
			} else {
				conn, err := listener.AcceptUnix()
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(shortly) // the hello is there
				conn.Write([]byte(answer))
				conn.Close()
			}
			var failed *msgmux.OpError
			err := <-joined
			if !errors.Is(err, msgmux.ErrRefused) || !errors.As(err, &failed) || failed.Code != "quota" ||
				failed.Path != filepath.Join(channel.RuntimeDir, name) || !strings.Contains(err.Error(), "64 are enough") {
				t.Errorf("%s, hello read: %v: got %v (%+v)", name, read, err, failed)
			}
		}
		// What its mode closes is no invitation to use another, which is open.
		for path, mode := range map[string]os.FileMode{
			channel.RuntimeDir: 0o755, filepath.Join(channel.RuntimeDir, name): 0o600,
			filepath.Join(channel.RuntimeDir, "source"): 0o666,
		} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	asNobody(t, func() {
		for name, join := range clients(channel) {
			if err := join(context.Background()); !errors.Is(err, msgmux.ErrRefused) || !errors.Is(err, os.ErrPermission) {
				t.Errorf("%s: got %v", name, err)
			}
		}
	})
}

// TestSourcesFallBackToDatagrams in a channel without publish, with a dead one, and of another version.
func TestSourcesFallBackToDatagrams(t *testing.T) {
	channel := folder(t)
	receiver := bindDatagram(t, channel, "source")
	try := func(what string) {
		t.Helper()
		source, err := channel.Dial(inTime(t), msgmux.SourceOptions{})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		defer source.Close()
		if err := source.Send(inTime(t), []byte(what)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if got, _ := next(t, receiver); string(got) != what {
			t.Errorf("%s: got %q", what, got)
		}
	}
	try("missing")
	listener := listen(t, channel, "publish")
	listener.SetUnlinkOnClose(false)
	listener.Close()
	try("dead")
	listener = listen(t, channel, "publish")
	go func() { admit(t, listener, "error unsupported this broker speaks msgmux/9\n").Close() }()
	try("another version")
	// Who asks for datagrams does not even look.
	listen(t, channel, "publish")
	source, err := channel.Dial(inTime(t), msgmux.SourceOptions{Datagrams: true})
	if err != nil {
		t.Fatal(err)
	}
	source.Close()
}

// TestSinksNeverFallBack to what does not tell of losses: without a subscribe socket that speaks this protocol there is no
// sink, whatever else the channel has.
func TestSinksNeverFallBack(t *testing.T) {
	channel := folder(t)
	registrar := bindDatagram(t, channel, "register")
	try := func(what string, want error) {
		t.Helper()
		sink, err := channel.Subscribe(inTime(t), msgmux.SinkOptions{})
		if !errors.Is(err, want) {
			t.Errorf("%s: got %v and %v", what, sink, err)
		}
	}
	try("missing", msgmux.ErrNoBroker)
	listener := listen(t, channel, "subscribe")
	listener.SetUnlinkOnClose(false)
	listener.Close()
	try("dead", msgmux.ErrNoBroker)
	listener = listen(t, channel, "subscribe")
	go func() { admit(t, listener, "error unsupported this broker speaks msgmux/9\n").Close() }()
	try("another version", msgmux.ErrRefused)
	registrar.SetReadDeadline(time.Now().Add(shortly))
	if n, err := registrar.Read(make([]byte, 1000)); err == nil {
		t.Errorf("a registration of %d bytes was sent", n)
	}
}

// TestSourceConnectsAgain after the broker has hung up: in the next call, with the message that was not taken.
func TestSourceConnectsAgain(t *testing.T) {
	channel := folder(t)
	listener := listen(t, channel, "publish")
	source, broker := dialled(t, channel, listener)
	for i, unread := range []bool{true, false} {
		if unread { // the kernel says ECONNRESET once, and EPIPE from then on
			if err := source.Send(inTime(t), []byte("not read")); err != nil {
				t.Fatal(err)
			}
		}
		broker.Close()
		sent := make(chan error, 1)
		go func() {
			if i == 0 {
				sent <- source.Send(inTime(t), []byte("again"))
			} else {
				sent <- source.TrySend([]byte("again"))
			}
		}()
		broker = admit(t, listener, "ok id=8\n")
		if err := <-sent; err != nil {
			t.Error(err)
		}
		if got := sizes(t, broker.packet(t)); !slices.Equal(got, []int{5}) {
			t.Errorf("got %v", got)
		}
	}
	// A broker that does not answer is waited for, but not by those who cannot.
	broker.Close()
	if err := source.TrySend(nil); !errors.Is(err, msgmux.ErrWouldBlock) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), shortly)
	defer cancel()
	if err := source.Send(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	// Without one there is nothing to wait for.
	listener.Close()
	for range 2 {
		if err := source.Send(inTime(t), nil); !errors.Is(err, msgmux.ErrNoBroker) {
			t.Errorf("got %v", err)
		}
	}
}

// TestRefusedPacketIsToldByTheNextCall with the broker's code, and the one after that connects again.
func TestRefusedPacketIsToldByTheNextCall(t *testing.T) {
	channel := folder(t)
	listener := listen(t, channel, "publish")
	for _, unread := range []bool{false, true} {
		source, broker := dialled(t, channel, listener)
		if err := source.Send(inTime(t), []byte("bad")); err != nil {
			t.Fatal(err)
		}
		if !unread {
			broker.packet(t)
		}
		broker.Write([]byte("error too-large it has too many bytes\n"))
		broker.Close()
		var failed *msgmux.OpError
		err := source.Send(inTime(t), []byte("good"))
		if !errors.Is(err, msgmux.ErrTooLarge) || !errors.As(err, &failed) || failed.Code != "too-large" {
			t.Errorf("unread: %v: got %v", unread, err)
		}
		sent := make(chan error, 1)
		go func() { sent <- source.Send(inTime(t), []byte("good")) }()
		broker = admit(t, listener, "ok\n")
		if err := <-sent; err != nil {
			t.Error(err)
		}
		if got := sizes(t, broker.packet(t)); !slices.Equal(got, []int{4}) {
			t.Errorf("got %v", got)
		}
		source.Close()
	}
}

// TestLimitOfMessages is what the broker says with its ok, or what it says when it is asked: it may have been restarted
// with another. One that says nothing is sent what may be too large.
func TestLimitOfMessages(t *testing.T) {
	channel := folder(t)
	listener := listen(t, channel, "publish")
	size := func(n int) []byte { return make([]byte, n) }
	limit := uint64(5000)
	asked := controller(t, channel, func(wire.Request) []string {
		return cut(t, wire.Answer{OK: true, Status: &wire.Status{MaxMessage: limit}}, 60_000)
	})
	source, broker := dialledWith(t, channel, listener, msgmux.SourceOptions{}, "ok id=7 max-message=1000\n")
	for _, test := range []struct {
		size, asks int
		taken      bool
	}{{1000, 0, true}, {1001, 1, true}, {5000, 0, true}, {5001, 1, false}, {5001, 1, false}, {4000, 0, true}} {
		err := source.Send(inTime(t), size(test.size))
		if test.taken != (err == nil) || !test.taken && !errors.Is(err, msgmux.ErrTooLarge) || len(asked) != test.asks {
			t.Errorf("%d bytes: got %v, and the broker was asked %d times", test.size, err, len(asked))
		}
		for range test.asks {
			<-asked
		}
		if err == nil {
			broker.packet(t)
		}
	}
	if err := os.Remove(filepath.Join(channel.RuntimeDir, "control")); err != nil {
		t.Fatal(err)
	}
	if err := source.Send(inTime(t), size(5001)); !errors.Is(err, msgmux.ErrTooLarge) {
		t.Errorf("may not be asked: got %v", err)
	}
	source, broker = dialledWith(t, channel, listener, msgmux.SourceOptions{}, "ok id=8\n")
	if err := source.Send(inTime(t), size(150_000)); err != nil {
		t.Errorf("has told nothing: got %v", err)
	}
	if got := sizes(t, broker.packet(t)); !slices.Equal(got, []int{150_000}) {
		t.Errorf("got %v", got)
	}
}

// TestTrySendDoesNotAsk how large a message may be, and wait for that: it goes by what is known, and by the answer when that is there.
func TestTrySendDoesNotAsk(t *testing.T) {
	channel := folder(t)
	source, _ := dialledWith(t, channel, listen(t, channel, "publish"), msgmux.SourceOptions{}, "ok id=7 max-message=1000\n")
	plain := bindDatagram(t, channel, "source")
	datagrams, err := channel.Dial(inTime(t), msgmux.SourceOptions{Datagrams: true})
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	trying := func(source *msgmux.Source, size int, want error) {
		t.Helper()
		began := time.Now()
		err := source.TrySend(make([]byte, size))
		if took := time.Since(began); !errors.Is(err, want) || took > 200*time.Millisecond {
			t.Errorf("%d bytes: got %v after %v", size, err, took)
		}
	}
	answers := make(chan struct{})
	controller(t, channel, func(wire.Request) []string {
		<-answers
		return cut(t, wire.Answer{OK: true, Status: &wire.Status{MaxMessage: 90_000}}, 60_000)
	})
	trying(source, 1001, msgmux.ErrTooLarge)
	trying(datagrams, 80_000, msgmux.ErrWouldBlock)
	close(answers)
	test.Eventually(t, "the source knows more", func() bool { return source.TrySend(make([]byte, 80_000)) == nil })
	test.Eventually(t, "so does that of datagrams", func() bool { return datagrams.TrySend(make([]byte, 80_000)) == nil })
	if got, _ := next(t, plain); len(got) != 80_000 {
		t.Errorf("%d bytes came", len(got))
	}
}

// TestCloseEndsAConnecting source and sink, in whatever they wait for.
func TestCloseEndsAConnecting(t *testing.T) {
	channel := folder(t)
	publish, subscribe := listen(t, channel, "publish"), listen(t, channel, "subscribe")
	for _, silent := range []bool{true, false} { // no answer, or hung up on before it
		source, broker := dialled(t, channel, publish)
		sink, other := subscribed(t, channel, subscribe, msgmux.SinkOptions{Reconnect: true})
		broker.Close()
		other.Close()
		ended := make(chan error, 2)
		go func() { ended <- source.Send(context.Background(), nil) }()
		go func() {
			_, err := sink.Receive(context.Background())
			ended <- err
		}()
		if !silent {
			admit(t, publish, "").Close()
		}
		time.Sleep(shortly)
		source.Close()
		sink.Close()
		for range 2 {
			select {
			case err := <-ended:
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("got %v", err)
				}
			case <-time.After(soon):
				t.Fatal("Close ends nothing")
			}
		}
		if silent {
			admit(t, publish, "").Close()
		}
	}
}

// TestHungUpSink says so, once and for ever.
func TestHungUpSink(t *testing.T) {
	channel := folder(t)
	sink, broker := subscribed(t, channel, listen(t, channel, "subscribe"), msgmux.SinkOptions{})
	broker.deliver(t, 5, 0, "last")
	broker.Close()
	if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != "last" || got.Seq != 5 {
		t.Errorf("got %+v and %v", got, err)
	}
	for range 2 {
		if _, err := sink.Receive(inTime(t)); !errors.Is(err, msgmux.ErrHungUp) {
			t.Errorf("got %v", err)
		}
	}
	if err := each(inTime(t), sink, nil); !errors.Is(err, msgmux.ErrHungUp) || errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

// TestSinkConnectsAgain where it was told to: not more than once a second, through refusals that may pass, until one
// that will not.
func TestSinkConnectsAgain(t *testing.T) {
	t.Parallel() // it mostly waits
	channel := folder(t)
	listener := listen(t, channel, "subscribe")
	var gaps []msgmux.Gap
	sink, broker := subscribed(t, channel, listener, msgmux.SinkOptions{
		Reconnect: true, OnGap: func(g msgmux.Gap) { gaps = append(gaps, g) },
	})
	broker.deliver(t, 100, 0, "one")
	broker.deliver(t, 104, 3, "two")
	broker.Close()
	received := make(chan msgmux.Message, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- each(inTime(t), sink, func(m msgmux.Message) error {
			received <- msgmux.Message{Payload: slices.Clone(m.Payload), Seq: m.Seq}
			return nil
		})
	}()
	began := time.Now()
	admit(t, listener, "error busy come later\n").Close()
	broker = admit(t, listener, "ok id=9\n")
	broker.deliver(t, 2, 0, "three")
	broker.deliver(t, 3, 0, "four")
	for i, want := range []msgmux.Message{{Payload: []byte("one"), Seq: 100}, {Payload: []byte("two"), Seq: 104}, {Payload: []byte("three"), Seq: 2},
		{Payload: []byte("four"), Seq: 3}} {
		select {
		case got := <-received:
			if string(got.Payload) != string(want.Payload) || got.Seq != want.Seq {
				t.Errorf("message %d: got %s %d", i, got.Payload, got.Seq)
			}
		case <-time.After(soon):
			t.Fatal("nothing comes")
		}
	}
	if took := time.Since(began); took < 900*time.Millisecond {
		t.Errorf("was back twice within %v", took)
	}
	broker.Close()
	admit(t, listener, "error denied go away\n").Close()
	var failed *msgmux.OpError
	if err := <-ended; !errors.Is(err, msgmux.ErrRefused) || !errors.As(err, &failed) || failed.Code != "denied" {
		t.Errorf("got %v", err)
	}
	if want := []msgmux.Gap{{Before: 104, Lost: 3}, {Before: 2, Anew: true}}; !slices.Equal(gaps, want) || sink.Stats().Lost != 3 || sink.ID() != 9 {
		t.Errorf("sink %d has lost %d, and was told %+v", sink.ID(), sink.Stats().Lost, gaps)
	}
}

// TestSinkIsToldOfGaps by packets that say what was lost, and by numbers that do not fit.
func TestSinkIsToldOfGaps(t *testing.T) {
	type packet struct{ first, lost uint64 } // of two messages
	for name, test := range map[string]struct {
		packets []packet
		share   bool
		gaps    []msgmux.Gap
		lost    uint64
	}{
		"none":                  {packets: []packet{{7, 0}, {9, 0}, {11, 0}}},
		"from the beginning":    {packets: []packet{{7, 3}, {9, 3}}, gaps: []msgmux.Gap{{Before: 7, Lost: 3}}, lost: 3},
		"in between":            {packets: []packet{{0, 0}, {7, 5}, {9, 5}, {12, 6}}, gaps: []msgmux.Gap{{Before: 7, Lost: 5}, {Before: 12, Lost: 1}}, lost: 6},
		"not counted":           {packets: []packet{{0, 0}, {9, 5}}, gaps: []msgmux.Gap{{Before: 9, Lost: 5, Anew: true}}, lost: 5},
		"new memory":            {packets: []packet{{90, 5}, {2, 1}, {4, 1}}, gaps: []msgmux.Gap{{Before: 90, Lost: 5}, {Before: 2, Lost: 1, Anew: true}}, lost: 6},
		"others' in a share":    {packets: []packet{{7, 0}, {20, 0}}, share: true},
		"before it in a share":  {packets: []packet{{7, 4}, {20, 4}}, share: true},
		"the share's, since it": {packets: []packet{{7, 4}, {20, 6}}, share: true, gaps: []msgmux.Gap{{Before: 20, Lost: 2}}, lost: 2},
	} {
		channel := folder(t)
		var gaps []msgmux.Gap
		options := msgmux.SinkOptions{OnGap: func(g msgmux.Gap) { gaps = append(gaps, g) }}
		if test.share {
			options.Share = "writers"
		}
		sink, broker := subscribed(t, channel, listen(t, channel, "subscribe"), options)
		for _, p := range test.packets {
			broker.deliver(t, p.first, p.lost, "a", "b")
			for i := range uint64(2) {
				if got, err := sink.Receive(inTime(t)); err != nil || got.Seq != p.first+i {
					t.Fatalf("%s: got %+v and %v, want number %d", name, got, err, p.first+i)
				}
			}
		}
		if !slices.Equal(gaps, test.gaps) || sink.Stats().Lost != test.lost {
			t.Errorf("%s: lost %d, told %+v", name, sink.Stats().Lost, gaps)
		}
	}
}

// TestBrokenPacketsToASink are errors, and no more than that.
func TestBrokenPacketsToASink(t *testing.T) {
	channel := folder(t)
	sink, broker := subscribed(t, channel, listen(t, channel, "subscribe"), msgmux.SinkOptions{})
	for _, packet := range []string{
		"x", strings.Repeat("\x00", 16), strings.Repeat("\x00", 19), strings.Repeat("\x00", 16) + "\x05\x00\x00\x00hell",
		strings.Repeat("\x00", 16) + "\xff\xff\xff\xffhell", strings.Repeat("\x00", 16) + "\x00\x00\x00\x00x",
	} {
		broker.Write([]byte(packet))
		if got, err := sink.Receive(inTime(t)); err == nil || errors.Is(err, msgmux.ErrRefused) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%q: got %+v and %v", packet, got, err)
		}
	}
	broker.deliver(t, 0, 0, "good")
	if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != "good" {
		t.Errorf("got %+v and %v", got, err)
	}

	// Random ones, and good ones with a bit changed: the messages are those that the parser finds, or there is an error.
	random := rand.New(rand.NewPCG(7, 8))
	for range 2000 {
		packet := make([]byte, wire.SinkHeader, 400)
		wire.PutSinkHeader(packet, random.Uint64N(1000), random.Uint64N(3))
		for range random.IntN(5) {
			packet = wire.AppendRecord(packet, make([]byte, random.IntN(50)))
		}
		packet[random.IntN(len(packet))] ^= 1 << random.IntN(8)
		packet = packet[:1+random.IntN(len(packet))]
		if _, err := broker.Write(packet); err != nil {
			t.Fatal(err)
		}
		parsed, bad := wire.ParseSinkPacket(packet)
		seq := parsed.First
		if bad != nil {
			if got, err := sink.Receive(inTime(t)); err == nil {
				t.Errorf("% x: got %+v", packet, got)
			}
			continue
		}
		wire.EachRecord(parsed.Records, func(want []byte) bool {
			got, err := sink.Receive(inTime(t))
			if err != nil || !bytes.Equal(got.Payload, want) || got.Seq != seq {
				t.Errorf("% x: got %+v and %v, want %d % x", packet, got, err, seq, want)
			}
			seq++
			return true
		})
	}
}

// TestMessagesDoNotReachIntoEachOther: what Receive returns is the caller's, and what Each lends ends where the message
// does, so that an append does not write over the next.
func TestMessagesDoNotReachIntoEachOther(t *testing.T) {
	channel := folder(t)
	sink, broker := subscribed(t, channel, listen(t, channel, "subscribe"), msgmux.SinkOptions{})
	broker.deliver(t, 0, 0, "one", "two", "three", "four")
	broker.deliver(t, 4, 0, "FIVE", "SIX!", "SEVEN", "EIGHT")
	var kept []msgmux.Message
	for range 2 {
		m, err := sink.Receive(inTime(t))
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, m)
		_ = append(m.Payload, "over the next one"...)
	}
	for m, err := range sink.Messages(inTime(t)) {
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, msgmux.Message{Payload: slices.Clone(m.Payload), Seq: m.Seq})
		_ = append(m.Payload, "over the next one"...)
		if m.Seq == 7 {
			break
		}
	}
	for i, want := range []string{"one", "two", "three", "four", "FIVE", "SIX!", "SEVEN", "EIGHT"} {
		if got := kept[i]; string(got.Payload) != want || got.Seq != uint64(i) {
			t.Errorf("message %d is %q, number %d, want %q", i, got.Payload, got.Seq, want)
		}
	}
}
