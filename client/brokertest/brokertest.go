// SPDX-License-Identifier: Apache-2.0

// Package brokertest starts a real broker for the tests of programs that use the client: the program msgmuxd itself, in
// the process of the test, with sockets in a temporary folder. Nothing is mocked, so what holds here holds outside.
//
//	func TestArchive(t *testing.T) {
//		broker := brokertest.Start(t, brokertest.Options{}) // ends with the test
//		sink, err := broker.Channel.Subscribe(t.Context(), msgmux.SinkOptions{Label: "archive"})
//		if err != nil {
//			t.Fatal(err)
//		}
//		defer sink.Close()
//		source, err := broker.Channel.Dial(t.Context(), msgmux.SourceOptions{})
//		if err != nil {
//			t.Fatal(err)
//		}
//		defer source.Close()
//		if err := source.Send(t.Context(), []byte("hello")); err != nil {
//			t.Fatal(err)
//		}
//		if message, err := sink.Receive(t.Context()); err != nil || string(message.Payload) != "hello" {
//			t.Errorf("got %q and %v", message.Payload, err)
//		}
//	}
//
// A program that finds its channel by msgmux.Default is given it with
// t.Setenv(msgmux.EnvRuntimeDir, broker.Channel.RuntimeDir).
//
// What only a service manager can do is missing: a broker that is stopped here takes its messages with it. While a broker
// runs, GOMAXPROCS is higher by one, for the processor that it would have in a process of its own.
//
// Compatibility is promised as for the client: it changes with a major version only.
package brokertest

import (
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	msgmux "github.com/msgmux/msgmux/client"
)

// Options say what a broker is like. The zero value is good: a small one.
type Options struct {
	RuntimeDir string        // where its sockets are; "" is a temporary folder, which goes with the broker
	Buffer     int           // the size of the ring in bytes, a power of two; 0 is 1 MiB
	MaxMessage int           // the largest message in bytes; 0 is 256 KiB
	MaxSinks   int           // how many sinks there may be, and how many sources; 0 is 32
	Patience   time.Duration // how long a sink is waited for that does not say; 0 is 1 s
}

// Broker is a broker that runs.
type Broker struct {
	Channel msgmux.Channel

	broker    *brokertest.Broker
	temporary string
}

// Start starts a broker that ends with the test, to whose output it logs. If that fails, the test does.
func Start(t testing.TB, options Options) *Broker {
	t.Helper()
	b, err := start(options, slog.NewTextHandler(t.Output(), nil))
	if err != nil {
		t.Fatalf("cannot start a broker: %v", err)
	}
	t.Cleanup(b.Stop)
	return b
}

// Run starts a broker outside of a test, as in an Example or a TestMain. It runs until Stop is called, and logs nothing.
func Run(options Options) (*Broker, error) { return start(options, slog.DiscardHandler) }

func start(o Options, log slog.Handler) (*Broker, error) {
	dir, temporary := o.RuntimeDir, ""
	if dir == "" {
		// Not t.TempDir: its paths are too long for a socket.
		var err error
		if temporary, err = os.MkdirTemp("", "mm"); err != nil {
			return nil, err
		}
		dir = temporary
	}
	b, err := brokertest.Run(dir, log, func(c *broker.Config) {
		set(&c.Geometry.Size, o.Buffer)
		set(&c.Geometry.MaxMessage, o.MaxMessage)
		set(&c.Geometry.MaxSinks, o.MaxSinks)
		set(&c.Geometry.MaxClients, o.MaxSinks)
		set(&c.SinksPerUser, o.MaxSinks)
		set(&c.Patience, o.Patience)
		c.QueueTotal = max(c.QueueTotal, c.Geometry.MaxSinks*c.QueueBytes())
	})
	if err != nil {
		_ = os.RemoveAll(temporary) // of "" nothing
		return nil, err
	}
	return &Broker{Channel: msgmux.Channel{RuntimeDir: dir}, broker: b, temporary: temporary}, nil
}

// set sets what was asked for.
func set[T, From int | uint64 | time.Duration](to *T, from From) {
	if from != 0 {
		*to = T(from)
	}
}

// Stop ends the broker and waits until it is gone, as stopping the channel does: sinks and sources are disconnected, and
// what no sink has had is gone. Another one may be started in the same RuntimeDir. A second call does nothing.
func (b *Broker) Stop() {
	b.broker.Stop()
	_ = os.RemoveAll(b.temporary)
}
