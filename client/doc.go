// SPDX-License-Identifier: Apache-2.0

// Package msgmux is the Go client of a msgmux broker: it sends messages into a channel, receives every message of a
// channel as a sink, and asks a channel how it is.
//
//	import msgmux "github.com/msgmux/msgmux/client"
//
//	channel, err := msgmux.Locate("", false, "") // the default channel of this host
//	source, err := channel.Dial(ctx)
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
// text. What the package adds is speed and care: many messages in one packet both ways (Batch, Each), which costs a tenth
// or less of a packet for each; waiting without spinning when the channel is full, contexts, buffers that cut nothing
// off, connecting again, what was lost, errors that can be told apart.
//
// A Source that connected keeps its connection over restarts of the broker, and finds a channel that was stopped and
// started; a Sink does the latter if SinkOptions.Reconnect says so. Contexts end every wait
// at once. All waiting is left to the runtime's poller: what waits keeps no thread and no processor.
//
// It is not the broker, starts none, and keeps nothing on disk. Everything happens on this host: there is no network.
// For tests, broker/brokertest starts a real broker in the process of the test:
//
//	channel := msgmux.Channel{RuntimeDir: brokertest.Start(t).Dir}
//
// Every error is an *OpError, or one of a callback's own, and errors.Is finds in it the class of the failure:
// ErrNoBroker, ErrRefused, ErrHungUp, ErrWouldBlock, ErrTooLarge, ErrNotFound, ErrBadOption, net.ErrClosed, io.EOF after
// Sink.Leave, or the error of the context.
package msgmux
