// SPDX-License-Identifier: Apache-2.0

package brokertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/wire"
)

// Clients of a broker's sockets that know no library: what any program would do. They take the folder of the sockets,
// so they serve a broker in this process and one in another. Their descriptors are closed when the test ends. One
// goroutine at a time may use a client.

// Within is how long a client waits for anything that is to come by itself; only waited for when it does not come.
const Within = 10 * time.Second

// received is a client's receive buffer. It holds every packet of a channel with the usual --max-message.
type received struct{ buf []byte }

// Expect makes room for messages of that size.
func (r *received) Expect(size int) { r.buf = make([]byte, size+64) }

func (r *received) room() []byte {
	if r.buf == nil {
		r.Expect(256 << 10)
	}
	return r.buf
}

var names atomic.Uint64

// Name is an abstract name that nobody else uses.
func Name() string { return fmt.Sprintf("@mmtest-%d-%d", os.Getpid(), names.Add(1)) }

// Source is a plain source: each datagram is a message.
type Source struct{ Conn *net.UnixConn }

// NewSource connects to the source socket, with a send buffer that takes the largest message.
func NewSource(t testing.TB, dir string) *Source {
	t.Helper()
	return NewSourceAt(t, dir+"/source")
}

// NewSourceAt is NewSource for a source socket elsewhere.
func NewSourceAt(t testing.TB, path string) *Source {
	t.Helper()
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetWriteBuffer(4 << 20); err != nil {
		t.Fatal(err)
	}
	return &Source{conn}
}

// Send sends a message, and waits for room.
func (s *Source) Send(message []byte) error { return send(s.Conn, message, true) }

// TrySend is Send without waiting: EAGAIN.
func (s *Source) TrySend(message []byte) error { return send(s.Conn, message, false) }

// send sends a datagram or packet, of no bytes too: net.UnixConn.Write does not wait for room for that.
func send(conn *net.UnixConn, b []byte, wait bool) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	conn.SetWriteDeadline(time.Now().Add(Within))
	var inner error
	err = raw.Write(func(fd uintptr) bool {
		_, inner = unix.SendmsgN(int(fd), b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return !wait || inner != unix.EAGAIN
	})
	if err != nil {
		return err
	}
	return inner
}

// Sink is a datagram socket that was registered.
type Sink struct {
	Name string // as a registration has it
	ID   uint64
	Conn *net.UnixConn
	received
}

// NewSocket binds a datagram socket to name, which becomes no sink by that.
func NewSocket(t testing.TB, name string) *Sink {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &Sink{Name: name, Conn: conn}
}

// NewSink binds a socket and registers it; options are lines as in "patience=0".
func NewSink(t testing.TB, dir string, options ...string) *Sink {
	t.Helper()
	s := NewSocket(t, Name())
	r := Register(t, dir, append([]string{s.Name}, options...)...)
	if r.Err != nil {
		t.Fatalf("cannot register %s: %v", s.Name, r.Err)
	}
	s.ID = r.ID
	return s
}

// Register sends a registration of these lines, and reply=yes, and returns the answer.
func Register(t testing.TB, dir string, lines ...string) wire.Reply {
	t.Helper()
	asker := NewSocket(t, Name())
	defer asker.Close()
	return asker.Register(t, dir, lines...)
}

