// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Ways to be a sink.
const (
	ByName    = "name"      // a datagram socket with an abstract name, registered
	ByPath    = "path"      // one with a path
	Static    = "static"    // an entry of sinks/, with its options in a file
	Subscribe = "subscribe" // a connection
)

// Pace is how a sink reads.
type Pace int32

// The paces.
const (
	Fast    Pace = iota
	Stutter      // fast, with pauses
	Slow         // a pause after each message
	Hung         // not at all
)

// Ways to leave.
type leaving int

const (
	staying  leaving = iota
	removed          // removed by a registration, then read to the end
	shut             // shut down for reading, then read to the end
	abruptly         // closed, with whatever was queued
)

// run is a stretch of messages of which a framed sink was told the position.
type run struct {
	first int    // index in Sink.Keys
	pos   uint64 // sequence number of that message
}

// Sink is one receiver. It keeps what it got, for the ledger.
type Sink struct {
	Name    string
	Way     string
	Options wire.Options
	ID      uint64
	Count   atomic.Uint64 // messages read so far

	// Valid once the sink has ended.
	Keys   []Key
	Told   uint64 // of how many messages it was told whose they are, and when they came
	Untold uint64 // and of how many not, as where origins were forgotten for want of runs; only with the option meta or credentials
	Runs   []run
	Lost   uint64 // what the last packet of frames said
	Faults []string

	began   time.Time // no message is older
	dir     string
	traffic *Traffic
	address wire.Address
	fd      int
	pace    atomic.Int32
	left    atomic.Int32 // leaving
	stop    atomic.Bool
	done    chan struct{}
	buf     []byte
	random  *rand.Rand
}

// NewSink binds the socket of a sink, or writes its file; Join makes it one.
func NewSink(dir string, t *Traffic, name, way string, o wire.Options, pace Pace) (s *Sink, err error) {
	s = &Sink{Name: name, Way: way, Options: o, dir: dir, traffic: t, began: t.Began, fd: -1, done: make(chan struct{}),
		buf: make([]byte, max(t.Largest, wire.MaxPacket)+wire.MaxPacket), random: rand.New(rand.NewPCG(t.Seed, mix(uint64(len(name)))))}
	s.pace.Store(int32(pace))
	s.Options.Label = name
	if len(sys.LackedForCredentials()) > 0 || way == Subscribe {
		s.Options.Credentials = false
	}
	o = s.Options
	path := filepath.Join(dir, name)
	switch way {
	case Subscribe:
		return s, nil // there is nothing before the connection
	case Static:
		path = filepath.Join(dir, "sinks", name)
		if err := os.WriteFile(filepath.Join(dir, "options", name+".conf"), o.AppendLines(nil), 0o600); err != nil {
			return nil, err
		}
	case ByName:
		path = "@" + path
	}
	if s.address, err = wire.ParseAddress(path); err != nil {
		return nil, err
	}
	if s.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, err
	}
	if err := errors.Join(unix.Bind(s.fd, &unix.SockaddrUnix{Name: path}), timeouts(s.fd, patience, 20*time.Millisecond)); err != nil {
		unix.Close(s.fd)
		return nil, err
	}
	sys.PassCredentials(s.fd, o.Credentials)
	return s, nil
}

// Join makes it a sink, however often brokers die meanwhile, and lets it read. After an error it is closed.
func (s *Sink) Join() (err error) {
	switch s.Way {
	case Subscribe:
		s.fd, s.ID, err = greet(s.dir, "subscribe", wire.Hello{Options: s.Options})
		if err == nil {
			err = timeouts(s.fd, patience, 20*time.Millisecond)
		}
	case Static:
	default:
		err = s.Register()
	}
	if err != nil {
		s.close()
		return err
	}
	go func() {
		defer close(s.done)
		s.listen()
	}()
	return nil
}

// Register asks for what the sink is, once more if it is one already.
func (s *Sink) Register() error {
	id, err := ask(s.dir, wire.Registration{Address: s.address, Options: s.Options})
	if err != nil {
		return err
	}
	// The socket is the same, so it must be the same sink, whoever was killed in between: identity is the peer's inode.
	if s.ID != 0 && s.ID != id {
		return fmt.Errorf("sink %s was %d and is %d after registering again", s.Name, s.ID, id)
	}
	s.ID = id
	return nil
}

// SetPace changes how it reads.
func (s *Sink) SetPace(p Pace) { s.pace.Store(int32(p)) }

// End reads what is queued, and closes the sink: its books can be looked at.
func (s *Sink) End() {
	s.halt()
	for s.read(unix.MSG_DONTWAIT) {
	}
	s.close()
}

// halt ends the goroutine that reads.
func (s *Sink) halt() {
	s.stop.Store(true)
	<-s.done
}

// Left is how it left.
func (s *Sink) Left() leaving { return leaving(s.left.Load()) }

// Leave ends it as how says, while the channel goes on sending to it. What it got is all that it was sent, unless it
// left abruptly.
func (s *Sink) Leave(how leaving) error {
	if s.Way == Subscribe && how == removed {
		how = shut // nobody else may remove a connection
	}
	s.left.Store(int32(how))
	switch how {
	case removed:
		_, err := ask(s.dir, wire.Registration{Address: s.address, Remove: true})
		// Not found: an earlier request was obeyed, and its answer fell to a kill.
		var refusal *wire.Error
		if err != nil && (!errors.As(err, &refusal) || refusal.Code != wire.CodeNotFound) {
			s.End()
			return err
		}
	case shut:
		// Not while somebody reads: recv(2) on a datagram socket that is shut down returns 0, as for an empty message.
		s.halt()
		if err := unix.Shutdown(s.fd, unix.SHUT_RD); err != nil {
			return err
		}
	case abruptly:
		s.halt()
		s.close()
		return nil
	}
	s.End()
	return nil
}

