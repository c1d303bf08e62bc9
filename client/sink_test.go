// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestSubscribeRegistersAndReceives looks at the registration and at what comes through the sink, of every size.
func TestSubscribeRegistersAndReceives(t *testing.T) {
	channel := folder(t)
	came := registrar(t, channel, accept)
	sink := subscribe(t, channel, msgmux.SinkOptions{
		Label: "archive", Patience: new(1500 * time.Millisecond), Oldest: true, Share: "writers",
	})
	want := wire.Registration{Options: wire.Options{
		Label: "archive", Patience: 1500 * time.Millisecond, PatienceSet: true, Start: wire.StartOldest, Share: "writers", Reply: true,
	}}
	got := <-came
	want.Address = got.Address
	if got != want {
		t.Errorf("the registration was %+v, want %+v", got, want)
	}
	if !got.Address.Abstract || sink.Address() != got.Address.String() || sink.ID() != 7 {
		t.Errorf("sink %d at %s", sink.ID(), sink.Address())
	}

	messages := []string{"hello", "", "two\nlines\x00", strings.Repeat("x", 300_000), "after"}
	deliver(t, sink, messages...)
	for _, want := range messages {
		got, err := sink.Receive(inTime(t))
		if err != nil || string(got.Payload) != want || got.Payload == nil {
			t.Fatalf("%d bytes and %v, want %d bytes", len(got.Payload), err, len(want))
		}
	}

	if err := sink.Close(); err != nil {
		t.Error(err)
	}
	if got := <-came; !got.Remove || got.Address.String() != sink.Address() {
		t.Errorf("Close has sent %+v", got)
	}
	if err := sink.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the second Close: %v", err)
	}
	if len(came) > 0 {
		t.Errorf("the broker was also told %+v", <-came)
	}
}

// TestTheLargestDatagramFits receives the largest message there is, and one that only a stranger can send.
func TestTheLargestDatagramFits(t *testing.T) {
	channel := folder(t)
	registrar(t, channel, accept)
	sink := subscribe(t, channel, msgmux.SinkOptions{})
	for _, size := range []int{msgmux.MaxMessage, msgmux.MaxMessage + 60_000} {
		if size > largest(t) {
			t.Skipf("this host makes no datagrams of %d bytes", size)
		}
		message := strings.Repeat("y", size)
		deliver(t, sink, message)
		if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != message {
			t.Errorf("%d bytes: got %d and %v", size, len(got.Payload), err)
		}
	}
}

// TestSinkAtAPath binds where it is told to, and leaves nothing there.
func TestSinkAtAPath(t *testing.T) {
	channel := folder(t)
	came := registrar(t, channel, accept)
	path := filepath.Join(channel.RuntimeDir, "mine")
	sink := subscribe(t, channel, msgmux.SinkOptions{Address: path})
	if got := <-came; got.Address.String() != path || got.Options != (wire.Options{Reply: true}) {
		t.Errorf("the registration was %+v", got)
	}
	deliver(t, sink, "x")
	if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != "x" {
		t.Errorf("got %q and %v", got.Payload, err)
	}
	for _, taken := range []string{path, filepath.Join(channel.RuntimeDir, "no", "folder")} {
		_, err := channel.Subscribe(inTime(t), msgmux.SinkOptions{Address: taken})
		if err == nil || errors.Is(err, msgmux.ErrNoBroker) || errors.Is(err, msgmux.ErrRefused) {
			t.Errorf("a sink at %s: got %v", taken, err)
		}
	}
	sink.Close()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close the socket is still there: %v", err)
	}
}

