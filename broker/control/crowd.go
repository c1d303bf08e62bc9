// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"math"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/internal/fair"
)

// crowd serves the connections of one listener, at most room of them at a time. When all places are taken, a newcomer gets the
// place of a guest that has not asked for anything yet (see fair.Leaver). So 1,000 connections that say nothing keep nobody
// else out.
type crowd struct {
	room int
	// serve serves one guest. The connection is closed after it, and its deadline is set before.
	serve func(*guest)
	// busy tells a guest that its place goes to somebody else. It does not block. nil: nobody is told.
	busy func(net.Conn)

	mu     sync.Mutex
	guests []*guest // in the order in which they came
	served sync.WaitGroup
}

// guest is a connection that is served.
type guest struct {
	net.Conn
	crowd *crowd
	uid   uint32 // of the user at the other end, or nobody
	asked bool   // it has said what it wants; guarded by crowd.mu
	gone  bool   // its place went to somebody else; guarded by crowd.mu
}

const (
	// clientPatience is how long a client may take to ask, and to take its answer.
	clientPatience = 5 * time.Second
	// acceptRetry is the pause after a failure to accept: without descriptors or memory, others have to leave first.
	acceptRetry = 100 * time.Millisecond
	// nobody stands for the user of a connection that has none.
	nobody = math.MaxUint32
)

// run serves guests until ctx ends, and those that are there to their end, which comes at once. It closes l.
func (c *crowd) run(ctx context.Context, l net.Listener) {
	defer c.served.Wait()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				l.Close()
				return
			}
			time.Sleep(acceptRetry)
			continue
		}
		g := c.admit(conn)
		c.served.Go(func() {
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			conn.SetDeadline(time.Now().Add(clientPatience))
			c.serve(g)
			c.leave(g)
		})
	}
}

// admit gives a connection a place, if need be that of another.
func (c *crowd) admit(conn net.Conn) *guest {
	g := &guest{Conn: conn, crowd: c, uid: nobody}
	if unix, ok := conn.(*net.UnixConn); ok {
		if uid, err := peer(unix); err == nil {
			g.uid = uid
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.guests) >= c.room {
		// If all have asked for something, it is the one who came first: it has had the most time to take the answer.
		c.sendAway(fair.Leaver(c.guests, func(g *guest) uint32 { return g.uid }, func(g *guest) bool { return !g.asked }))
	}
	c.guests = append(c.guests, g)
	return g
}

// sendAway takes the place of a guest. The caller holds mu.
func (c *crowd) sendAway(i int) {
	g := c.guests[i]
	c.guests = append(c.guests[:i], c.guests[i+1:]...)
	g.gone = true
	if !g.asked && c.busy != nil {
		c.busy(g.Conn)
	}
	g.Close()
}

// leave gives a place back.
func (c *crowd) leave(g *guest) {
	g.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, x := range c.guests {
		if x == g {
			c.guests = append(c.guests[:i], c.guests[i+1:]...)
			return
		}
	}
}

// ask says that the guest has said what it wants, and is to be answered. False: its place is gone.
func (g *guest) ask() bool {
	g.crowd.mu.Lock()
	defer g.crowd.mu.Unlock()
	g.asked = true
	return !g.gone
}

// peer is the user at the other end.
func peer(conn *net.UnixConn) (uid uint32, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var creds *syscall.Ucred
	var inner error
	if err := raw.Control(func(fd uintptr) {
		creds, inner = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil || inner != nil {
		return 0, errors.Join(err, inner)
	}
	return creds.Uid, nil
}
