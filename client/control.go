// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// What a channel says about itself. The fields are those of the control socket's JSON; later versions only add some.
type (
	Status     = wire.Status
	SinkStatus = wire.Sink
)

// Settings are what can be changed of a sink that is there; nil leaves a thing as it is.
type Settings struct {
	Patience *time.Duration // Forever, or how long the channel waits for the sink
}

// Status asks the channel how it is. Who may ask is a matter of the control socket's mode.
func (c Channel) Status(ctx context.Context) (Status, error) {
	answer, err := c.ask(ctx, "read the status", wire.Request{Op: wire.OpStatus})
	if err != nil {
		return Status{}, err
	}
	return *answer.Status, nil
}

// List is Status with every sink.
func (c Channel) List(ctx context.Context) (Status, []SinkStatus, error) {
	answer, err := c.ask(ctx, "list the sinks", wire.Request{Op: wire.OpList})
	if err != nil {
		return Status{}, nil, err
	}
	return *answer.Status, answer.Sinks, nil
}

// Drop removes a sink, named by its label or by "#ID". It is for root, the broker's user and the sink's owner. A sink that
// is a connection is hung up on (ErrHungUp); one that is a datagram socket is not told, nothing reaches it any more.
func (c Channel) Drop(ctx context.Context, sink string) error {
	_, err := c.ask(ctx, "drop the sink", wire.Request{Op: wire.OpDrop, Sink: sink})
	return err
}

// Set changes a sink, named by its label or by "#ID"; allowed are those who may drop it.
func (c Channel) Set(ctx context.Context, sink string, settings Settings) error {
	const op = "set the sink"
	if settings.Patience == nil {
		return badOption(op, "nothing to set")
	}
	if *settings.Patience < 0 {
		return badOption(op, "the patience %v is negative", *settings.Patience)
	}
	_, err := c.ask(ctx, op, wire.Request{Op: wire.OpSet, Sink: sink, Patience: wire.FormatPatience(*settings.Patience)})
	return err
}

// maxAnswer bounds what is read of one answer, in bytes: some thirty times what 4,096 sinks need.
const maxAnswer = 64 << 20

// maxAnswerPacket is above every packet that a socket sends with the kernel's default buffer (212,992 bytes).
const maxAnswerPacket = 256 << 10

// ask sends one request on a connection of its own and reads the answer, which the end of the connection ends.
func (c Channel) ask(ctx context.Context, op string, request wire.Request) (wire.Answer, error) {
	var answer wire.Answer
	path, err := c.socket(op, socketControl)
	if err != nil {
		return answer, err
	}
	text, err := c.exchange(ctx, path, request)
	if err == nil {
		if err = json.Unmarshal(text, &answer); err != nil {
			err = fmt.Errorf("cannot read the answer: %w", err)
		}
	}
	wantsStatus := request.Op == wire.OpStatus || request.Op == wire.OpList
	switch {
	case err != nil:
	case answer.Error != nil:
		err = answer.Error
	case !answer.OK || wantsStatus && answer.Status == nil:
		err = errors.New("the answer says nothing")
	}
	return answer, opError(op, path, err)
}

// exchange returns the bytes of the answer.
func (c Channel) exchange(ctx context.Context, path string, request wire.Request) ([]byte, error) {
	text, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	conn, err := dialPacket(ctx, path)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	release := interrupt(ctx, conn.SetDeadline)
	defer release()
	if _, err := conn.Write(text); err != nil {
		return nil, orContext(ctx, err)
	}
	var answer []byte
	packet := make([]byte, maxAnswerPacket)
	for {
		n, _, flags, _, err := conn.ReadMsgUnix(packet, nil)
		switch {
		case errors.Is(err, io.EOF) || err == nil && n == 0:
			return answer, nil
		case err != nil:
			return nil, orContext(ctx, err)
		case flags&syscall.MSG_TRUNC != 0 || len(answer)+n > maxAnswer:
			return nil, fmt.Errorf("the answer has more than %d bytes", len(answer)+n)
		}
		answer = append(answer, packet[:n]...)
	}
}

// dialPacket connects to a SOCK_SEQPACKET socket. While as many connections wait to be accepted as the listener allows,
// connect(2) says EAGAIN, and there is no event to wait for: try again until ctx is done.
func dialPacket(ctx context.Context, path string) (*net.UnixConn, error) {
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "unixpacket", path)
		if err == nil {
			return conn.(*net.UnixConn), nil
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, err
		}
		if err := sleep(ctx, retryAfter); err != nil {
			return nil, err
		}
	}
}
