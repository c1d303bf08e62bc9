// SPDX-License-Identifier: Apache-2.0

// Package msgmux is the Go client of a msgmux broker: it sends messages into a channel, receives every message of a
// channel as a sink, and asks a channel how it is.
//
//	channel, err := msgmux.Locate("", false, "") // the default channel of this host
//	source, err := channel.Dial(ctx)
//	err = source.Send(ctx, []byte("hello"))
//
//	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{Label: "archive"})
//	message, err := sink.Receive(ctx)
//
// A program does not need this package: a source is a connected datagram socket, a sink is a bound one and one line of
// text. What the package adds is the care around that: waiting without spinning when the channel is full, contexts,
// buffers that cut nothing off, errors that can be told apart.
//
// It is not the broker, starts none, and keeps nothing on disk. Everything happens on this host: there is no network.
//
// Every error is an *OpError, and errors.Is finds in it the class of the failure: ErrNoBroker, ErrRefused,
// ErrWouldBlock, ErrTooLarge, ErrNotFound, ErrBadOption, net.ErrClosed, or the error of the context.
package msgmux
