// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"math"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/internal/subuid"
)

// crowd serves the connections of one listener, at most room of them at a time, and never more goroutines than that: a
// place is given away when whoever had it has ended. The last places are for root and the broker's own user.
//
// Who comes when all places are taken gets one of the user who has most, so that nobody keeps others out, be it with
// connections that say nothing or with answers that he does not read: of those the first that has not asked yet, or else
// the first. That user may be the one who comes. Subordinate uids count as the user that has them (subuid(5)).
type crowd struct {
	room int
	// reserved of the places are for root and the broker's user.
	reserved int
	// serve serves one guest. The connection is closed after it, and its deadline is set before.
	serve func(*guest)
	// busy tells a guest that its place goes to somebody else. It does not block. nil: nobody is told.
	busy func(net.Conn)
	// turns is whose turn it is to have an answer made.
	turns turns

	mu     sync.Mutex
	left   sync.Cond // a guest has left; with mu
	guests []*guest  // in the order in which they came
	served sync.WaitGroup
}

// guest is a connection that is served.
type guest struct {
	net.Conn
	crowd   *crowd
	uid     uint32        // of the user at the other end, or nobody
	account uint32        // of the user that counts for: uid, or whose subordinate uid that is
	trusted bool          // root, or the broker's user
	asked   bool          // it has said what it wants; guarded by crowd.mu
	gone    chan struct{} // closed when its place goes to somebody else, with crowd.mu held
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
	c.left.L = &c.mu
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
		g := newGuest(c, conn)
		c.admit(g)
		c.served.Go(func() {
			defer c.leave(g)
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			conn.SetDeadline(time.Now().Add(clientPatience))
			c.serve(g)
		})
	}
}

func newGuest(c *crowd, conn net.Conn) *guest {
	g := &guest{Conn: conn, crowd: c, uid: nobody, account: nobody, gone: make(chan struct{})}
	if unix, ok := conn.(*net.UnixConn); ok {
		if uid, err := peer(unix); err == nil {
			g.uid, g.account = uid, subuid.Host.Owner(uid)
			g.trusted = uid == 0 || uid == uint32(os.Geteuid())
		}
	}
	return g
}

// admit gives a connection a place, if need be that of another. It waits until that one has ended, which its closed
// connection makes it do.
func (c *crowd) admit(g *guest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.full(g) {
		if worst := c.leastWelcome(g); worst != nil {
			c.sendAway(worst)
		}
		c.left.Wait()
	}
	c.guests = append(c.guests, g)
}

// full says that there is no place for g. The caller holds mu.
func (c *crowd) full(g *guest) bool {
	others := 0
	for _, x := range c.guests {
		if !x.trusted {
			others++
		}
	}
	return len(c.guests) >= c.room || !g.trusted && others >= c.room-c.reserved
}

// leastWelcome is the guest who has to go for g, nil if one is going already. The caller holds mu.
func (c *crowd) leastWelcome(g *guest) *guest {
	trusted := g.trusted && !slices.ContainsFunc(c.guests, func(x *guest) bool { return !x.trusted })
	has := map[uint32]int{g.account: 1}
	for _, x := range c.guests {
		if x.isGone() {
			return nil
		}
		has[x.account]++
	}
	var worst *guest
	for _, x := range c.guests {
		switch {
		case x.trusted != trusted:
		case worst == nil, has[x.account] > has[worst.account]:
			worst = x
		case x.account == worst.account && worst.asked && !x.asked:
			worst = x
		}
	}
	return worst
}

// sendAway takes the place of a guest. The caller holds mu.
func (c *crowd) sendAway(g *guest) {
	close(g.gone)
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
	c.guests = slices.DeleteFunc(c.guests, func(x *guest) bool { return x == g })
	c.left.Signal()
}

// isGone says that the guest's place goes to somebody else.
func (g *guest) isGone() bool {
	select {
	case <-g.gone:
		return true
	default:
		return false
	}
}

// ask says that the guest has said what it wants, and is to be answered. False: its place is gone.
func (g *guest) ask() bool {
	g.crowd.mu.Lock()
	defer g.crowd.mu.Unlock()
	g.asked = true
	return !g.isGone()
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
