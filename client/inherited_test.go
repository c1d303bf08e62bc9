// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/test"
)

// TestInheritedSocketsArePlain: a datagram is a message, of every size, and an empty one is not the end.
func TestInheritedSocketsArePlain(t *testing.T) {
	sink, far := inherit(t, msgmux.InheritedOptions{})
	sizes := []int{5, 0, 4096, 4097, 300_000, 1, msgmux.MaxMessage, msgmux.MaxMessage + 60_000, 0}
	for _, size := range sizes {
		if size > largest(t) {
			t.Logf("this host makes no datagrams of %d bytes", size)
			continue
		}
		message := strings.Repeat("y", size)
		deliver(t, far, message)
		got, err := sink.Receive(inTime(t))
		if err != nil || string(got.Payload) != message || got.Payload == nil || got.Seq != 0 {
			t.Errorf("%d bytes: got %d, number %d, and %v", size, len(got.Payload), got.Seq, err)
		}
	}
	deliver(t, far, "one", "", "three")
	var got []string
	enough := errors.New("enough")
	if err := each(inTime(t), sink, func(m msgmux.Message) error {
		if got = append(got, string(m.Payload)); len(got) == 3 {
			return enough
		}
		return nil
	}); !errors.Is(err, enough) || !slices.Equal(got, []string{"one", "", "three"}) {
		t.Errorf("got %q and %v", got, err)
	}
	if sink.Label() != "archive" || sink.ID() != 0 || sink.Stats().Lost != 0 {
		t.Errorf("sink %d is %q", sink.ID(), sink.Label())
	}
	if _, err := sink.Status(inTime(t)); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
}

// TestInheritedSocketsWithFrames have numbers, and are told of what is lost while somebody reads.
func TestInheritedSocketsWithFrames(t *testing.T) {
	var gaps []msgmux.Gap
	sink, far := inherit(t, msgmux.InheritedOptions{Frames: true, OnGap: func(g msgmux.Gap) { gaps = append(gaps, g) }})
	deliver(t, far, packetOf(100, 7, "one", ""), packetOf(105, 10, strings.Repeat("z", 100_000)), packetOf(1, 0, "of another ring"))
	for i, want := range []struct {
		seq  uint64
		size int
	}{{100, 3}, {101, 0}, {105, 100_000}, {1, 15}} {
		if got, err := sink.Receive(inTime(t)); err != nil || got.Seq != want.seq || len(got.Payload) != want.size {
			t.Errorf("message %d: got %d bytes, number %d, and %v", i, len(got.Payload), got.Seq, err)
		}
	}
	if want := []msgmux.Gap{{Before: 105, Lost: 3}, {Before: 1, Anew: true}}; !slices.Equal(gaps, want) || sink.Stats().Lost != 3 {
		t.Errorf("lost %d, told %+v", sink.Stats().Lost, gaps)
	}
	for _, wrong := range []string{"a plain message", ""} { // the sink is declared without frames; no end
		deliver(t, far, wrong)
		if got, err := sink.Receive(inTime(t)); err == nil || errors.Is(err, io.EOF) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%q: got %+v and %v", wrong, got, err)
		}
	}
	deliver(t, far, packetOf(2, 0, "good"))
	if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != "good" {
		t.Errorf("got %+v and %v", got, err)
	}
}

