// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"context"
	"errors"
	"net"
	"syscall"

	"github.com/msgmux/msgmux/internal/wire"
)

// register sends a registration and returns the id in the broker's answer, or the *wire.Error that it is.
//
// It is sent from a socket of its own, with the sink's address as text: the broker answers to the address that a
// registration comes from, and only if that is not the sink's, because an answer among the messages would be taken for
// one. The broker then asks the kernel whose both sockets are.
func (c Channel) register(ctx context.Context, r wire.Registration) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err // or the answer could be faster than interrupt
	}
	path, err := c.socket("register", socketRegister)
	if err != nil {
		return 0, err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	r.Reply = true
	if err := sendTo(ctx, conn, path, r.Append(nil)); err != nil {
		return 0, err
	}

	release := interrupt(ctx, conn.SetReadDeadline)
	defer release()
	buffer := make([]byte, wire.MaxRegistration)
	for {
		n, _, _, _, err := conn.ReadMsgUnix(buffer, nil)
		if err != nil {
			return 0, orContext(ctx, err)
		}
		reply, err := wire.ParseReply(buffer[:n])
		if err != nil {
			continue // anybody can write to an abstract name; the broker's answer is one that parses
		}
		if reply.Err != nil {
			return 0, reply.Err
		}
		return reply.ID, nil
	}
}

// sendTo sends one datagram to the socket at path and waits while its queue is full. The socket must not be connected:
// a connected one takes datagrams from its peer alone, and the broker answers through another. But then the kernel has
// no wake-up for us (the poller would spin), so a full queue is tried again after a pause.
func sendTo(ctx context.Context, conn *net.UnixConn, path string, text []byte) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	to := &syscall.SockaddrUnix{Name: path}
	for {
		var sent error
		err := raw.Write(func(fd uintptr) bool {
			// The flag, and true in any case, keep the net package from waiting for a writability that is always there.
			sent = syscall.Sendto(int(fd), text, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, to)
			return true
		})
		switch {
		case err != nil:
			return err
		case errors.Is(sent, syscall.EINTR):
		case errors.Is(sent, syscall.EAGAIN) || isShortOfMemory(sent):
			if err := sleep(ctx, retryAfter); err != nil {
				return err
			}
		default:
			return sent
		}
	}
}
