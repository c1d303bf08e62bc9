// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// What a client does that is no library: socket, connect, send, recv.

// replyPatience is how long a client waits for an answer before it asks again. Short: brokers die young here.
const replyPatience = 300 * time.Millisecond

// askPatience is how long a client goes on asking. A broker that lives some milliseconds only does not get to everybody.
const askPatience = 3 * time.Minute

// ErrHungUp means that the channel hung up on a connection.
var ErrHungUp = errors.New("hung up")

// dial makes a socket of that type and connects it to the channel's socket name. The caller closes it.
func dial(dir, name string, kind int) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := retry(func() error { return unix.Connect(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, name)}) }); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("cannot connect to %s: %w", name, err)
	}
	return fd, nil
}

// retry calls f again for as long as a signal interrupts it: the runtime sends itself some, and calls with a timeout
// are not restarted (signal(7)).
func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// send is send(2).
func send(fd int, b []byte, flags int) error {
	return retry(func() error { return unix.Send(fd, b, flags|unix.MSG_NOSIGNAL) })
}

// receivePacket is receive on a connection: 0 is its end. Told once it may have come before what was sent last (unix_dgram_recvmsg looks
// for a packet first, and for the end second).
func receivePacket(fd int, b []byte, flags int) (n int, err error) {
	if n, err = receive(fd, b, flags); n == 0 && err == nil {
		n, err = receive(fd, b, flags)
	}
	return n, err
}

// receive is recv(2). The size is that of the whole datagram, however small b is.
func receive(fd int, b []byte, flags int) (n int, err error) {
	err = retry(func() error {
		n, _, err = unix.Recvfrom(fd, b, flags|unix.MSG_TRUNC)
		return err
	})
	return n, err
}

// receiveFrom is receive for a socket with SO_PASSCRED, with who has sent what it takes.
func receiveFrom(fd int, b []byte, flags int) (n int, who sys.Credentials, err error) {
	control := make([]byte, sys.ControlSpace)
	err = retry(func() error {
		var k int
		n, k, _, _, err = unix.Recvmsg(fd, b, control, flags|unix.MSG_TRUNC)
		if err == nil {
			who, _ = sys.FindCredentials(control[:k])
		}
		return err
	})
	return n, who, err
}

// timeouts sets how long sending and receiving on a blocking socket may take: EAGAIN afterwards.
func timeouts(fd int, sending, receiving time.Duration) error {
	s, r := unix.NsecToTimeval(int64(sending)), unix.NsecToTimeval(int64(receiving))
	return errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &s),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &r))
}

// ask has the channel settle a registration, again and again while no answer comes: registrations and answers may fall
// to a kill. The error is a *wire.Error if the channel refused.
func ask(dir string, r wire.Registration) (id uint64, err error) {
	r.Reply = true
	for deadline := time.Now().Add(askPatience); ; {
		id, err = askOnce(dir, r)
		// Consumed unread: three brokers were killed while they were at it, which was no fault of this one.
		var refusal *wire.Error
		if err == nil || errors.As(err, &refusal) && refusal.Code != wire.CodePoison && refusal.Code != wire.CodeInternal {
			return id, err
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("no answer to the registration of %s: %w", r.Address, err)
		}
	}
}

func askOnce(dir string, r wire.Registration) (id uint64, err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	// With an empty name the kernel chooses one.
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{}), timeouts(fd, patience, replyPatience)); err != nil {
		return 0, err
	}
	to := &unix.SockaddrUnix{Name: filepath.Join(dir, "register")}
	if err := retry(func() error { return unix.Sendto(fd, r.Append(nil), unix.MSG_NOSIGNAL, to) }); err != nil {
		return 0, fmt.Errorf("cannot send a registration: %w", err)
	}
	var b [wire.MaxReply]byte
	n, err := receive(fd, b[:], 0)
	if err != nil {
		return 0, err
	}
	reply, err := wire.ParseReply(b[:min(n, len(b))])
	if err != nil {
		return 0, err
	}
	if reply.Err != nil {
		return 0, reply.Err
	}
	return reply.ID, nil
}

// greet connects to publish or subscribe and says hello until the channel says ok. A hang-up before that is what a
// killed broker does; the wait before the next try, a second for polite clients, is short here.
func greet(dir, name string, h wire.Hello) (fd int, id uint64, err error) {
	for deadline := time.Now().Add(askPatience); ; time.Sleep(2 * time.Millisecond) {
		fd, id, err = greetOnce(dir, name, h)
		var refusal *wire.Error
		if err == nil || errors.As(err, &refusal) && refusal.Code != wire.CodeInternal {
			return fd, id, err
		}
		if time.Now().After(deadline) {
			return -1, 0, fmt.Errorf("no ok from %s: %w", name, err)
		}
	}
}

func greetOnce(dir, name string, h wire.Hello) (fd int, id uint64, err error) {
	fd, ok, err := helloOnce(dir, name, h)
	return fd, ok.ID, err
}

func helloOnce(dir, name string, h wire.Hello) (fd int, ok wire.Reply, err error) {
	if fd, err = dial(dir, name, unix.SOCK_SEQPACKET); err != nil {
		return -1, ok, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if err := errors.Join(timeouts(fd, patience, patience), send(fd, h.Append(nil), 0)); err != nil {
		return fd, ok, err
	}
	var b [wire.MaxReply]byte
	n, err := receivePacket(fd, b[:], 0)
	if err != nil {
		return fd, ok, err
	}
	if n == 0 {
		return fd, ok, ErrHungUp
	}
	if ok, err = wire.ParseReply(b[:min(n, len(b))]); err != nil {
		return fd, ok, err
	}
	if ok.Err != nil {
		return fd, ok, ok.Err
	}
	return fd, ok, nil
}

// Ask sends one request to the control socket. The broker must not be killed meanwhile.
func (k *Keeper) Ask(q wire.Request) (a wire.Answer, err error) {
	fd, err := dial(k.Setup.Dir, "control", unix.SOCK_SEQPACKET)
	if err != nil {
		return a, err
	}
	defer unix.Close(fd)
	text, err := json.Marshal(q)
	if err != nil {
		return a, err
	}
	if err := errors.Join(timeouts(fd, patience, patience), send(fd, text, 0)); err != nil {
		return a, fmt.Errorf("cannot ask the broker: %w", err)
	}
	var whole []byte
	buf := make([]byte, 256<<10)
	for {
		n, err := receivePacket(fd, buf, 0)
		if err != nil {
			return a, fmt.Errorf("no answer from the broker: %w", err)
		}
		if n == 0 {
			break
		}
		whole = append(whole, buf[:n]...)
	}
	if err := json.Unmarshal(whole, &a); err != nil {
		return a, fmt.Errorf("no answer from the broker: %w", err)
	}
	if a.Error != nil {
		return a, a.Error
	}
	return a, nil
}

// List asks for the status and all sinks.
func (k *Keeper) List() (*wire.Status, []wire.Sink, error) {
	a, err := k.Ask(wire.Request{Op: wire.OpList})
	if err != nil {
		return nil, nil, err
	}
	return a.Status, a.Sinks, nil
}
