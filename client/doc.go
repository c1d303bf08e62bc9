// SPDX-License-Identifier: Apache-2.0

// Package msgmux is the Go client of a msgmux broker: it sends messages into a channel, receives every message of a
// channel as a sink, and asks a channel how it is.
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
// ErrRefused.
//
// A program does not need this package: a source is a connected datagram socket, a sink is a bound one and one line of
// text. What the package adds is speed and care: many messages in one packet both ways (Batch, Messages), which costs a
// tenth or less of a packet for each; waiting without spinning when the channel is full, contexts, buffers that cut nothing
// off, connecting again, what was lost, errors that can be told apart.
//
// # Lives
//
// A restart of the broker under systemd is not noticed. When the channel is stopped and started, a Source connects again by
// itself, and a Sink if SinkOptions.Reconnect says so, where it was if the channel still knows; Retry has both wait for a
// broker that is not there.
//
// What lies unread in a sink is lost when its own process dies, but for two kinds. That of a sink whose socket the service manager
// holds (Inherited) stays in the socket. A sink that is kept (SinkOptions.Keep) goes on behind the last message that it was done
// with, and gets again what it had in hand; if it stores its Position with its results, in one transaction, and says so
// (SinkOptions.From), it has each message exactly once.
//
// A source that was killed does not know what is in the channel, unless it marks what it sends (SourceOptions.Marks, Batch.Mark) with
// how far it has come in its own input: Source.Mark tells that when it is back.
//
// Contexts end every wait at once. All waiting is left to the runtime's poller: what waits keeps no thread and no processor,
// and makes nothing else in the program late.
//
// It is not the broker, starts none, and keeps nothing on disk. Everything happens on this host: there is no network.
//
// # Errors
//
// Every error is an *OpError, and errors.Is finds in it the class of the failure: ErrNoBroker, ErrRefused, ErrHungUp,
// ErrWouldBlock, ErrTooLarge, ErrNotFound, ErrBadOption, net.ErrClosed, errors.ErrUnsupported, io.EOF after Sink.Leave, or
// the error of the context.
//
// # Tests
//
// The package client/brokertest starts a real broker in the process of a test:
//
//	broker := brokertest.Start(t, brokertest.Options{})
//	sink, err := broker.Channel.Subscribe(t.Context(), msgmux.SinkOptions{})
//
// # Compatibility
//
// This package and client/brokertest keep to semantic versioning: what a program uses of them changes with a major version
// only. Types of options and of answers get more fields, and kinds and states more values; so name the fields in literals.
// The other packages of the module promise nothing.
package msgmux
