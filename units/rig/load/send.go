// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/units/rig/load/tally"
)

// stuck is how long a sender that shall stop may still wait for room, before it reports as it is.
const stuck = 2 * time.Second

// retryAfter is the pause after an error.
const retryAfter = 10 * time.Millisecond

// sender sends numbered messages to one socket or message queue.
type sender struct {
	fd       int
	to       unix.Sockaddr // nil if fd is connected, or a queue
	queue    bool
	records  int // how many messages go into one packet of a framed source; 0: each is a datagram
	source   uint32
	min      int // bytes of the smallest message
	spread   int // by how many bytes the largest is longer
	count    uint64
	interval time.Duration // between messages; 0 for as fast as they are taken

	sent, bytes, again atomic.Uint64
	longest            atomic.Int64 // nanoseconds
	waits              []tally.Wait
	errors             map[string]uint64
}

// send is the command that sends.
func send(arguments []string, stop <-chan struct{}) (any, error) {
	flags := flag.NewFlagSet("send", flag.ContinueOnError)
	to := flags.String("to", "", "`PATH` of a datagram socket, @NAME of an abstract one, or of a message queue")
	source := flags.Uint("source", 1, "`NUMBER` of this source, different from all others")
	min := flags.Int("size", 100, "`BYTES` of the smallest message")
	spread := flags.Int("spread", 0, "`BYTES` that the largest message is longer")
	count := flags.Uint64("count", 0, "end after `N` messages; 0: at SIGTERM")
	rate := flags.Float64("rate", 0, "messages a second; 0: as fast as they are taken")
	unconnected := flags.Bool("unconnected", false, "name the receiver with every message instead of connecting")
	nonblocking := flags.Bool("nonblocking", false, "do not wait in the kernel: poll when told to come again")
	records := flags.Int("records", 0, "be a framed source: --to is a publish socket, and `N` messages go into one packet")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	if *to == "" {
		return nil, errors.New("nobody to send to: say --to")
	}
	if *min < tally.MinMessage || *spread < 0 {
		return nil, fmt.Errorf("a message has at least %d bytes", tally.MinMessage)
	}
	if largest := *records * (recordHeader + *min + *spread + 3); largest > maxPacket && *records > 1 {
		return nil, fmt.Errorf("packets of %d bytes; %d is the most", largest, maxPacket)
	}
	s := &sender{source: uint32(*source), min: *min, spread: *spread, count: *count, records: *records, errors: map[string]uint64{}}
	if *rate > 0 {
		s.interval = time.Duration(float64(time.Second) / *rate)
	}
	var err error
	if s.records > 0 {
		s.fd, _, err = greet(*to, nil)
	} else {
		err = s.open(*to, *unconnected, *nonblocking)
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(s.fd)
	ready()

	done := make(chan struct{})
	go func() {
		s.run(stop)
		close(done)
	}()
	select {
	case <-done:
	case <-stop:
		select {
		case <-done:
		case <-time.After(stuck):
			// In the kernel, where nothing but room in the queue or the end of the process ends the wait.
			return s.report(true), nil
		}
	}
	return s.report(false), nil
}

// open makes the socket or opens the queue.
func (s *sender) open(to string, unconnected, nonblocking bool) (err error) {
	if sys.IsQueue(to) {
		s.queue = true
		if s.fd, err = sys.OpenQueue(to); err != nil {
			return fmt.Errorf("cannot open queue: %w", err)
		}
		return nil
	}
	kind := unix.SOCK_DGRAM | unix.SOCK_CLOEXEC
	if nonblocking {
		kind |= unix.SOCK_NONBLOCK
	}
	if s.fd, err = unix.Socket(unix.AF_UNIX, kind, 0); err != nil {
		return fmt.Errorf("cannot make socket: %w", err)
	}
	address := &unix.SockaddrUnix{Name: to}
	if unconnected {
		s.to = address
		return nil
	}
	if err := unix.Connect(s.fd, address); err != nil {
		unix.Close(s.fd)
		return fmt.Errorf("cannot connect to %s: %w", to, err)
	}
	return nil
}

// run sends until everything is sent or stop is closed, or a framed source is hung up on.
func (s *sender) run(stop <-chan struct{}) {
	buffer := make([]byte, s.min+s.spread)
	var packet []byte
	next := time.Now()
	for number := uint64(1); s.count == 0 || number <= s.count; number++ {
		message := buffer[:tally.Size(number, s.min, s.spread)]
		tally.Put(message, s.source, number)
		size := len(message)
		if s.records > 0 {
			packet = appendRecord(packet[:0], message)
			for range s.records - 1 {
				if number == s.count {
					break
				}
				number++
				message = buffer[:tally.Size(number, s.min, s.spread)]
				tally.Put(message, s.source, number)
				packet = appendRecord(packet, message)
				size += len(message)
			}
			message = packet
		}
		began := time.Now()
		for {
			err := s.try(message)
			if err == nil {
				break
			}
			if stopped(stop) {
				return // this one was not taken
			}
			var errno unix.Errno
			if errors.As(err, &errno); errno != unix.EAGAIN {
				s.errors[unix.ErrnoName(errno)]++
				if s.records > 0 {
					return // the connection is gone
				}
				time.Sleep(retryAfter)
				continue
			}
			s.again.Add(1)
			s.waitForRoom()
		}
		s.note(time.Since(began))
		s.sent.Store(number)
		s.bytes.Add(uint64(size))
		if stopped(stop) {
			return
		}
		if s.interval > 0 {
			next = next.Add(s.interval)
			time.Sleep(time.Until(next))
		}
	}
}

// note notes how long the message waited that was just taken.
func (s *sender) note(took time.Duration) {
	s.longest.Store(max(s.longest.Load(), int64(took)))
	if took >= tally.LongWait && len(s.waits) < tally.MaxWaits {
		s.waits = append(s.waits, tally.Wait{At: time.Duration(monotonic() - int64(took)).Seconds(), For: took.Seconds()})
	}
}

// monotonic is CLOCK_MONOTONIC in nanoseconds: the clock of systemd's timestamps.
func monotonic() int64 {
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return now.Nano()
}

// try hands one message to the kernel. It waits if the socket does. Errors are [unix.Errno].
func (s *sender) try(message []byte) error {
	for {
		var err error
		switch {
		case s.queue:
			if errno := (sys.Kernel{}).QueueSend("load", s.fd, message); errno != 0 {
				err = errno
			}
		case s.to != nil:
			err = unix.Sendto(s.fd, message, unix.MSG_NOSIGNAL, s.to)
		default:
			err = unix.Send(s.fd, message, unix.MSG_NOSIGNAL)
		}
		if err != unix.EINTR {
			return err
		}
	}
}

// waitForRoom waits until it is worth trying again. For an unconnected socket nothing but time can tell.
func (s *sender) waitForRoom() {
	if s.to != nil {
		time.Sleep(time.Millisecond)
		return
	}
	// A limit, so that stop is seen.
	unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}, 100)
}

// report is the state of the sender.
func (s *sender) report(blocked bool) tally.Sender {
	r := tally.Sender{Source: s.source, Sent: s.sent.Load(), Bytes: s.bytes.Load(), Again: s.again.Load(),
		LongestWait: time.Duration(s.longest.Load()).Seconds(), Blocked: blocked}
	if !blocked { // otherwise run is still writing them
		r.Errors, r.Waits = s.errors, s.waits
	}
	return r
}
