// SPDX-License-Identifier: Apache-2.0

// Package msgmux is the Go client of a msgmux broker: it sends messages into a channel, receives every message of a
// channel as a sink, and asks a channel how it is. All of that happens on one host.
//
//	import msgmux "github.com/msgmux/msgmux/client"
//
//	channel, err := msgmux.Default() // this host's
//
//	source, err := channel.Dial(ctx, msgmux.SourceOptions{})
//	err = source.Send(ctx, []byte("hello"))
//
//	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{Label: "archive"})
//	for message, err := range sink.Messages(ctx) {
//		if err != nil {
//			return err // the last turn: ctx is done, or the broker has hung up
//		}
//		store(message.Payload)
//	}
//
// Under systemd, sending is for the members of the group msgmux-send, receiving and asking for those of msgmux; others get
// ErrRefused. A source may also be any datagram socket, and a sink any bound one and a line of text; this package carries
// many messages in one packet (Batch, Messages), connects again, tells what was lost, and knows contexts. They end every
// wait at once; what waits does so in the runtime's poller, and keeps no processor (but see OwnProcessor).
//
// # Restarts and crashes
//
// A restart of the broker under systemd is not noticed. When the channel is stopped and started, a Source connects again by
// itself, and a Sink if SinkOptions.Reconnect says so; with Retry both also wait for a broker that is not there.
//
// What lies unread in a sink is lost when its process dies, unless the service manager holds its socket (Inherited) or its
// place is kept (SinkOptions.Keep): then it goes on behind the last message that it was done with. If it stores its Position
// with its results, in one transaction, and begins there (SinkOptions.From), each message takes effect exactly once. A
// source learns how much of its input is in the channel if it marks what it sends (SourceOptions.Marks).
//
// # Errors
//
// Every error is an *OpError, in which errors.Is finds the class of the failure: one of this package's variables,
// net.ErrClosed, errors.ErrUnsupported, io.EOF after Sink.Leave, or the error of the context.
//
// # Tests
//
// Package client/brokertest starts a real broker in the process of a test:
//
//	broker := brokertest.Start(t, brokertest.Options{})
//	sink, err := broker.Channel.Subscribe(t.Context(), msgmux.SinkOptions{})
//
// # Compatibility
//
// This package and client/brokertest keep to semantic versioning; the module's other packages promise nothing. Types of
// options and of answers get more fields, and kinds and states more values, so name the fields in literals.
package msgmux
