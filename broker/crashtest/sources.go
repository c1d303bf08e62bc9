// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/wire"
)

// outlet is one way for a source to reach the channel.
type outlet interface {
	// send sends the messages and returns when the channel has them, in this order. An error means that it does not
	// have the last one.
	send(messages [][]byte) error
	// most is how many messages one call may have.
	most() int
	close()
}

// senderOf is who source number is, as the kernel attests it. Those that send datagrams say so with each one, which root may
// (SCM_CREDENTIALS, unix(7)); a connection is this process.
func (t *Traffic) senderOf(number int) wire.Origin {
	o := wire.Origin{PID: int32(os.Getpid()), UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Known: true}
	if number < Polite {
		o.Source = 1
		if t.Second[number] {
			o.Source = 2
		}
		if maySayWho() {
			o.UID, o.GID = uint32(1000+number), uint32(2000+number)
		}
	}
	return o
}

// maySayWho says whether this process may send for other users. In a user namespace of its own there are none.
var maySayWho = sync.OnceValue(func() bool {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	who := unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getpid()), Uid: 1000, Gid: 2000})
	return unix.Sendmsg(p[0], []byte("x"), who, nil, 0) == nil
})

// Ways to reach the channel.
const (
	Blocking    = "blocking"    // a connected datagram socket whose sends wait
	NonBlocking = "nonblocking" // a connected datagram socket that is polled
	Unconnected = "unconnected" // a datagram socket that names the address each time
	Publish     = "publish"     // a connection that takes many messages in a packet
)

// blocked is how long a source may have to wait. While brokers die one after the other nobody can tell a channel that is
// slow from one that hangs, so this is only the very end.
const blocked = 3 * time.Minute

// secondSource is another socket for sources, beside that which every channel has. Sources that do not block use it.
const secondSource = "elsewhere"

// newOutlet opens the way called how, for source number. The largest message to send has size bytes.
func newOutlet(dir, how string, number, size int) (outlet, error) {
	if how == Publish {
		fd, _, err := greet(dir, "publish", wire.Hello{Options: wire.Options{Label: "feed"}})
		if err != nil {
			return nil, err
		}
		return &packets{fd: fd}, errors.Join(roomFor(fd, size), timeouts(fd, blocked, patience))
	}
	d := &datagrams{how: how}
	if maySayWho() {
		o := (&Traffic{}).senderOf(number)
		d.who = unix.UnixCredentials(&unix.Ucred{Pid: o.PID, Uid: o.UID, Gid: o.GID})
	}
	var err error
	switch how {
	case Unconnected:
		d.to = &unix.SockaddrUnix{Name: filepath.Join(dir, "source")}
		d.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	case NonBlocking:
		d.fd, err = dial(dir, secondSource, unix.SOCK_DGRAM)
	default:
		d.fd, err = dial(dir, "source", unix.SOCK_DGRAM)
	}
	if err != nil {
		return nil, err
	}
	return d, errors.Join(roomFor(d.fd, size), timeouts(d.fd, blocked, patience))
}

// roomFor makes the send buffer large enough for messages of size bytes, with the kernel's own overhead.
func roomFor(fd, size int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, max(2*size, 200<<10))
}

// datagrams is an outlet to the source socket.
type datagrams struct {
	fd  int
	how string
	to  *unix.SockaddrUnix
	who []byte // what goes along
}

func (d *datagrams) most() int { return 1 }
func (d *datagrams) close()    { unix.Close(d.fd) }

func (d *datagrams) send(messages [][]byte) error {
	b := messages[0]
	switch d.how {
	case Blocking:
		return d.sendOne(b, 0)
	case Unconnected:
		return retry(func() error { return unix.Sendmsg(d.fd, b, d.who, d.to, unix.MSG_NOSIGNAL) })
	}
	// Connected, poll tells when the channel takes more. It is promised that it does so across restarts, too.
	for {
		if err := d.sendOne(b, unix.MSG_DONTWAIT); err != unix.EAGAIN {
			return err
		}
		n := 0
		err := retry(func() (err error) {
			n, err = unix.Poll([]unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLOUT}}, int(blocked/time.Millisecond))
			return err
		})
		if err != nil || n == 0 {
			return errors.Join(err, unix.EAGAIN)
		}
	}
}

func (d *datagrams) sendOne(b []byte, flags int) error {
	return retry(func() error { return unix.Sendmsg(d.fd, b, d.who, nil, flags|unix.MSG_NOSIGNAL) })
}