// TestRefusedSubscription wants the broker's reason, in a class and as a code, and a socket that does not stay.
func TestRefusedSubscription(t *testing.T) {
	channel := folder(t)
	registrar(t, channel, func(wire.Registration) []byte {
		return wire.Reply{Err: wire.Refuse(wire.CodeQuota, "256 sinks are enough")}.Append(nil)
	})
	path := filepath.Join(channel.RuntimeDir, "mine")
	_, err := channel.Subscribe(inTime(t), msgmux.SinkOptions{Address: path})
	var failed *msgmux.OpError
	if !errors.Is(err, msgmux.ErrRefused) || !errors.As(err, &failed) || failed.Code != "quota" ||
		!strings.Contains(err.Error(), "256 sinks are enough") {
		t.Errorf("got %v (%#v)", err, failed)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// TestOptionsThatNoBrokerTakes never reach one.
func TestOptionsThatNoBrokerTakes(t *testing.T) {
	channel := folder(t)
	came := registrar(t, channel, accept)
	for _, options := range []msgmux.SinkOptions{
		{Label: "a b"}, {Label: "\x1b[31m"}, {Label: strings.Repeat("a", 65)}, {Share: "a/b"}, {Tap: true, Share: "x"},
		{Patience: new(-time.Second)}, {Address: "relative"}, {Address: "@"}, {Address: "/" + strings.Repeat("a", 107)},
	} {
		if _, err := channel.Subscribe(inTime(t), options); !errors.Is(err, msgmux.ErrBadOption) {
			t.Errorf("%+v: got %v", options, err)
		}
	}
	if len(came) > 0 {
		t.Errorf("a registration was sent: %+v", <-came)
	}
}

// TestSubscribeWaitsForTheAnswer has no broker, one that is silent, one whose queue is full, and a stranger who answers.
func TestSubscribeWaitsForTheAnswer(t *testing.T) {
	channel := folder(t)
	if _, err := channel.Subscribe(inTime(t), msgmux.SinkOptions{}); !errors.Is(err, msgmux.ErrNoBroker) {
		t.Errorf("no broker: got %v", err)
	}
	const brief = 4 * shortly
	briefly := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), brief)
		defer cancel()
		_, err := channel.Subscribe(ctx, msgmux.SinkOptions{})
		return err
	}

	silent := bindDatagram(t, channel, "register")
	if err := briefly(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no answer: got %v", err)
	}
	path := filepath.Join(channel.RuntimeDir, "register")
	filler, err := net.Dial("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for filler.SetWriteDeadline(time.Now().Add(shortly)); err == nil; {
		_, err = filler.Write([]byte("filling"))
	}
	cpu := cpuTime(t)
	if err := briefly(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a full queue: got %v", err)
	}
	if used := cpuTime(t) - cpu; used > brief/2 {
		t.Errorf("waiting for %v took %v of CPU time", brief, used)
	}
	silent.Close()

	registering := bindDatagram(t, channel, "register")
	subscribed := make(chan error, 1)
	go func() {
		sink, err := channel.Subscribe(inTime(t), msgmux.SinkOptions{})
		if err == nil && sink.ID() != 7 {
			t.Errorf("the id is %d", sink.ID())
		}
		subscribed <- err
	}()
	text, from := next(t, registering)
	sinkName, _, _ := bytes.Cut(text, []byte("\n"))
	if from == nil || from.Name == string(sinkName) {
		t.Fatalf("the registration of %s came from %v: an answer could not be told from a message", sinkName, from)
	}
	for _, answer := range []string{"", "\xff\x00", "what?", "ok id=7\n"} {
		if _, err := registering.WriteToUnix([]byte(answer), from); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-subscribed; err != nil {
		t.Error(err)
	}
}

// TestReceiveGivesUp ends waits by deadline, by cancel and by Close, and goes on after the first two.
func TestReceiveGivesUp(t *testing.T) {
	channel := folder(t)
	registrar(t, channel, accept)
	sink := subscribe(t, channel, msgmux.SinkOptions{})
	ctx, cancel := context.WithTimeout(context.Background(), shortly)
	defer cancel()
	if _, err := sink.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a deadline: got %v", err)
	}
	ctx, cancel = context.WithCancel(context.Background())
	time.AfterFunc(shortly, cancel)
	if _, err := sink.Receive(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancel: got %v", err)
	}
	deliver(t, sink, "here")
	if _, err := sink.Receive(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that was over before: got %v", err)
	}
	if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != "here" {
		t.Errorf("got %q and %v", got.Payload, err)
	}
	received := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := sink.Receive(context.Background())
			received <- err
		}()
	}
	time.Sleep(shortly)
	sink.Close()
	for range 2 {
		if err := <-received; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Close: got %v", err)
		}
	}
}

