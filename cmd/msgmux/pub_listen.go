// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	msgmux "github.com/msgmux/msgmux/client"
)

// Programs that can write to a stream socket only: pub listens for them. Each connection is an input of its own, and a source of its
// own, so that one that writes more than goes waits by itself.

const (
	// lastWithin is how long what was read may take to be sent when pub is told to end.
	lastWithin = 2 * time.Second
	// acceptAfter is how long pub waits where nothing can be accepted for want of descriptors or memory.
	acceptAfter = 100 * time.Millisecond
)

// listener is the socket at path: one that systemd has handed over, or else one that is made, with a mode that the umask leaves. The
// file of one that nobody listens at any more is in nobody's way.
func listener(path string) (*net.UnixListener, error) {
	given, err := activation.Listeners()
	if err != nil {
		return nil, err
	}
	at := &net.UnixAddr{Name: path, Net: "unix"}
	for _, l := range given {
		if u, ok := l.(*net.UnixListener); ok && l.Addr().String() == path {
			return u, nil
		}
	}
	if len(given) > 0 {
		return nil, fmt.Errorf("cannot listen at %s: that is not the socket that was handed over", visible(path))
	}
	l, err := net.ListenUnix("unix", at)
	if errors.Is(err, syscall.EADDRINUSE) && isDead(at) && os.Remove(path) == nil {
		return net.ListenUnix("unix", at)
	}
	return l, err
}

// isDead says whether a socket is there at which nobody listens. To connect to a file of another kind is refused in the same way
// (connect(2)), so the kind is looked at.
func isDead(at *net.UnixAddr) bool {
	info, err := os.Lstat(at.Name)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		return false
	}
	conn, err := net.DialUnix("unix", nil, at)
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// listen sends what comes by connections, until a signal. What of it has been read is sent then, if the channel takes it in time.
func (o *pubOptions) listen(ctx context.Context, channel msgmux.Channel) error {
	l, err := listener(o.listenAt)
	if err != nil {
		return err
	}
	sending, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	context.AfterFunc(ctx, func() {
		l.Close()
		time.AfterFunc(lastWithin, giveUp)
	})
	var all sync.WaitGroup
	for {
		conn, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			all.Wait()
			end, _ := errors.AsType[stopped](context.Cause(ctx))
			return exitError{end.status(), nil}
		case slices.ContainsFunc([]error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM}, func(e error) bool { return errors.Is(err, e) }):
			say("%v", err)
			_ = sleep(ctx, acceptAfter)
		case err != nil:
			all.Wait()
			return err
		default:
			all.Go(func() { o.hear(ctx, sending, channel, conn) })
		}
	}
}

// hear sends what comes by one connection, until it ends, or ctx does: nothing more is read then. sending is for what has been read.
func (o *pubOptions) hear(ctx, sending context.Context, channel msgmux.Channel, conn *net.UnixConn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.CloseRead() })()
	p := &publisher{ctx: sending, channel: channel, retry: o.retry, quiet: o.quiet, rate: o.rate}
	err := p.dial(true)
	if err == nil {
		defer p.source.Close()
		err = o.take(p, nil, input{flushing{conn, p, "a connection"}, p.limit, o.keepEmpty})
		if !p.failed {
			err = cmp.Or(err, p.flush())
		}
	}
	if err != nil && ctx.Err() == nil {
		p.speak("a connection ends: %v", err)
	}
}