func (s *Sink) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
	}
	s.fd = -1
	if s.Way == ByPath || s.Way == Static {
		os.Remove(s.address.Name)
	}
}

// frames says whether it gets packets of records.
func (s *Sink) frames() bool { return s.Way == Subscribe || s.Options.Frames }

// listen reads until the sink is halted.
func (s *Sink) listen() {
	for !s.stop.Load() {
		if Pace(s.pace.Load()) == Hung {
			time.Sleep(time.Millisecond)
			continue
		}
		if !s.read(0) {
			return
		}
		s.rest()
	}
}

// read takes the next datagram or packet, and says whether there may be more.
func (s *Sink) read(flags int) bool {
	var who sys.Credentials
	var n int
	var err error
	switch {
	case s.Options.Credentials:
		n, who, err = receiveFrom(s.fd, s.buf, flags)
	case s.Way == Subscribe:
		n, err = receivePacket(s.fd, s.buf, flags)
	default:
		n, err = receive(s.fd, s.buf, flags)
	}
	// No restart may be seen here: not as an error, and not as the end of a connection.
	switch {
	case err == unix.EAGAIN:
		return flags == 0 // nothing within the socket's timeout
	case err != nil:
		s.fault("cannot read: %v", err)
		return false
	case n > len(s.buf):
		s.fault("a datagram of %d bytes", n)
		return false
	case n == 0 && s.Way == Subscribe:
		if s.Left() == staying {
			s.fault("hung up on after %d messages", len(s.Keys))
		}
		return false
	case s.frames():
		s.packet(s.buf[:n])
	default:
		s.message(s.buf[:n])
		if s.Options.Credentials {
			s.signed(s.Keys[len(s.Keys)-1], who)
		}
	}
	s.Count.Store(uint64(len(s.Keys)))
	return true
}

// rest is the pause that the pace asks for.
func (s *Sink) rest() {
	switch Pace(s.pace.Load()) {
	case Slow:
		time.Sleep(time.Duration(s.random.IntN(1000)) * time.Microsecond)
	case Stutter:
		if s.random.IntN(1000) == 0 {
			time.Sleep(time.Duration(s.random.IntN(20)) * time.Millisecond)
		}
	}
}

func (s *Sink) message(b []byte) {
	key, err := s.traffic.Read(b)
	if err != nil {
		s.fault("at message %d: %v", len(s.Keys), err)
	}
	s.Keys = append(s.Keys, key)
}

// packet takes a packet of records apart, and compares what it says of itself with what came before.
func (s *Sink) packet(b []byte) {
	parse := wire.ParseSinkPacket
	if s.Options.Meta {
		parse = wire.ParseMetaPacket
	}
	p, err := parse(b)
	if err != nil {
		s.fault("at message %d: %v", len(s.Keys), err)
		return
	}
	if n := len(s.Runs); n > 0 {
		last := s.Runs[n-1]
		next := last.pos + uint64(len(s.Keys)-last.first)
		if p.First < next {
			s.fault("message %d came again, after %d", p.First, next)
		}
		// What a member of a share did not get, another one did.
		if s.Options.Share == "" && p.First-next != p.Lost-s.Lost {
			s.fault("%d messages are missing before %d, and %d were lost", p.First-next, p.First, p.Lost-s.Lost)
		}
		if p.First != next {
			s.Runs = append(s.Runs, run{len(s.Keys), p.First})
		}
	} else {
		s.Runs = append(s.Runs, run{len(s.Keys), p.First})
	}
	// The header counts what was lost before this packet; between packets both must have grown alike.
	s.Lost = p.Lost
	seq := p.First
	wire.EachRecord(p.Records, func(payload []byte) bool {
		s.message(payload)
		if s.Options.Meta {
			s.origin(s.Keys[len(s.Keys)-1], p.OriginOf(seq))
		}
		seq++
		return true
	})
}

// origin compares what it was told of a message with whose that is.
func (s *Sink) origin(key Key, got wire.Origin) {
	if got == (wire.Origin{}) {
		s.Untold++
		return
	}
	s.Told++
	if at := time.Unix(0, got.Time); at.Before(s.began) || at.After(time.Now()) {
		s.fault("message %s was received at %v, they say, and the test began at %v", key, at, s.began)
	}
	if got.Time = 0; key != Nobody && got != s.traffic.senderOf(key.Source()) {
		s.fault("message %s is of %+v, they say, and is of %+v", key, got, s.traffic.senderOf(key.Source()))
	}
}

// signed compares whose the kernel says that a message is with whose it is. It may be the broker's, of which nothing else is known.
func (s *Sink) signed(key Key, got sys.Credentials) {
	want := s.traffic.senderOf(key.Source())
	switch who := (sys.Credentials{PID: want.PID, UID: want.UID, GID: want.GID}); {
	case key == Nobody:
	case got == who:
		s.Told++
	case got.PID == who.PID || got.PID == 0 || got.UID != uint32(os.Getuid()):
		s.fault("message %s comes from %+v, and is of %+v", key, got, who)
	default:
		s.Untold++
	}
}

// maxFaults is how many faults are kept: one is bad enough.
const maxFaults = 5

func (s *Sink) fault(format string, args ...any) {
	if len(s.Faults) < maxFaults {
		s.Faults = append(s.Faults, fmt.Sprintf(format, args...))
	}
}
