// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/broker/wire"
)

// Commands are what a channel offers. uid is the user who asks; the channel decides whether it may.
type Commands interface {
	Status() wire.Status
	List() (wire.Status, []wire.Sink)
	Drop(uid uint32, sink string) *wire.Error
	SetPatience(uid uint32, sink string, patience time.Duration) *wire.Error
}

const (
	// maxClients bounds the connections that are open at a time; more wait in the listen queue.
	maxClients = 64
	// clientPatience is how long a client may take to ask, and to take its answer.
	clientPatience = 5 * time.Second
	// answerPacket is the size of the packets that an answer is cut into, well under any send buffer.
	answerPacket = 64 << 10
)

// Server answers the clients of a control socket: one request, one answer each.
type Server struct {
	listener *net.UnixListener
	commands Commands
	slots    chan struct{}
	clients  sync.WaitGroup
}

// NewServer makes a server of the listening SOCK_SEQPACKET socket fd. It owns fd from then on.
func NewServer(fd int, c Commands) (*Server, error) {
	f := os.NewFile(uintptr(fd), "control")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on the control socket: %w", err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, errors.New("cannot listen on the control socket: it is no unix socket")
	}
	ul.SetUnlinkOnClose(false)
	return &Server{listener: ul, commands: c, slots: make(chan struct{}, maxClients)}, nil
}

// Serve answers clients until ctx ends. It waits for those that it is answering.
func (s *Server) Serve(ctx context.Context) error {
	defer s.clients.Wait()
	defer context.AfterFunc(ctx, func() { s.listener.Close() })()
	for {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := s.listener.AcceptUnix()
		if err != nil {
			<-s.slots
			if ctx.Err() != nil {
				return nil
			}
			// Out of descriptors or memory: others have to leave first.
			time.Sleep(100 * time.Millisecond)
			continue
		}
		s.clients.Go(func() {
			defer func() { <-s.slots }()
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			s.answer(conn)
		})
	}
}

// answer serves one client.
func (s *Server) answer(conn *net.UnixConn) {
	conn.SetDeadline(time.Now().Add(clientPatience))
	buf := make([]byte, wire.MaxRequest+1)
	n, err := conn.Read(buf)
	if err != nil || n == 0 {
		return
	}
	uid, err := peer(conn)
	if err != nil {
		return
	}
	out, err := json.Marshal(s.do(uid, buf[:n]))
	if err != nil {
		return
	}
	for len(out) > 0 {
		k := min(len(out), answerPacket)
		if _, err := conn.Write(out[:k]); err != nil {
			return
		}
		out = out[k:]
	}
}

func refuse(e *wire.Error) wire.Answer { return wire.Answer{Error: e} }

// do is one request and its answer.
func (s *Server) do(uid uint32, b []byte) wire.Answer {
	if len(b) > wire.MaxRequest {
		return refuse(wire.Refuse(wire.CodeTooLarge, "a request has at most %d bytes", wire.MaxRequest))
	}
	q, err := wire.ParseRequest(b)
	if err != nil {
		if e := (*wire.Error)(nil); errors.As(err, &e) {
			return refuse(e)
		}
		return refuse(wire.Refuse(wire.CodeBadText, "%v", err))
	}
	switch q.Op {
	case wire.OpStatus:
		st := s.commands.Status()
		return wire.Answer{OK: true, Status: &st}
	case wire.OpList:
		st, sinks := s.commands.List()
		return wire.Answer{OK: true, Status: &st, Sinks: sinks}
	case wire.OpDrop:
		if e := s.commands.Drop(uid, q.Sink); e != nil {
			return refuse(e)
		}
		return wire.Answer{OK: true}
	case wire.OpSet:
		d, err := wire.ParsePatience(q.Patience)
		if err != nil {
			return refuse(wire.Refuse(wire.CodeBadOption, "patience %q is no duration", q.Patience))
		}
		if e := s.commands.SetPatience(uid, q.Sink, d); e != nil {
			return refuse(e)
		}
		return wire.Answer{OK: true}
	}
	return refuse(wire.Refuse(wire.CodeBadOption, "there is no operation %q", q.Op))
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
