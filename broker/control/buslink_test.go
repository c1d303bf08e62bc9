// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// message is a method call as the library writes it.
func message(t testing.TB, order binary.ByteOrder, flags dbus.Flags, path string, body ...any) []byte {
	t.Helper()
	m := &dbus.Message{Type: dbus.TypeMethodCall, Flags: flags, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath(path)),
		dbus.FieldInterface: dbus.MakeVariant(BusInterface),
		dbus.FieldMember:    dbus.MakeVariant("Call"),
		dbus.FieldSender:    dbus.MakeVariant(":1.17"),
	}, Body: body}
	if len(body) > 0 {
		m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(body...))
	}
	var out bytes.Buffer
	if err := m.EncodeTo(&out, order); err != nil {
		// The library wants a serial, and gives none itself here.
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestLinkLetsThrough what is short enough and in one piece, and tells of calls that are not.
func TestLinkLetsThrough(t *testing.T) {
	long := strings.Repeat("x", maxBusMessage)
	longPath := "/" + strings.Repeat("x", maxFields)
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		small, other := message(t, order, 0, BusPath), message(t, order, 0, BusPath, "word", uint32(3))
		var stream, want []byte
		for _, m := range [][]byte{
			small,
			message(t, order, 0, BusPath, long), // told
			other,
			message(t, order, dbus.FlagNoReplyExpected, BusPath, long),
			message(t, order, 0, longPath, long), // nobody knows who sent it
			message(t, order, 0, BusPath, long, long),
			small,
		} {
			stream = append(stream, m...)
			if len(m) < maxBusMessage {
				want = append(want, m...)
			}
		}
		ours, theirs := net.Pipe()
		var told []string
		l := newLink(ours, busPatience, new(pace), func(sender string, _ uint32, _ string) { told = append(told, sender) })
		l.framed = true
		go func() {
			theirs.Write(stream)
			theirs.Close()
		}()
		got, err := io.ReadAll(l)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: %d bytes came through, want %d; %v", order, len(got), len(want), err)
		}
		if !slices.Equal(told, []string{":1.17", ":1.17"}) {
			t.Errorf("%v: told of %q", order, told)
		}
	}
}

// TestLinkKeepsItsPace: a quarter of the time.
func TestLinkKeepsItsPace(t *testing.T) {
	var p pace
	began := time.Now()
	for range 100 {
		time.Sleep(p.rest())
		p.charge(time.Millisecond)
	}
	if d := time.Since(began); d < 300*time.Millisecond-burst-10*time.Millisecond {
		t.Errorf("100 ms of work took %v", d)
	}
	p.charge(time.Hour)
	if d := p.rest(); d > maxDebt {
		t.Errorf("an hour of work rests for %v", d)
	}
}

// TestLinkHangsUp on a bus that does not read.
func TestLinkHangsUpWhenItCannotSend(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	l := newLink(ours, busPatience, new(pace), nil)
	ours.Close()
	if _, err := l.Write([]byte("x")); err == nil {
		t.Error("no error")
	}
}

// FuzzLink: whatever comes, nothing but whole messages that are short enough goes through, and nothing breaks.
func FuzzLink(f *testing.F) {
	f.Add(message(f, binary.LittleEndian, 0, BusPath, "word"))
	// Only the beginning: long inputs make fuzzing slow.
	f.Add(message(f, binary.BigEndian, 0, BusPath, strings.Repeat("x", maxBusMessage))[:300])
	f.Add([]byte("l\x01\x00\x01\xff\xff\xff\xff\x01\x00\x00\x00\x08\x00\x00\x00\x07\x01s\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		// A pace that is ahead of itself by far: no rests.
		l := newLink(pipe{bytes.NewReader(b)}, busPatience, &pace{until: time.Now().Add(-time.Hour)}, func(sender string, _ uint32, _ string) {
			if !bytes.Contains(b, []byte(sender)) {
				t.Errorf("the sender %q did not come", sender)
			}
		})
		l.framed = true
		io.Copy(io.Discard, l)
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			if len(b) >= fixedHeader {
				senderOf(b, order)
			}
		}
	})
}

// pipe is a connection that only reads.
type pipe struct{ io.Reader }

func (pipe) Write(p []byte) (int, error)      { return len(p), nil }
func (pipe) Close() error                     { return nil }
func (pipe) LocalAddr() net.Addr              { return nil }
func (pipe) RemoteAddr() net.Addr             { return nil }
func (pipe) SetDeadline(time.Time) error      { return nil }
func (pipe) SetReadDeadline(time.Time) error  { return nil }
func (pipe) SetWriteDeadline(time.Time) error { return nil }
