// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// stopped is the cause of a context that a signal has ended.
type stopped struct{ signal syscall.Signal }

func (s stopped) Error() string {
	if s.signal == syscall.SIGINT {
		return "interrupted"
	}
	return "terminated"
}

// status is the exit status of a program that a signal has ended.
func (s stopped) status() int { return 128 + int(s.signal) }

// untilStopped returns a context that ends with a stopped as its cause at the first SIGINT or SIGTERM. The second one
// kills: nobody should have to wait for an orderly end. A signal that the parent has set to be ignored (a shell does so
// for what runs in its background) stays ignored.
func untilStopped(parent context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	caught := make(chan os.Signal, 1)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		if !signal.Ignored(s) {
			signal.Notify(caught, s)
		}
	}
	go func() {
		select {
		case s := <-caught:
			cancel(stopped{s.(syscall.Signal)})
		case <-ctx.Done():
		}
		signal.Stop(caught)
	}()
	return ctx, cancel
}
