// SPDX-License-Identifier: Apache-2.0

package msgmux_test

// What a program can learn of its sources and sinks: counts, events, limits, names.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/test"
)

// notes is a logger's output, to be read while it is written.
type notes struct{ test.Output }

// has says whether there is a line with all these words.
func (n *notes) has(words ...string) bool {
	for line := range strings.Lines(n.String()) {
		missing := false
		for _, word := range words {
			missing = missing || !strings.Contains(line, word)
		}
		if !missing {
			return true
		}
	}
	return false
}

func (n *notes) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(n, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// TestSourcesCount what they send, in every way of sending, how often they connect again and how long they wait.
func TestSourcesCount(t *testing.T) {
	channel := folder(t)
	listener := listen(t, channel, "publish")
	source, broker := dialledWith(t, channel, listener, msgmux.SourceOptions{}, "ok id=7 max-message=1000\n")
	want := func(messages, bytes, reconnects uint64) {
		t.Helper()
		if got := source.Stats(); got.Messages != messages || got.Bytes != bytes || got.Reconnects != reconnects {
			t.Errorf("counts %+v, want %d messages, %d bytes, %d reconnects", got, messages, bytes, reconnects)
		}
	}
	if source.MaxMessage() != 1000 {
		t.Errorf("the channel takes %d bytes", source.MaxMessage())
	}
	want(0, 0, 0)
	if err := errors.Join(source.Send(inTime(t), []byte("12345")), source.TrySend(nil)); err != nil {
		t.Fatal(err)
	}
	want(2, 5, 0)
	if err := source.Send(inTime(t), make([]byte, 1001)); !errors.Is(err, msgmux.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	want(2, 5, 0)
	batch := source.Batch()
	if err := errors.Join(batch.Add(inTime(t), []byte("abc")), batch.Add(inTime(t), nil), batch.Add(inTime(t), []byte("de"))); err != nil {
		t.Fatal(err)
	}
	want(2, 5, 0)
	if err := batch.Flush(inTime(t)); err != nil {
		t.Fatal(err)
	}
	want(5, 10, 0)
	broker.Close()
	sent := make(chan error, 1)
	go func() { sent <- source.Send(inTime(t), []byte("again")) }()
	broker = admit(t, listener, "ok id=8 max-message=2000\n")
	if err := <-sent; err != nil {
		t.Error(err)
	}
	want(6, 15, 1)
	if source.MaxMessage() != 2000 {
		t.Errorf("then the channel takes %d bytes", source.MaxMessage())
	}

	n := uint64(0)
	for ; source.TrySend([]byte("x")) == nil; n++ {
	}
	want(6+n, 15+n, 1)
	before := source.Stats().Blocked
	go func() { sent <- source.Send(inTime(t), []byte("x")) }()
	test.Eventually(t, "the wait shows while it lasts", func() bool { return source.Stats().Blocked > before })
	time.Sleep(shortly)
	broker.packet(t)
	for len(sent) == 0 {
		broker.packet(t)
	}
	during := source.Stats().Blocked
	time.Sleep(shortly)
	if after := source.Stats().Blocked; during-before < shortly || after != during {
		t.Errorf("was blocked for %v before, %v then, and %v later", before, during, after)
	}

	plain := bindDatagram(t, channel, "source")
	datagrams, err := channel.Dial(inTime(t), msgmux.SourceOptions{Datagrams: true})
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	batch = datagrams.Batch()
	if err := errors.Join(batch.Add(inTime(t), []byte("abc")), batch.Add(inTime(t), nil), batch.Flush(inTime(t))); err != nil {
		t.Fatal(err)
	}
	next(t, plain)
	if got := datagrams.Stats(); got.Messages != 2 || got.Bytes != 3 || datagrams.MaxMessage() != 0 {
		t.Errorf("datagrams: %+v, at most %d bytes", got, datagrams.MaxMessage())
	}
}

// TestSinksCount what comes, what does not, and how often they connect again; and their logger hears of it.
func TestSinksCount(t *testing.T) {
	channel := folder(t)
	listener := listen(t, channel, "subscribe")
	var log notes
	sink, broker := subscribed(t, channel, listener, msgmux.SinkOptions{Reconnect: true, Logger: log.logger()})
	broker.deliver(t, 0, 0, "12345", "", "67")
	broker.deliver(t, 7, 4, "8")
	for range 4 {
		if _, err := sink.Receive(inTime(t)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := sink.Stats(), (msgmux.SinkStats{Messages: 4, Bytes: 8, Lost: 4, Gaps: 1}); got != want {
		t.Errorf("got %+v", got)
	}
	if !log.has("level=DEBUG", "subscribed", "subscribe") || !log.has("level=WARN", "missing", "before=7", "lost=4", "anew=false") {
		t.Errorf("the log has %s", log.String())
	}
	broker.Close()
	received := make(chan error, 1)
	go func() {
		_, err := sink.Receive(inTime(t))
		received <- err
	}()
	admit(t, listener, "ok id=9\n").deliver(t, 3, 0, "anew")
	if err := <-received; err != nil {
		t.Error(err)
	}
	if got, want := sink.Stats(), (msgmux.SinkStats{Messages: 5, Bytes: 12, Lost: 4, Gaps: 2, Reconnects: 1}); got != want {
		t.Errorf("got %+v", got)
	}
	if !log.has("level=WARN", "hung up") || !log.has("level=INFO", "subscribed again") || !log.has("level=WARN", "anew=true") {
		t.Errorf("the log has %s", log.String())
	}

	inherited, far := inherit(t, msgmux.InheritedOptions{Logger: log.logger()})
	deliver(t, far, "abc", "")
	for range 2 {
		if _, err := inherited.Receive(inTime(t)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := inherited.Stats(), (msgmux.SinkStats{Messages: 2, Bytes: 3}); got != want || !log.has("inherited", "archive") {
		t.Errorf("got %+v, and the log has %s", got, log.String())
	}
}

// TestSinksKnowTheirNameAndLag from the broker.
func TestSinksKnowTheirNameAndLag(t *testing.T) {
	channel := realChannel(t)
	first, second := subscribe(t, channel, msgmux.SinkOptions{Label: "db"}), subscribe(t, channel, msgmux.SinkOptions{Label: "db"})
	if first.Label() != "db" || second.Label() != "db-2" {
		t.Errorf("they are %q and %q", first.Label(), second.Label())
	}
	source := dial(t, channel)
	if err := source.Send(inTime(t), []byte("x")); err != nil {
		t.Fatal(err)
	}
	test.Eventually(t, "the delivery", func() bool {
		status, err := second.Status(inTime(t))
		return err == nil && status.Accepted == 1 && status.Waiting == 0 && status.ID == second.ID() && status.Label == "db-2" &&
			status.Kind == msgmux.KindFramed && status.State == msgmux.StateReady && status.Patience == time.Second &&
			time.Since(status.Since) < time.Minute && status.LaggingSince.IsZero()
	})
	second.Close()
	test.Eventually(t, "the end", func() bool {
		_, err := second.Status(inTime(t))
		return errors.Is(err, msgmux.ErrNotFound)
	})
	if source.MaxMessage() != 256<<10 {
		t.Errorf("the channel takes %d bytes", source.MaxMessage())
	}
}

// TestRetryWaitsForABroker at the first connect, of both kinds, and of a source at each later one; without it there is an
// error at once.
func TestRetryWaitsForABroker(t *testing.T) {
	t.Parallel() // it mostly waits
	channel := folder(t)
	var log notes
	type dialling struct {
		source *msgmux.Source
		err    error
	}
	dialled, subscribed := make(chan dialling, 1), make(chan *msgmux.Sink, 1)
	go func() {
		source, err := channel.Dial(t.Context(), msgmux.SourceOptions{Retry: true, Logger: log.logger()})
		dialled <- dialling{source, err}
	}()
	go func() {
		sink, err := channel.Subscribe(t.Context(), msgmux.SinkOptions{Retry: true, Logger: log.logger()})
		if err != nil {
			t.Error(err)
		}
		subscribed <- sink
	}()
	test.Eventually(t, "they say that they wait", func() bool {
		return log.has("level=WARN", "waiting for a broker") && log.has("level=WARN", "cannot subscribe yet", "no broker")
	})
	program := buildBroker(t)
	stop := runBroker(t, program, channel)
	d, sink := <-dialled, <-subscribed
	if d.err != nil || sink == nil {
		t.Fatal(d.err)
	}
	defer d.source.Close()
	defer sink.Close()
	if err := d.source.Send(inTime(t), []byte("hello")); err != nil {
		t.Error(err)
	}
	if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != "hello" {
		t.Errorf("got %q and %v", got.Payload, err)
	}
	stop()
	sent := make(chan error, 1)
	go func() { sent <- d.source.Send(t.Context(), []byte("meanwhile")) }()
	test.Eventually(t, "it says that its broker has gone", func() bool { return log.has("level=WARN", "the broker has gone") })
	brief, cancel := context.WithTimeout(context.Background(), shortly)
	defer cancel()
	if err := d.source.Send(brief, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beside it: got %v", err)
	}
	defer runBroker(t, program, channel)()
	if err := <-sent; err != nil || d.source.Stats().Reconnects != 1 || !log.has("level=INFO", "connected again") {
		t.Errorf("got %v after %d reconnects; the log has %s", err, d.source.Stats().Reconnects, log.String())
	}

	absent := folder(t)
	for _, retry := range []bool{false, true} {
		ctx, cancel := context.WithTimeout(context.Background(), shortly)
		defer cancel()
		want := msgmux.ErrNoBroker
		if retry {
			want = context.DeadlineExceeded
		}
		if _, err := absent.Dial(ctx, msgmux.SourceOptions{Retry: retry}); !errors.Is(err, want) {
			t.Errorf("retry %v: got %v", retry, err)
		}
		if _, err := absent.Subscribe(ctx, msgmux.SinkOptions{Retry: retry}); !errors.Is(err, want) {
			t.Errorf("retry %v: got %v", retry, err)
		}
	}
	// What will not pass is not tried again.
	listener := listen(t, absent, "subscribe")
	go func() { admit(t, listener, "error denied go away\n").Close() }()
	if _, err := absent.Subscribe(inTime(t), msgmux.SinkOptions{Retry: true}); !errors.Is(err, msgmux.ErrRefused) {
		t.Errorf("got %v", err)
	}
}

// TestWritersSendWhatTheyAreGiven as one message each time: from log, from slog and from io.Copy.
func TestWritersSendWhatTheyAreGiven(t *testing.T) {
	channel := realChannel(t)
	sink, source := subscribe(t, channel, msgmux.SinkOptions{}), dial(t, channel)
	out := source.Writer(inTime(t))
	log.New(out, "app: ", 0).Print("started")
	slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})).Info("well", "n", 7)
	if n, err := io.Copy(out, strings.NewReader("bytes \x00\xff")); n != 8 || err != nil {
		t.Errorf("copied %d and %v", n, err)
	}
	if n, err := out.Write(nil); n != 0 || err != nil {
		t.Errorf("wrote %d and %v", n, err)
	}
	if n, err := out.Write(make([]byte, 300<<10)); n != 0 || !errors.Is(err, msgmux.ErrTooLarge) {
		t.Errorf("wrote %d and %v", n, err)
	}
	for _, want := range []string{"app: started\n", "level=INFO msg=well n=7\n", "bytes \x00\xff", ""} {
		if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != want {
			t.Errorf("got %q and %v, want %q", got.Payload, err, want)
		}
	}
}

// TestClosedIsClosed although messages are there, and the zero values are as if closed.
func TestClosedIsClosed(t *testing.T) {
	channel := folder(t)
	sink, broker := subscribed(t, channel, listen(t, channel, "subscribe"), msgmux.SinkOptions{})
	broker.deliver(t, 0, 0, "one", "two", "three")
	if _, err := sink.Receive(inTime(t)); err != nil {
		t.Fatal(err)
	}
	sink.Close()
	var zero msgmux.Sink
	for _, sink := range []*msgmux.Sink{sink, &zero} {
		if m, err := sink.Receive(inTime(t)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Receive: got %+v and %v", m, err)
		}
		if err := each(inTime(t), sink, func(msgmux.Message) error { return nil }); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Messages: got %v", err)
		}
		if err := sink.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Close: got %v", err)
		}
		if err := sink.Leave(inTime(t)); err != nil {
			t.Errorf("Leave: got %v", err)
		}
		_, _ = sink.ID(), sink.Label()
	}
	var source msgmux.Source
	batch, none := source.Batch(), msgmux.Batch{}
	if err := batch.Add(inTime(t), []byte("x")); err != nil {
		t.Error(err)
	}
	for i, err := range []error{
		source.Send(inTime(t), nil), source.TrySend(nil), source.Close(), batch.Flush(inTime(t)), batch.TryFlush(), none.Add(inTime(t), nil),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("the zero Source, call %d: got %v", i, err)
		}
	}
	if source.Stats() != (msgmux.SourceStats{}) || zero.Stats() != (msgmux.SinkStats{}) || source.MaxMessage() != 0 {
		t.Error("zero values count")
	}
	if _, err := zero.Status(inTime(t)); !errors.Is(err, msgmux.ErrBadOption) {
		t.Errorf("got %v", err)
	}
	if _, err := (msgmux.Channel{}).Dial(inTime(t), msgmux.SourceOptions{Retry: true}); !errors.Is(err, msgmux.ErrBadOption) {
		t.Errorf("got %v", err)
	}
}

// TestControlCarriesWhatIsAsked as it is, and tells refusals.
func TestControlCarriesWhatIsAsked(t *testing.T) {
	channel := realChannel(t)
	text, err := channel.Control(inTime(t), []byte(`{"op":"status"}`))
	if err != nil || !bytes.Contains(text, []byte(`"pid":`)) {
		t.Errorf("got %q and %v", text, err)
	}
	failed := new(msgmux.OpError)
	if _, err = channel.Control(inTime(t), []byte(`{"op":"dance"}`)); !errors.As(err, &failed) || failed.Code == "" {
		t.Errorf("got %v", err)
	}
	if err := os.Remove(filepath.Join(channel.RuntimeDir, "control")); err != nil {
		t.Fatal(err)
	}
	if _, err := channel.Control(inTime(t), []byte(`{"op":"status"}`)); !errors.Is(err, msgmux.ErrNoBroker) {
		t.Errorf("got %v", err)
	}
}
