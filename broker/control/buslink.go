// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// A bus carries what any user of the host sends, in messages of up to 128 MiB (D-Bus specification, "Message Protocol"),
// and the library takes each into memory and starts a goroutine for each call. So what comes is limited before it gets
// there, in size and in time.

const (
	// maxBusMessage is the largest message that is let through, in bytes. What is meant for us has a few hundred.
	maxBusMessage = 64 << 10
	// fixedHeader is the size of what every message begins with: byte order, type, flags, version, length of the body,
	// serial, length of the array of header fields.
	fixedHeader = 16
	// maxFields bounds the header fields of a message that is looked at for its sender, with what comes before them.
	maxFields = 8 << 10
	// linkBuffer holds many messages: reading is most of what passing over one costs.
	linkBuffer = 64 << 10
	// busPatience is how long the bus may take to read what we send it.
	busPatience = 10 * time.Second

	typeMethodCall  = 1
	flagNoReply     = 1
	fieldSender     = 7
	busItself       = "org.freedesktop.DBus" // answers to what we ask; nobody else can have that name
	callCost        = 250 * time.Microsecond // what a message costs, about, before anybody looks at it
	maxDebt         = time.Second
	restForEachWork = 3
)

// link is the connection to a bus, as the library sees it. One goroutine reads and one at a time writes.
type link struct {
	net.Conn
	patience time.Duration // how long one Write may take
	pace     *pace
	// refuse answers a call that was not let through, from the goroutine that reads.
	refuse func(sender string, serial uint32, why string)
	shares shares

	r      *bufio.Reader
	framed bool  // messages come, after the lines of the authentication
	left   int64 // bytes of the message that is being read
}

func newLink(conn net.Conn, patience time.Duration, p *pace, refuse func(sender string, serial uint32, why string)) *link {
	return &link{Conn: conn, patience: patience, pace: p, refuse: refuse, r: bufio.NewReaderSize(conn, linkBuffer)}
}

// Write sends, and hangs up if that does not work: half a message cannot be followed by another.
func (l *link) Write(p []byte) (int, error) {
	l.SetWriteDeadline(time.Now().Add(l.patience))
	n, err := l.Conn.Write(p)
	if err != nil {
		l.Close()
	}
	// The last line of the authentication is ours, and the library begins to read messages after it was sent.
	if !l.framed && bytes.Equal(p, []byte("BEGIN\r\n")) {
		l.framed = true
	}
	return n, err
}

// Read gives the library what came, message by message.
func (l *link) Read(p []byte) (int, error) {
	if !l.framed {
		return l.r.Read(p)
	}
	for l.left == 0 {
		if err := l.next(); err != nil {
			return 0, err
		}
	}
	n, err := l.r.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	return n, err
}

var errNoMessage = errors.New("what came from the bus is no message")

// next looks at the beginning of a message, and passes over it if it is too long, or one too many.
func (l *link) next() error {
	head, err := l.r.Peek(fixedHeader)
	if err != nil {
		return err
	}
	var order binary.ByteOrder = binary.LittleEndian
	switch head[0] {
	case 'l':
	case 'B':
		order = binary.BigEndian
	default:
		return errNoMessage
	}
	kind, flags := head[1], head[2]
	body, serial, fields := order.Uint32(head[4:]), order.Uint32(head[8:]), order.Uint32(head[12:])
	size := fixedHeader + (int64(fields)+7)/8*8 + int64(body)
	sender := ""
	if fields <= maxFields-fixedHeader {
		if head, err = l.r.Peek(fixedHeader + int(fields)); err != nil {
			return err
		}
		sender = senderOf(head, order)
	}
	why := ""
	switch rest := l.pace.rest(); {
	case size > maxBusMessage:
		why = fmt.Sprintf("a message has at most %d bytes", maxBusMessage)
	case sender != busItself && !l.shares.take(time.Now(), sender, rest):
		why = "too many calls; try again in a second"
	default:
		time.Sleep(rest)
		l.pace.charge(callCost)
		l.left = size
		return nil
	}
	if _, err := io.CopyN(io.Discard, l.r, size); err != nil {
		return err
	}
	if kind == typeMethodCall && flags&flagNoReply == 0 && sender != "" && l.shares.refuse() {
		l.refuse(sender, serial, why)
	}
	return nil
}

// senderOf finds the sender among the header fields, "" if it is not there: an array of structures, each aligned to 8,
// of a byte that says which field it is, and a variant. The bus has checked the message, and wrote this field itself.
func senderOf(head []byte, order binary.ByteOrder) string {
	i := fixedHeader
	align := func(n int) { i = (i + n - 1) / n * n }
	for i+4 < len(head) {
		align(8)
		if i+4 > len(head) {
			break
		}
		field, signature := head[i], int(head[i+1])
		if signature != 1 {
			break // no field that we know has another kind of value
		}
		kind := head[i+2]
		i += 4
		size := 0
		switch kind {
		case 's', 'o':
			align(4)
			if i+4 > len(head) {
				return ""
			}
			if size = int(order.Uint32(head[i:])); size > len(head) {
				return ""
			}
			i += 4
		case 'g':
			if i >= len(head) {
				return ""
			}
			size = int(head[i])
			i++
		case 'u':
			align(4)
			i += 4
			continue
		default:
			return ""
		}
		if i+size+1 > len(head) {
			return ""
		}
		if field == fieldSender {
			return string(head[i : i+size])
		}
		i += size + 1
	}
	return ""
}

// pace keeps what the bus makes this process do down to a quarter of one processor's time: after each piece of work
// comes a rest three times as long, in which nothing is read; of those who send too much, see shares.
type pace struct {
	mu    sync.Mutex
	until time.Time
}

// charge says that work took d.
func (p *pace) charge(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.until.Before(now) {
		p.until = now
	}
	p.until = p.until.Add(restForEachWork * d)
	if limit := now.Add(maxDebt); p.until.After(limit) {
		p.until = limit
	}
}

// burst is how far ahead of its pace the bus may be: enough for a tool that asks a few things and goes.
const burst = 50 * time.Millisecond

// rest is how long to rest before the next piece of work.
func (p *pace) rest() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := time.Until(p.until); d > burst { // not by subtraction: of a time long past, nothing can be subtracted
		return d - burst
	}
	return 0
}
