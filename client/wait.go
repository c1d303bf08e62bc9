// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// retryAfter is how long to sleep where the kernel gives no wake-up: a datagram socket that is not connected polls as
// writable even when its peer is full, and lack of memory has no event at all.
const retryAfter = 10 * time.Millisecond

// turn admits one caller at a time and lets the others give up waiting, which a mutex does not.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// take waits for the turn until ctx is done; the caller must give it back after nil. Nobody has the turn of what was never
// opened.
func (t turn) take(ctx context.Context) error {
	if t == nil {
		return net.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// try takes the turn if nobody has it; else it returns EAGAIN.
func (t turn) try() error {
	if t == nil {
		return net.ErrClosed
	}
	select {
	case t <- struct{}{}:
		return nil
	default:
		return syscall.EAGAIN
	}
}

func (t turn) give() { <-t }

// during makes a context that ends with ctx, and also with the life of whatever the call is about. The caller must call
// cancel.
func during(ctx, life context.Context) (_ context.Context, cancel func()) {
	both, end := context.WithCancel(ctx)
	stop := context.AfterFunc(life, end)
	return both, func() { stop(); end() }
}

// longAgo is a deadline that ends every call at once.
var longAgo = time.Unix(1, 0)

// interrupt makes ctx end what blocks on a socket: as soon as ctx is done, setDeadline (of that socket) is called with
// a time long past, and the runtime's poller wakes whoever waits. The caller must call release after the blocking call;
// it takes the deadline back, so that the socket can be used again.
func interrupt(ctx context.Context, setDeadline func(time.Time) error) (release func()) {
	if ctx.Done() == nil {
		return func() {}
	}
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = setDeadline(longAgo) // fails only on a closed socket, where nobody waits
		close(fired)
	})
	return func() {
		if !stop() {
			<-fired // else the deadline could be set after it was taken back
			_ = setDeadline(time.Time{})
		}
	}
}

// orContext gives the context's error for a deadline that interrupt has set, and err otherwise.
func orContext(ctx context.Context, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// sleep waits for d, or until ctx is done, whose error it returns.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// asError is nil for 0.
func asError(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}