// packets is an outlet to the publish socket.
type packets struct {
	fd  int
	buf []byte
}

func (p *packets) most() int { return 100 }
func (p *packets) close()    { unix.Close(p.fd) }

func (p *packets) send(messages [][]byte) error {
	for len(messages) > 0 {
		p.buf = wire.AppendRecord(p.buf[:0], messages[0])
		n := 1
		for n < len(messages) && len(p.buf)+wire.Padded(len(messages[n])) <= wire.MaxPacket {
			p.buf = wire.AppendRecord(p.buf, messages[n])
			n++
		}
		if err := send(p.fd, p.buf, 0); err != nil {
			return err
		}
		messages = messages[n:]
	}
	return nil
}

// Source is one sender with a mind of its own: bursts, trickles and pauses.
type Source struct {
	Number   int
	How      string
	Sent     atomic.Uint64 // messages that the channel has taken, those that it must refuse included
	TooLarge atomic.Uint64 // those

	dir     string
	traffic *Traffic
	calm    atomic.Bool // a message now and then is enough
	stop    atomic.Bool
	done    chan struct{}
	err     error // valid once done is closed
}

// StartSource lets a source send. Halt ends it.
func StartSource(dir string, t *Traffic, number int, how string) *Source {
	s := newSource(dir, t, number, how)
	go func() {
		defer close(s.done)
		s.err = s.run()
	}()
	return s
}

func newSource(dir string, t *Traffic, number int, how string) *Source {
	return &Source{Number: number, How: how, dir: dir, traffic: t, done: make(chan struct{})}
}

// Halt lets the source finish what it is sending. A channel that does not take it in the end is an error, as is every
// other one: no restart may be seen by a source.
func (s *Source) Halt() error {
	s.stop.Store(true)
	<-s.done
	if s.err != nil {
		return fmt.Errorf("source %d (%s), at message %d: %w", s.Number, s.How, s.Sent.Load(), s.err)
	}
	return nil
}

func (s *Source) run() error {
	out, err := newOutlet(s.dir, s.How, s.Number, max(s.traffic.Largest, s.traffic.TooLarge))
	if err != nil {
		return err
	}
	defer out.close()
	random := rand.New(rand.NewPCG(s.traffic.Seed, uint64(s.Number)))
	batch := make([][]byte, out.most())
	for !s.stop.Load() {
		// One message now and then makes batches of one, a flood fills the ring.
		burst := []int{1, 1, 5, 30, 300, 3000}[random.IntN(6)]
		if s.calm.Load() {
			burst = 1
			time.Sleep(5 * time.Millisecond)
		}
		for sent := 0; sent < burst && !s.stop.Load(); {
			n := min(1+random.IntN(len(batch)), burst-sent)
			if err := s.send(out, batch[:n]); err != nil {
				return err
			}
			sent += n
		}
		// Without pauses the ring would be full all the time, and empty sinks never be met.
		if pause := random.IntN(4); pause > 0 {
			time.Sleep(time.Duration(random.IntN(pause*pause*500)) * time.Microsecond)
		}
	}
	return nil
}

// pass sends n messages on a connection, or fewer if calm says so, and hangs up. Of those who did so before, some may still be connected as far as
// the channel knows: then there is no room yet.
func (s *Source) pass(n int, calm *atomic.Bool, random *rand.Rand) error {
	var out outlet
	err := until(askPatience, func() (bool, error) {
		var err error
		out, err = newOutlet(s.dir, s.How, s.Number, s.traffic.Largest)
		if refusal, ok := errors.AsType[*wire.Error](err); ok && refusal.Code == wire.CodeQuota {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	defer out.close()
	batch := make([][]byte, out.most())
	for sent := 0; sent < n && !calm.Load(); {
		k := min(1+random.IntN(len(batch)), n-sent)
		if err := s.send(out, batch[:k]); err != nil {
			return err
		}
		sent += k
	}
	return nil
}

func (s *Source) send(out outlet, batch [][]byte) error {
	first := s.Sent.Load()
	for i := range batch {
		batch[i] = s.traffic.Append(batch[i][:0], s.Number, first+uint64(i))
	}
	// Counted once the channel has them. A source that is stopped in the middle of this would be a message off, so it
	// is stopped between two calls only.
	if err := out.send(batch); err != nil {
		return err
	}
	for i := range batch {
		if len(batch[i]) > s.traffic.Largest {
			s.TooLarge.Add(1)
		}
	}
	s.Sent.Store(first + uint64(len(batch)))
	return nil
}
