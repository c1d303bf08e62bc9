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

// Status asks the channel how it is. Who may ask is a matter of the control socket's mode.
func (c Channel) Status(ctx context.Context) (Status, error) {
	answer, err := c.ask(ctx, "read the status", wire.Request{Op: wire.OpStatus})
	if err != nil {
		return Status{}, err
	}
	return status(answer.Status), nil
}

// Sinks is Status with every sink, at the same moment.
func (c Channel) Sinks(ctx context.Context) (Status, []SinkStatus, error) {
	answer, err := c.ask(ctx, "list the sinks", wire.Request{Op: wire.OpList})
	if err != nil {
		return Status{}, nil, err
	}
	var sinks []SinkStatus
	for _, sink := range answer.Sinks {
		sinks = append(sinks, sinkStatus(sink))
	}
	return status(answer.Status), sinks, nil
}

// Drop removes a sink, named by its label or by "#ID". It is for root, the broker's user and the sink's owner. A sink that
// is a connection ends with ErrHungUp; a datagram socket is not told.
func (c Channel) Drop(ctx context.Context, sink string) error {
	_, err := c.ask(ctx, "drop the sink", wire.Request{Op: wire.OpDrop, Sink: sink})
	return err
}

// SetPatience changes how long the channel waits for a sink, named as for Drop and by who may Drop it; Forever is without
// end.
func (c Channel) SetPatience(ctx context.Context, sink string, patience time.Duration) error {
	const op = "set the sink"
	if patience < 0 {
		return badOption(op, "the patience %v is negative", patience)
	}
	_, err := c.ask(ctx, op, wire.Request{Op: wire.OpSet, Sink: sink, Patience: wire.FormatPatience(patience)})
	return err
}

// Control sends any request to the control socket and returns the answer, both JSON as docs/protocol.md has them. A refusal
// is an error.
func (c Channel) Control(ctx context.Context, request []byte) (answer []byte, err error) {
	_, answer, err = c.exchange(ctx, "ask the channel", request)
	return answer, err
}

// maxAnswer bounds what is read of one answer, in bytes: some thirty times what 4,096 sinks need.
const maxAnswer = 64 << 20

// maxAnswerPacket is above every packet that a socket sends with the kernel's default buffer (212,992 bytes).
const maxAnswerPacket = 256 << 10

// ask sends one request and returns the answer, in which is what was asked for.
func (c Channel) ask(ctx context.Context, op string, request wire.Request) (wire.Answer, error) {
	text, err := json.Marshal(request)
	if err != nil {
		return wire.Answer{}, opError(op, "", err)
	}
	answer, _, err := c.exchange(ctx, op, text)
	if wants := request.Op == wire.OpStatus || request.Op == wire.OpList; err == nil && wants && answer.Status == nil {
		err = opError(op, c.RuntimeDir, errNoAnswer)
	}
	return answer, err
}

var errNoAnswer = errors.New("the answer is empty")

// exchange sends one request on a connection of its own and reads the answer.
func (c Channel) exchange(ctx context.Context, op string, request []byte) (answer wire.Answer, text []byte, err error) {
	path, err := c.socket(op, wire.SocketControl)
	if err != nil {
		return answer, nil, err
	}
	text, err = carry(ctx, path, request)
	if err == nil {
		if err = json.Unmarshal(text, &answer); err != nil {
			err = fmt.Errorf("cannot read the answer: %w", err)
		}
	}
	switch {
	case err != nil:
	case answer.Error != nil:
		err = answer.Error
	case !answer.OK:
		err = errNoAnswer
	}
	return answer, text, opError(op, path, err)
}

// carry sends one packet and returns the bytes of the answer, which the end of the connection ends.
func carry(ctx context.Context, path string, request []byte) ([]byte, error) {
	conn, err := dialPacket(ctx, path)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	release := interrupt(ctx, conn.SetDeadline)
	defer release()
	// Where the broker has hung up already, its reason may still be there to be read.
	_, lost := conn.Write(request)
	if lost != nil && !isHangUp(lost) {
		return nil, orContext(ctx, lost)
	}
	var answer []byte
	packet := make([]byte, maxAnswerPacket)
	for ends := 0; ; {
		n, _, flags, _, err := conn.ReadMsgUnix(packet, nil)
		switch {
		case isHangUp(err) || err == nil && n == 0:
			if err != nil && !errors.Is(err, io.EOF) {
				lost = err
			}
			if ends++; ends == looksAtEnd && len(answer) > 0 {
				return answer, nil
			} else if ends == looksAtEnd {
				return nil, lost
			}
		case err != nil:
			return nil, orContext(ctx, err)
		case flags&syscall.MSG_TRUNC != 0 || len(answer)+n > maxAnswer:
			return nil, fmt.Errorf("the answer has more than %d bytes", len(answer)+n)
		default:
			answer = append(answer, packet[:n]...)
		}
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