// TestLeavingAnInheritedSocket gives what is left of the packet in hand, and takes no other; a Receive that waits ends.
func TestLeavingAnInheritedSocket(t *testing.T) {
	sink, far := inherit(t, msgmux.InheritedOptions{Frames: true})
	deliver(t, far, packetOf(0, 0, "one", "two", "three"), packetOf(3, 0, "four"))
	if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != "one" {
		t.Errorf("got %q and %v", got.Payload, err)
	}
	if err := sink.Leave(inTime(t)); err != nil {
		t.Error(err)
	}
	var left []string
	err := each(inTime(t), sink, func(m msgmux.Message) error {
		left = append(left, string(m.Payload))
		return nil
	})
	if !errors.Is(err, io.EOF) || !slices.Equal(left, []string{"two", "three"}) {
		t.Errorf("got %q and %v", left, err)
	}
	if err := errors.Join(sink.Leave(inTime(t)), sink.Close()); err != nil {
		t.Error(err)
	}
	for i, ctx := range []context.Context{context.Background(), inTime(t)} {
		next, err := msgmux.Inherited("archive", msgmux.InheritedOptions{Frames: true})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := next.Receive(inTime(t)); i == 0 && (err != nil || string(got.Payload) != "four") {
			t.Errorf("then got %q and %v", got.Payload, err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := next.Receive(ctx)
			ended <- err
		}()
		time.Sleep(shortly)
		if err := next.Leave(inTime(t)); err != nil {
			t.Error(err)
		}
		select {
		case err := <-ended:
			if !errors.Is(err, io.EOF) {
				t.Errorf("got %v", err)
			}
		case <-time.After(soon):
			t.Fatal("Receive waits on")
		}
		if _, err := next.Receive(inTime(t)); !errors.Is(err, io.EOF) {
			t.Errorf("later: got %v", err)
		}
		next.Close()
		deliver(t, far, packetOf(4, 0, "five"))
	}
}

// TestInheritedSocketsStay after Close, with what they hold, and can be had again.
func TestInheritedSocketsStay(t *testing.T) {
	sink, far := inherit(t, msgmux.InheritedOptions{})
	deliver(t, far, "one", "two")
	if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != "one" {
		t.Errorf("got %q and %v", got.Payload, err)
	}
	if err := sink.Close(); err != nil {
		t.Error(err)
	}
	if _, err := sink.Receive(inTime(t)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	again, err := msgmux.Inherited("archive", msgmux.InheritedOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got, err := again.Receive(inTime(t)); err != nil || string(got.Payload) != "two" {
		t.Errorf("got %q and %v", got.Payload, err)
	}
}

// TestInheritedSocketsAreFound by the names that a unit gives them, and by no others.
func TestInheritedSocketsAreFound(t *testing.T) {
	for given, names := range map[string][]string{
		"archive":                    {"archive"},
		"archive.socket":             {"archive.socket", "archive"},
		"msgmux-sink@archive.socket": {"msgmux-sink@archive.socket", "msgmux-sink@archive", "archive"},
	} {
		t.Run(given, func(t *testing.T) {
			announce(t, syscall.SOCK_DGRAM, given)
			for _, name := range names {
				sink, err := msgmux.Inherited(name, msgmux.InheritedOptions{})
				if err != nil {
					t.Errorf("%s is not found: %v", name, err)
					continue
				}
				sink.Close()
			}
			for _, name := range []string{"other2", "socket", "chive", ""} {
				if _, err := msgmux.Inherited(name, msgmux.InheritedOptions{}); !errors.Is(err, msgmux.ErrNotFound) {
					t.Errorf("%q: got %v", name, err)
				}
			}
			t.Setenv("LISTEN_PID", "1")
			if _, err := msgmux.Inherited(names[0], msgmux.InheritedOptions{}); !errors.Is(err, msgmux.ErrNotFound) {
				t.Errorf("what is another process's: got %v", err)
			}
		})
	}
	for _, kind := range []int{syscall.SOCK_SEQPACKET, syscall.SOCK_STREAM} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			announce(t, kind, "archive")
			if _, err := msgmux.Inherited("archive", msgmux.InheritedOptions{}); !errors.Is(err, msgmux.ErrBadOption) {
				t.Errorf("got %v", err)
			}
		})
	}
	for _, env := range [][3]string{{"", "", ""}, {"1", "x", "archive"}, {"1", "0", ""}, {"1", "2", "archive"}, {"1", "-1", "archive"}} {
		t.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid()))
		t.Setenv("LISTEN_FDS", env[1])
		t.Setenv("LISTEN_FDNAMES", env[2])
		if _, err := msgmux.Inherited("archive", msgmux.InheritedOptions{}); !errors.Is(err, msgmux.ErrNotFound) {
			t.Errorf("%q: got %v", env, err)
		}
	}
}

