// SPDX-License-Identifier: Apache-2.0

package msgmux_test

// Sources and sinks that are processes of their own, so that one of them can be stopped or killed: this program in
// another role.

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/test"
)

// roleVariable makes this program a client instead of a test: "source FOLDER ROUND", "sink FOLDER PATIENCE"
// and the like; see the functions that begin with "be".
const roleVariable = "MSGMUX_CLIENT_ROLE"

func TestMain(m *testing.M) {
	role := strings.Fields(os.Getenv(roleVariable))
	if len(role) == 0 {
		os.Exit(m.Run())
	}
	channel := msgmux.Channel{RuntimeDir: role[1]}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	roles := map[string]func(context.Context, msgmux.Channel, string) error{"source": beSource, "sink": beSink, "host": beHost, "reader": beReader,
		"crowd": beCrowd}
	if err := roles[role[0]](ctx, channel, role[2]); err != nil {
		fmt.Fprintln(os.Stderr, role, err)
		os.Exit(1)
	}
}

// client is this program in another role.
type client struct {
	*exec.Cmd
	out *bufio.Reader
}

func startClient(t *testing.T, role string, channel msgmux.Channel, word any) *client {
	t.Helper()
	return startClientWith(t, role, channel, word, func(*client) {})
}

// startClientWith is startClient for a client that is prepared before it starts.
func startClientWith(t *testing.T, role string, channel msgmux.Channel, word any, prepare func(*client)) *client {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &client{Cmd: exec.Command(program)}
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %v", roleVariable, role, channel.RuntimeDir, word))
	c.Stderr = t.Output()
	prepare(c)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	return c
}

func (c *client) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := c.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// inPacket is how many messages a packet of beSource has.
const inPacket = 100

// messageOf is message n of a round: u64 round, u64 n, and more bytes. The last one of a round has no more bytes.
func messageOf(b []byte, round, n uint64) {
	binary.LittleEndian.PutUint64(b, round)
	binary.LittleEndian.PutUint64(b[8:], n)
}

// beSource floods with packets, and prints after each how many messages the channel has of it, as a u64. SIGTERM makes
// it send a last message, and end.
func beSource(ctx context.Context, channel msgmux.Channel, word string) error {
	var round uint64
	if _, err := fmt.Sscan(word, &round); err != nil {
		return err
	}
	source, err := channel.Dial(ctx, msgmux.SourceOptions{})
	if err != nil {
		return err
	}
	batch, message := source.Batch(), make([]byte, 256)
	n := uint64(0)
	tell := func() error { return binary.Write(os.Stdout, binary.LittleEndian, n) }
	for ctx.Err() == nil {
		for range inPacket {
			messageOf(message, round, n)
			if err := batch.Add(ctx, message); err != nil {
				return err
			}
			n++
		}
		// Not ctx: what is to be sent is sent, or it would not be known what n is.
		if err := errors.Join(batch.Flush(context.Background()), tell()); err != nil {
			return err
		}
	}
	messageOf(message, round, n)
	n++
	return errors.Join(source.Send(context.Background(), message[:16]), tell())
}

// report is what a sink of beSink has seen by the last message.
type report struct {
	Received uint64
	Wrong    uint64 // messages out of order, or with a number that is not their place
	Missing  uint64 // messages between those that came
	Told     uint64 // messages that OnGap said were lost
	Inexact  uint64 // times that OnGap did not say what was missing there
	Anew     uint64 // times that OnGap said that more may be missing
	Lost     uint64 // what Sink.Lost says
	ID       uint64
}

// beSink receives round 0 to its end, and prints its report.
func beSink(ctx context.Context, channel msgmux.Channel, word string) error {
	patience, err := time.ParseDuration(word)
	if err != nil {
		return err
	}
	var r report
	next, told := uint64(0), uint64(0)
	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{Patience: &patience, OnGap: func(g msgmux.Gap) {
		told += g.Lost
		if g.Before-next != g.Lost {
			r.Inexact++
		}
		if g.Anew {
			r.Anew++
		}
	}})
	if err != nil {
		return err
	}
	err = each(ctx, sink, func(m msgmux.Message) error {
		n := binary.LittleEndian.Uint64(m.Payload[8:])
		if n != m.Seq || n < next {
			r.Wrong++
		}
		r.Received, r.Missing, next = r.Received+1, r.Missing+n-next, n+1
		if len(m.Payload) == 16 {
			return io.EOF
		}
		return nil
	})
	if !errors.Is(err, io.EOF) {
		return err
	}
	r.Told, r.Lost, r.ID = told, sink.Stats().Lost, sink.ID()
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return err
	}
	<-ctx.Done() // the test looks at the status first
	return nil
}

// memory is what a process has of anonymous and of shared memory, in bytes (Pss: the ring is mapped twice).
func memory(t *testing.T, pid int) (anonymous, shared int64) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		switch name, value, _ := strings.Cut(line, ":"); name {
		case "Pss_Anon":
			fmt.Sscan(value, &anonymous)
		case "Pss_Shmem":
			fmt.Sscan(value, &shared)
		}
	}
	return anonymous << 10, shared << 10
}

