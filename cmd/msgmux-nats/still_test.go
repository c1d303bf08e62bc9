// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/cmd/msgmux-nats/natstest"
)

// send sends messages in as few packets as they fit into.
func send(t *testing.T, c *channelOn, messages ...[]byte) {
	t.Helper()
	source, err := c.Dial(t.Context(), msgmux.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	batch := source.Batch()
	for _, m := range messages {
		if err := batch.Add(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// bridgeSink is the bridge's sink in a channel.
func bridgeSink(t *testing.T, c *channelOn) (sink msgmux.SinkStatus) {
	t.Helper()
	_, all, err := c.Sinks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range all {
		if one.Label == "nats-site" {
			sink = one
		}
	}
	return sink
}

// TestOutGoesOnBehindLargeMessages that come last, and are fewer than the server acknowledges together: together they are all that may be
// under way, so that nothing more is put behind them.
func TestOutGoesOnBehindLargeMessages(t *testing.T) {
	t.Parallel()
	p := newPair(t, jetstream.StreamConfig{AllowBatchPublish: true})
	p.near = newChannel(t, nil, "--buffer", "64M")
	out := p.out(t)
	eventually(t, "the bridge", func() bool { return joinedTo(t, p.near) })
	const short, long = 16_000, 60
	all := make([][]byte, 0, short+long)
	for n := range short {
		all = append(all, fmt.Appendf(nil, "%d", n))
	}
	for range long {
		all = append(all, make([]byte, 200_000))
	}
	send(t, p.near, all...)
	eventually(t, "all messages", func() bool { return p.length(t) == short+long })
	if said := out.output.String(); strings.Contains(said, "begins again") {
		t.Errorf("it has waited until the server counted as silent:\n%s", said)
	}
}

// TestOneByOneIsAcknowledgedOneByOne where the stream takes no batches: what is stored of a packet counts, also if the rest is not.
func TestOneByOneIsAcknowledgedOneByOne(t *testing.T) {
	t.Parallel()
	p := newPair(t, jetstream.StreamConfig{})
	p.out(t)
	eventually(t, "the bridge", func() bool { return joinedTo(t, p.near) })
	const many = 4000 // fit into one packet
	all := make([][]byte, many)
	for n := range all {
		all[n] = fmt.Appendf(nil, "%d", n)
	}
	send(t, p.near, all...)
	eventually(t, "the first", func() bool { return p.length(t) >= 50 })
	p.server.Kill()
	var accepted uint64
	for deadline := time.Now().Add(10 * time.Second); accepted < 50 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		accepted = bridgeSink(t, p.near).Accepted
	}
	if accepted < 50 || accepted == many {
		t.Errorf("%d of %d are acknowledged to the channel, of which some were stored", accepted, many)
	}
	p.server.Run(t)
	eventually(t, "the rest", func() bool { return p.length(t) == many })
}

// TestLostBeforeTheFirst message of a channel that the stream gets: the stream says that something is missing before it.
func TestLostBeforeTheFirst(t *testing.T) {
	t.Parallel()
	p := newPair(t, jetstream.StreamConfig{AllowBatchPublish: true})
	p.common = []string{"server=" + p.server.URL, "stream=S", "keep=forever", "patience=300ms"}
	p.near = newChannel(t, nil, "--buffer", "1M", "--max-message", "128K")
	other := listen(t, p.near)
	out := p.out(t)
	eventually(t, "the bridge", func() bool { return joinedTo(t, p.near) })
	p.server.Kill()
	const day = 30_000
	say(t, p.near, 0, day)
	eventually(t, "the other sink", func() bool { return other.next.Load() == day })
	p.server.Run(t)
	p.server.Await(t)
	say(t, p.near, day, day+100)
	var sink msgmux.SinkStatus
	eventually(t, "all that is left", func() bool {
		sink = bridgeSink(t, p.near)
		return sink.Lost > 0 && sink.Waiting == 0 && p.ends(t, day+99)
	})
	s, err := p.js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	// What the channel gave up while the bridge had it under way is lost by its count, and in the stream.
	if missing := atoi(t, first.Header.Get("Msgmux-Lost")); missing == 0 || missing > sink.Lost || string(first.Data) != string(message(missing)) {
		t.Errorf("the channel says that %d are lost, and the stream begins with %.20q, before which %d are missing", sink.Lost, first.Data, missing)
	}
	if said := out.output.String(); !strings.Contains(said, "messages are missing in the stream") {
		t.Error("the bridge does not say that messages are missing")
	}
}

// TestNewBeginsOnce with what comes: also if the bridge is killed before anything has come.
func TestNewBeginsOnce(t *testing.T) {
	t.Parallel()
	p := newPair(t, jetstream.StreamConfig{})
	heard := listen(t, p.far)
	publish := func(from, to uint64) {
		t.Helper()
		for n := from; n < to; n++ {
			if _, err := p.js.Publish(t.Context(), "m", message(n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish(100, 110)
	in := p.in(t, "start=new")
	eventually(t, "it begins", func() bool {
		s, err := p.js.Stream(t.Context(), "S")
		return err == nil && s.CachedInfo().State.Consumers > 0
	})
	in.Kill()
	publish(0, 5)
	in.Run()
	eventually(t, "what has come since", func() bool { return heard.next.Load() == 5 || heard.wrong.Load() != nil })
	if wrong := heard.wrong.Load(); wrong != nil {
		t.Error(*wrong)
	}
}

// TestHeadersThatOnlyLookLikeABridgesOwn are for a person, either way.
func TestHeadersThatOnlyLookLikeABridgesOwn(t *testing.T) {
	t.Parallel()
	p := newPair(t, jetstream.StreamConfig{})
	if _, err := p.js.PublishMsg(t.Context(), &nats.Msg{Subject: "m", Header: nats.Header{"Msgmux-Position": {"nonsense"}}}); err != nil {
		t.Fatal(err)
	}
	ends(t, p.in(t), 7, "somebody else has written there", "message 1")
	ends(t, p.out(t), 7, "somebody else has written there")
}

// TestALargeMessageOfTheStream that is larger than what the server sends ahead, and than any channel takes.
func TestALargeMessageOfTheStream(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t, natstest.Options{Config: "max_payload: 16777216\n"})
	conn, err := nats.Connect(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err == nil {
		_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"m"}})
	}
	if err == nil {
		_, err = js.Publish(t.Context(), "m", make([]byte, 9<<20))
	}
	if err != nil {
		t.Fatal(err)
	}
	ends(t, newBridge(t, nil, "in", newChannel(t, nil), "server="+server.URL, "stream=S", "in=m", "writer=far"), 10, "message 1", "too large")
}

// TestEndsWhileItConnects to servers that say nothing.
func TestEndsWhileItConnects(t *testing.T) {
	t.Parallel()
	var urls []string
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		urls = append(urls, "nats://"+l.Addr().String())
	}
	out := newBridge(t, nil, "out", newChannel(t, nil), "server="+strings.Join(urls, ","), "stream=S", "out=m", "writer=near")
	time.Sleep(time.Second) // until it connects
	began := time.Now()
	if status := out.Stop(); status != 0 || time.Since(began) > 3*time.Second {
		t.Errorf("it has ended with status %d after %v", status, time.Since(began))
	}
}

// TestLagWhileTheChannelTakesNothing grows with the stream.
func TestLagWhileTheChannelTakesNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t, jetstream.StreamConfig{})
	folder, err := os.MkdirTemp("", "mm") // t.TempDir is too long for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	settings, socket := filepath.Join(folder, "site.conf"), filepath.Join(folder, "metrics")
	text := strings.Join(append(p.common, "in=m", "writer=far", "channel="+p.far.RuntimeDir), "\n")
	if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	bridge := program(t, "msgmux-nats")
	newProcess(t, "in", func(output io.Writer) (*exec.Cmd, error) {
		cmd := (*host)(nil).command(bridge, "in", settings, "--metrics", socket)
		cmd.Stderr = output
		return cmd, cmd.Start()
	})
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	// metric is what the bridge says, -1 if it says nothing.
	metric := func(name string) (value float64) {
		answer, err := client.Get("http://localhost/metrics")
		if err != nil {
			return -1
		}
		defer answer.Body.Close()
		page, err := io.ReadAll(answer.Body)
		if err != nil {
			return -1
		}
		for line := range strings.Lines(string(page)) {
			if _, rest, ok := strings.Cut(line, "} "); ok && strings.HasPrefix(line, name+"{") {
				if _, err := fmt.Sscan(rest, &value); err == nil {
					return value
				}
			}
		}
		return -1
	}
	publish := func(n int) {
		t.Helper()
		for range n {
			if _, err := p.js.Publish(t.Context(), "m", make([]byte, 10_000)); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "the bridge", func() bool { return metric("msgmux_nats_joined") == 1 })
	// Nobody listens, and so the channel takes what fits into its socket. One at a time, nothing seems to wait.
	const fill = 200
	publish(fill)
	carried := -1.0
	eventually(t, "a channel that takes nothing", func() bool {
		before := carried
		carried = metric("msgmux_nats_messages_total")
		time.Sleep(100 * time.Millisecond)
		return carried > 0 && carried == before
	})
	const more = 300
	publish(more)
	eventually(t, "a lag of all that was not carried", func() bool {
		return metric("msgmux_nats_lag_messages") == fill+more-metric("msgmux_nats_messages_total")
	})
	p.server.Kill()
	eventually(t, "that the server is away", func() bool { return metric("msgmux_nats_joined") == 0 })
}

// TestWhatTheStreamHasRemoved before the channel took it is said.
func TestWhatTheStreamHasRemoved(t *testing.T) {
	t.Parallel()
	p := newPair(t, jetstream.StreamConfig{MaxMsgs: 100})
	in := p.in(t)
	publish := func(n int) {
		t.Helper()
		for range n {
			if _, err := p.js.Publish(t.Context(), "m", make([]byte, 20_000)); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish(1)
	eventually(t, "it begins", func() bool {
		s, err := p.js.Stream(t.Context(), "S")
		return err == nil && s.CachedInfo().State.Consumers > 0
	})
	publish(1500) // more than the server sends ahead, while nobody listens
	listen(t, p.far)
	eventually(t, "it is said", func() bool {
		return strings.Contains(in.output.String(), "the stream has removed messages before they were read")
	})
}

// TestWhatTheWatchdogSends ends it by a signal, and so does a panic. Status 2 is for settings that are wrong: systemd starts nothing again
// after it.
func TestWhatTheWatchdogSends(t *testing.T) {
	t.Parallel()
	out := newBridge(t, nil, "out", newChannel(t, nil), "server=nats://127.0.0.1:1", "stream=S", "out=m", "writer=near")
	eventually(t, "it runs", func() bool { return strings.Contains(out.output.String(), "begins again") })
	if err := out.cmd.Process.Signal(syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	if status := out.Status(); status != -1 { // what os/exec has for the end by a signal
		t.Errorf("it has ended with status %d", status)
	}
}