// beReader is a program whose service manager gives it the socket "archive": it prints the number in each message, and
// whether anything is known to be missing before it. Word says whether there are frames.
func beReader(ctx context.Context, _ msgmux.Channel, word string) error {
	if err := os.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid())); err != nil { // as a service manager's child does before exec
		return err
	}
	sink, err := msgmux.Inherited("archive", msgmux.InheritedOptions{Frames: word == "frames"})
	if err != nil {
		return err
	}
	for m, err := range sink.Messages(ctx) {
		if err != nil {
			return err
		}
		if err := binary.Write(os.Stdout, binary.LittleEndian, binary.LittleEndian.Uint64(m.Payload)); err != nil {
			return err
		}
	}
	return nil
}

// TestAReaderThatIsKilled on an inherited socket, again and again under load: only what it had in hand is missing, which is
// the message, or the packet, and the broker has lost nothing.
func TestAReaderThatIsKilled(t *testing.T) {
	for _, word := range []string{"plain", "frames"} {
		t.Run(word, func(t *testing.T) { readerIsKilled(t, word) })
	}
}

func readerIsKilled(t *testing.T, word string) {
	options := t.TempDir()
	b := brokertest.Start(t, func(c *broker.Config) { c.OptionsDir = options })
	text := "patience=forever\n"
	if word == "frames" {
		text += "frames=yes\n"
	}
	if err := os.WriteFile(filepath.Join(options, "archive.conf"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	// The service manager's part: it holds the socket all the time.
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(b.Dir, "sinks", "archive"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	file, err := socket.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	channel := msgmux.Channel{RuntimeDir: b.Dir}
	test.Eventually(t, "the sink", func() bool {
		_, sinks, err := channel.Sinks(inTime(t))
		return err == nil && len(sinks) == 1 && sinks[0].State == msgmux.StateReady && sinks[0].Frames == (word == "frames")
	})

	source, ctx := dial(t, channel), t.Context()
	const lives, inBatch = 8, 50
	sent := make(chan uint64, 1)
	stop := make(chan struct{})
	go func() {
		n, batch := uint64(0), source.Batch()
		defer func() { sent <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			for range inBatch {
				if err := batch.Add(ctx, binary.LittleEndian.AppendUint64(nil, n)); err != nil {
					return
				}
				n++
			}
			if batch.Flush(ctx) != nil {
				return
			}
		}
	}()
	next, total, holes := uint64(0), uint64(0), 0
	for life := range lives {
		reader := startReader(t, channel, word, file)
		numbers := make(chan uint64)
		go func() {
			defer close(numbers)
			for n := uint64(0); binary.Read(reader.out, binary.LittleEndian, &n) == nil; {
				numbers <- n
			}
		}()
		last := life == lives-1 // which reads to the end
		if last {
			close(stop)
		}
		for k := 0; last && (total == 0 || next < total) || !last && k < 3000; {
			select {
			case total = <-sent:
			case n, ok := <-numbers:
				if !ok || n < next {
					t.Fatalf("life %d: message %d (%v) came, next is %d of %d", life, n, ok, next, total)
				}
				if n > next {
					// What the one before had taken and not printed: at the death, and nowhere else.
					if holes++; k > 0 {
						t.Errorf("life %d: %d is missing in the middle", life, next)
					}
				}
				next = n + 1
				k++
			}
		}
		reader.signal(t, os.Kill)
		for n := range numbers { // what it had printed
			next = n + 1
		}
		reader.Wait()
		time.Sleep(shortly)
	}
	_, sinks, err := channel.Sinks(inTime(t))
	if err != nil || len(sinks) != 1 || sinks[0].Lost != 0 || sinks[0].Accepted != total || next != total {
		t.Errorf("of %d messages %d came to the end, and the channel says %+v, %v", total, next, sinks, err)
	}
	t.Logf("%d messages, %d lives, %d of them took something with them", total, lives, holes)
}

// startReader starts a reader that is given the socket.
func startReader(t *testing.T, channel msgmux.Channel, word string, socket *os.File) *client {
	t.Helper()
	return startClientWith(t, "reader", channel, word, func(c *client) {
		c.ExtraFiles = []*os.File{socket}
		c.Env = append(c.Env, "LISTEN_FDS=1", "LISTEN_FDNAMES=archive")
	})
}