// TestAStoppedProcess is one of four sinks, each a process as are the source and the broker: the other three lose nothing
// and go on, the broker's memory does not grow, and the one that was stopped is told exactly what it lost.
func TestAStoppedProcess(t *testing.T) {
	channel := folder(t)
	runBroker(t, buildBroker(t), channel, "--buffer", "4M")
	var sinks []*client
	for _, patience := range []string{"10s", "10s", "10s", "1s"} {
		sinks = append(sinks, startClient(t, "sink", channel, patience))
	}
	stopped := sinks[3]
	status := func() (msgmux.Status, []msgmux.SinkStatus) {
		status, sinks, err := channel.Sinks(inTime(t))
		if err != nil {
			t.Fatal(err)
		}
		return status, sinks
	}
	test.Eventually(t, "the sinks", func() bool { s, _ := status(); return s.Sinks.Total == len(sinks) })
	source := startClient(t, "source", channel, 0)
	sent := make(chan uint64, 1)
	go func() { // what it tells last
		n := uint64(0)
		for binary.Read(source.out, binary.LittleEndian, &n) == nil {
		}
		sent <- n
	}()
	began, _ := status()
	// enters waits until the ring has been filled so many times more, and says how many messages that are a second.
	enters := func(times uint64) float64 {
		from, _ := status()
		since := time.Now()
		for to := from; ; time.Sleep(10 * time.Millisecond) {
			if to, _ = status(); to.EnteredBytes-from.EnteredBytes > times*to.Buffer {
				return float64(to.Entered-from.Entered) / time.Since(since).Seconds()
			}
			if time.Since(since) > 60*time.Second {
				t.Fatalf("only %d bytes entered", to.EnteredBytes-from.EnteredBytes)
			}
		}
	}
	before := enters(10)
	anonymous, shared := memory(t, began.PID)
	stopped.signal(t, syscall.SIGSTOP)
	test.Eventually(t, "the stopped one is left behind", func() bool { s, _ := status(); return s.Sinks.Lagging == 1 })
	after := enters(20)
	anonymousAfter, sharedAfter := memory(t, began.PID)
	t.Logf("%.0f messages/s with all, %.0f with one left behind; anonymous memory %d KiB, then %d, shared %d, then %d",
		before, after, anonymous>>10, anonymousAfter>>10, shared>>10, sharedAfter>>10)
	// The ring, what a receive may take, and the 12 MiB that a Go program may have beside them.
	if most := int64(4+16+12) << 20; sharedAfter != shared || anonymousAfter+sharedAfter > most {
		t.Errorf("shared memory was %d, and is %d; with %d others at most %d are due", shared, sharedAfter, anonymousAfter, most)
	}

	source.signal(t, syscall.SIGTERM)
	total := <-sent
	stopped.signal(t, syscall.SIGCONT)
	for i, c := range sinks {
		var r report
		if err := json.NewDecoder(c.out).Decode(&r); err != nil {
			t.Fatalf("sink %d: %v", i, err)
		}
		_, listed := status()
		at := slices.IndexFunc(listed, func(s msgmux.SinkStatus) bool { return s.ID == r.ID })
		if at < 0 || listed[at].Lost != r.Lost || listed[at].Accepted != r.Received {
			t.Errorf("sink %d: %+v, and the channel says %+v", i, r, listed)
		}
		if r.Received+r.Lost != total || r.Wrong+r.Anew+r.Inexact != 0 || r.Missing != r.Lost || r.Told != r.Lost || c == stopped != (r.Lost > 0) {
			t.Errorf("sink %d: %+v; %d were sent", i, r, total)
		}
		if c == stopped {
			t.Logf("of %d messages the stopped one lost %d", total, r.Lost)
		}
	}
}

// TestASourceThatIsKilled in the middle of a flood: each of its packets is wholly in, or not at all, and those that Flush
// returned for are in. Others are not disturbed.
func TestASourceThatIsKilled(t *testing.T) {
	const rounds = 12
	channel := realChannel(t)
	sink := subscribe(t, channel, msgmux.SinkOptions{Patience: new(msgmux.Forever)})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	var arrived [rounds + 1]uint64 // messages of each; the last one is the calm one's
	ended := make(chan error, 1)
	go func() {
		ended <- each(ctx, sink, func(m msgmux.Message) error {
			round, n := binary.LittleEndian.Uint64(m.Payload), binary.LittleEndian.Uint64(m.Payload[8:])
			mu.Lock()
			defer mu.Unlock()
			if n != arrived[round] {
				t.Errorf("source %d: message %d came where %d was to come", round, n, arrived[round])
			}
			arrived[round] = n + 1
			return nil
		})
	}()
	source := dial(t, channel)
	var told [rounds + 1]uint64
	for round := range uint64(rounds) {
		killed := startClient(t, "source", channel, round)
		most := 1 + rand.Uint64N(200)*inPacket
		for told[round] < most {
			if err := binary.Read(killed.out, binary.LittleEndian, &told[round]); err != nil {
				t.Fatal(err)
			}
		}
		killed.signal(t, syscall.SIGKILL)
		calm := make([]byte, 20)
		messageOf(calm, rounds, round)
		if err := source.Send(ctx, calm); err != nil {
			t.Fatal(err)
		}
		told[rounds]++
		for binary.Read(killed.out, binary.LittleEndian, &told[round]) == nil {
		}
	}
	// Of each there may be a packet more than it lived to tell of.
	var got [rounds + 1]uint64
	test.Eventually(t, "whole packets, all that the sources told of, and nothing under way", func() bool {
		status, err := channel.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		got = arrived
		sum, whole := uint64(0), true
		for round, n := range got {
			sum += n
			whole = whole && n >= told[round] && (round == rounds || n%inPacket == 0)
		}
		return whole && sum == status.Entered
	})
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the sink: %v", err)
	}
	for round, n := range got[:rounds] {
		if n > told[round]+inPacket {
			t.Errorf("source %d: %d messages came, and it told of %d", round, n, told[round])
		}
	}
}
