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
	switch s.signal {
	case syscall.SIGINT:
		return "interrupted"
	case syscall.SIGQUIT:
		return "quit"
	case syscall.SIGHUP:
		return "hung up"
	}
	return "terminated"
}

// status is the exit status of a program that a signal has ended.
func (s stopped) status() int { return 128 + int(s.signal) }

// untilStopped returns a context that ends with a stopped as its cause at the first SIGINT, SIGTERM or one of others. The
// second one kills: nobody should have to wait for an orderly end. A signal that the parent has set to be ignored (a shell does so
// for what runs in its background) stays ignored.
func untilStopped(parent context.Context, others ...syscall.Signal) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	caught := make(chan os.Signal, 1)
	for _, s := range append([]syscall.Signal{syscall.SIGINT, syscall.SIGTERM}, others...) {
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