// Register is the same from a socket of the caller's: the answer comes to it.
func (s *Sink) Register(t testing.TB, dir string, lines ...string) wire.Reply {
	t.Helper()
	text := strings.Join(lines, "\n") + "\nreply=yes\n"
	s.Conn.SetWriteDeadline(time.Now().Add(Within))
	if _, err := s.Conn.WriteToUnix([]byte(text), &net.UnixAddr{Name: dir + "/register", Net: "unixgram"}); err != nil {
		t.Fatalf("cannot register %q: %v", text, err)
	}
	b, err := s.Receive()
	if err != nil {
		t.Fatalf("no answer to %q: %v", text, err)
	}
	r, err := wire.ParseReply(b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Receive waits for a message. It is the caller's until the next call.
func (s *Sink) Receive() ([]byte, error) { return s.ReceiveWithin(Within) }

// ReceiveWithin is Receive that waits for at most d; then the error is os.ErrDeadlineExceeded.
func (s *Sink) ReceiveWithin(d time.Duration) ([]byte, error) {
	s.Conn.SetReadDeadline(time.Now().Add(d))
	n, err := s.Conn.Read(s.room())
	return s.buf[:n], err
}

// Close closes the socket; the broker is not told.
func (s *Sink) Close() { s.Conn.Close() }

// Client is a connection to publish or subscribe.
type Client struct {
	ID   uint64
	Conn *net.UnixConn
	meta bool // packets have origins
	received
}

// Dial connects to publish, subscribe or control.
func Dial(t testing.TB, dir, socket string) *Client {
	t.Helper()
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: dir + "/" + socket, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetWriteBuffer(4 << 20); err != nil {
		t.Fatal(err)
	}
	return &Client{Conn: conn}
}

// Greet connects, says hello with these option lines, and returns the answer.
func Greet(t testing.TB, dir, socket string, options ...string) (*Client, wire.Reply) {
	t.Helper()
	c := Dial(t, dir, socket)
	c.meta = slices.Contains(options, "meta=yes")
	if err := c.SendPacket([]byte(strings.Join(append([]string{wire.Protocol}, options...), "\n"))); err != nil {
		t.Fatal(err)
	}
	b, err := c.ReceivePacket()
	if err != nil {
		t.Fatalf("no answer to the hello: %v", err)
	}
	r, err := wire.ParseReply(b)
	if err != nil {
		t.Fatal(err)
	}
	c.ID = r.ID
	return c, r
}

// NewPublisher is a framed source that was told ok.
func NewPublisher(t testing.TB, dir string, options ...string) *Client {
	t.Helper()
	return attached(t, dir, "publish", options)
}

// NewSubscriber is a framed sink that was told ok.
func NewSubscriber(t testing.TB, dir string, options ...string) *Client {
	t.Helper()
	return attached(t, dir, "subscribe", options)
}

func attached(t testing.TB, dir, socket string, options []string) *Client {
	t.Helper()
	c, r := Greet(t, dir, socket, options...)
	if r.Err != nil {
		t.Fatalf("%s: %v", socket, r.Err)
	}
	return c
}

// Send sends these messages as one packet, and waits for room.
func (c *Client) Send(messages ...[]byte) error {
	var b []byte
	for _, m := range messages {
		b = wire.AppendRecord(b, m)
	}
	return c.SendPacket(b)
}

// SendPacket sends a packet as it is.
func (c *Client) SendPacket(b []byte) error { return send(c.Conn, b, true) }

// TrySend is Send without waiting: EAGAIN.
func (c *Client) TrySend(messages ...[]byte) error {
	var b []byte
	for _, m := range messages {
		b = wire.AppendRecord(b, m)
	}
	return send(c.Conn, b, false)
}

// ReceivePacket waits for a packet, io.EOF at the end of the connection. It is the caller's until the next call.
func (c *Client) ReceivePacket() ([]byte, error) { return c.ReceivePacketWithin(Within) }

// ReceivePacketWithin is ReceivePacket that waits for at most d; then the error is os.ErrDeadlineExceeded. The kernel may tell of
// the end, in either form once, before it gives what the broker sent before that: see "When the broker hangs up" in the protocol.
func (c *Client) ReceivePacketWithin(d time.Duration) ([]byte, error) {
	c.Conn.SetReadDeadline(time.Now().Add(d))
	n, err := c.Conn.Read(c.room())
	for ends := 1; ends < 3 && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)); ends++ {
		n, err = c.Conn.Read(c.buf)
	}
	return c.buf[:n], err
}

// Receive waits for a packet of records.
func (c *Client) Receive() (wire.SinkPacket, error) { return c.ReceiveWithin(Within) }

// ReceiveWithin is Receive that waits for at most d.
func (c *Client) ReceiveWithin(d time.Duration) (wire.SinkPacket, error) {
	b, err := c.ReceivePacketWithin(d)
	if err != nil {
		return wire.SinkPacket{}, err
	}
	if c.meta {
		return wire.ParseMetaPacket(b)
	}
	return wire.ParseSinkPacket(b)
}

// Close hangs up.
func (c *Client) Close() { c.Conn.Close() }

// Ask asks the control socket, and returns its answer.
func Ask(t testing.TB, dir string, q wire.Request) wire.Answer {
	t.Helper()
	b, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	c := Dial(t, dir, "control")
	defer c.Close()
	if err := c.SendPacket(b); err != nil {
		t.Fatal(err)
	}
	a, err := c.Answer()
	if err != nil {
		t.Fatalf("no answer from control to %s: %v", b, err)
	}
	return a
}

// Answer reads what control answers, to the end of the connection.
func (c *Client) Answer() (a wire.Answer, err error) {
	var whole []byte
	for {
		b, err := c.ReceivePacket()
		if errors.Is(err, io.EOF) {
			return a, json.Unmarshal(whole, &a)
		}
		if err != nil {
			return a, err
		}
		whole = append(whole, b...)
	}
}