// TestEachLendsMessages calls back for every message in order until it is told to stop.
func TestEachLendsMessages(t *testing.T) {
	channel := folder(t)
	registrar(t, channel, accept)
	sink := subscribe(t, channel, msgmux.SinkOptions{})
	messages := []string{"one", "", "three", "left"}
	deliver(t, sink, messages...)
	enough := errors.New("enough")
	var got []string
	err := sink.Each(inTime(t), func(message msgmux.Message) error {
		if got = append(got, string(message.Payload)); len(got) == 3 {
			return enough
		}
		_ = append(message.Payload, "a write behind the slice must not reach the next message"...)
		return nil
	})
	if !errors.Is(err, enough) || !slices.Equal(got, messages[:3]) {
		t.Errorf("got %q and %v", got, err)
	}
	if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != "left" {
		t.Errorf("after Each: got %q and %v", got.Payload, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), shortly)
	defer cancel()
	if err := sink.Each(ctx, func(msgmux.Message) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a deadline: got %v", err)
	}
}

// TestLeaveKeepsWhatHasCome takes a sink out of the channel and reads the rest.
func TestLeaveKeepsWhatHasCome(t *testing.T) {
	channel := folder(t)
	came := registrar(t, channel, accept)
	sink := subscribe(t, channel, msgmux.SinkOptions{})
	<-came
	deliver(t, sink, "rest")
	if err := sink.Leave(inTime(t)); err != nil {
		t.Error(err)
	}
	if got := <-came; !got.Remove {
		t.Errorf("Leave has sent %+v", got)
	}
	if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != "rest" {
		t.Errorf("got %q and %v", got.Payload, err)
	}
	if err := sink.Leave(inTime(t)); err != nil {
		t.Errorf("the second Leave: %v", err)
	}
	sink.Close()
	if len(came) > 0 {
		t.Errorf("the broker was told again: %+v", <-came)
	}
}

// TestCloseDoesNotWaitForAnAbsentBroker closes a sink whose broker is gone, and one whose broker is silent.
func TestCloseDoesNotWaitForAnAbsentBroker(t *testing.T) {
	channel := folder(t)
	for name, replace := range map[string]func(){
		"gone":   func() { os.Remove(filepath.Join(channel.RuntimeDir, "register")) },
		"silent": func() { bindDatagram(t, channel, "register") },
	} {
		registrar(t, channel, accept)
		sink := subscribe(t, channel, msgmux.SinkOptions{})
		replace()
		began := time.Now()
		if err := sink.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s: Close took %v", name, took)
		}
	}
}

// TestEachAllocatesNothing holds for every message after the first.
func TestEachAllocatesNothing(t *testing.T) {
	channel := folder(t)
	registrar(t, channel, accept)
	sink := subscribe(t, channel, msgmux.SinkOptions{})
	conn, err := net.Dial("unixgram", sink.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	message, enough := []byte("a message"), errors.New("enough")
	var allocs float64
	one := func() {
		if _, err := conn.Write(message); err != nil {
			t.Fatal(err)
		}
	}
	one()
	if err := sink.Each(inTime(t), func(msgmux.Message) error {
		// From inside the callback each run would have to wait for the next: count what the whole loop allocates.
		one()
		if allocs++; allocs < 2000 {
			return nil
		}
		return enough
	}); !errors.Is(err, enough) {
		t.Fatal(err)
	}
	n := testing.AllocsPerRun(1, func() {
		seen := 0
		if err := sink.Each(context.Background(), func(msgmux.Message) error {
			one()
			if seen++; seen < 1000 {
				return nil
			}
			return enough
		}); !errors.Is(err, enough) {
			t.Fatal(err)
		}
	})
	if n > 10 {
		t.Errorf("%v allocations for a thousand messages", n)
	}
}
