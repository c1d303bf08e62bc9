// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// Commands are what a channel offers. uid is the user who asks; the channel decides whether it may.
type Commands interface {
	Status() wire.Status
	List() (wire.Status, []wire.Sink)
	Drop(uid uint32, sink string) *wire.Error
	SetPatience(uid uint32, sink string, patience time.Duration) *wire.Error
}

const (
	// maxClients bounds the connections to the control socket that are open at a time, reservedClients of them for root and
	// the broker's user. Each may hold a whole answer, which has 1.5 MiB with 4,000 sinks, for as long as a client may take.
	maxClients      = 64
	reservedClients = 8
	// answerPacket is the size of the packets that an answer is cut into, well under any send buffer.
	answerPacket = 64 << 10
)

// Server answers the clients of a control socket: one request, one answer each.
type Server struct {
	listener net.Listener
	commands Commands
}

// NewServer makes a server of the listening SOCK_SEQPACKET socket fd. It owns fd from then on.
func NewServer(fd int, c Commands) (*Server, error) {
	l, err := listen(fd, "control")
	if err != nil {
		return nil, err
	}
	if l.Addr().Network() != "unixpacket" {
		l.Close()
		return nil, errors.New("cannot listen on the control socket: it is no unix socket of packets")
	}
	return &Server{listener: l, commands: c}, nil
}

// listen makes a listener of a listening socket, and owns fd from then on.
func listen(fd int, name string) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on the %s socket: %w", name, err)
	}
	if unix, ok := l.(*net.UnixListener); ok {
		unix.SetUnlinkOnClose(false) // the file is whose who bound it
	}
	return l, nil
}

// Serve answers clients until ctx ends. It waits for those that it is answering.
func (s *Server) Serve(ctx context.Context) error {
	c := crowd{room: maxClients, reserved: reservedClients, serve: s.answer, busy: func(conn net.Conn) {
		out, _ := json.Marshal(wire.Answer{Error: wire.Refuse(wire.CodeBusy, "too many clients say nothing; try again")})
		// The first packet on a connection finds its buffer empty: the deadline is for what cannot happen, and so long
		// that a busy machine does not let it pass before the write is tried.
		conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		conn.Write(out)
	}}
	c.run(ctx, s.listener)
	return nil
}

// requests are buffers for one request each: a new one for each would be most of the garbage that an answer makes.
var requests = sync.Pool{New: func() any { return new([wire.MaxRequest + 1]byte) }}

// answer serves one client.
func (s *Server) answer(g *guest) {
	b := requests.Get().(*[wire.MaxRequest + 1]byte)
	defer requests.Put(b)
	buf := b[:]
	n, err := g.Read(buf)
	if errors.Is(err, io.EOF) {
		n, err = g.Read(buf) // who asks and shuts down is told of by his end, now and then, before what he asks
	}
	if !g.ask() {
		return
	}
	var out []byte
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		g.SetDeadline(time.Now().Add(time.Second))
		out, err = json.Marshal(wire.Answer{Error: wire.Refuse(wire.CodeTimeout, "no request within %s", clientPatience)})
	case err != nil || n == 0 || g.uid == nobody:
		return
	default:
		out, err = s.do(g, buf[:n])
	}
	if err != nil {
		return
	}
	for len(out) > 0 {
		k := min(len(out), answerPacket)
		if _, err := g.Write(out[:k]); err != nil {
			return
		}
		out = out[k:]
	}
}

// do is one request and the text of its answer, nothing for a guest whose place is gone.
func (s *Server) do(g *guest, b []byte) ([]byte, error) {
	q, refusal := parse(b)
	switch {
	case refusal != nil:
	case q.Op == wire.OpDrop || q.Op == wire.OpSet:
		// These wait for the data thread: nobody is to wait for them.
		refusal = change(s.commands, g.uid, q)
	default:
		if !g.crowd.turns.take(g) {
			return nil, nil
		}
		defer g.crowd.turns.done()
		return s.show(q)
	}
	return json.Marshal(wire.Answer{OK: refusal == nil, Error: refusal})
}

// parse also refuses what is longer than a request may be: of that, one byte more has been read.
func parse(b []byte) (wire.Request, *wire.Error) {
	q, err := wire.ParseRequest(b)
	if err != nil {
		return q, wire.AsRefusal(err, wire.CodeBadText)
	}
	return q, nil
}

// change carries out what changes a sink.
func change(c Commands, uid uint32, q wire.Request) *wire.Error {
	if q.Op == wire.OpDrop {
		return c.Drop(uid, q.Sink)
	}
	d, err := wire.ParsePatience(q.Patience)
	if err != nil {
		return wire.Refuse(wire.CodeBadOption, "patience %q is no duration", q.Patience)
	}
	return c.SetPatience(uid, q.Sink, d)
}

// show is the answer to who only looks.
func (s *Server) show(q wire.Request) ([]byte, error) {
	a := wire.Answer{OK: true}
	if q.Op == wire.OpStatus {
		st := s.commands.Status()
		a.Status = &st
	} else {
		st, sinks := s.commands.List()
		a.Status, a.Sinks = &st, sinks
	}
	return json.Marshal(a)
}
