// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/units/rig/load/tally"
)

// Framed clients, written from docs/protocol.md alone: packets of records over SOCK_SEQPACKET.
const (
	recordHeader = 4
	sinkHeader   = 16
	maxPacket    = 64 << 10
	// comeAgain is how long a client waits that was hung up on before its ok.
	comeAgain = time.Second
)

// appendRecord appends a message as a record: its length, its bytes, and zeros up to a multiple of 4.
func appendRecord(packet, message []byte) []byte {
	packet = binary.LittleEndian.AppendUint32(packet, uint32(len(message)))
	packet = append(packet, message...)
	for len(packet)%4 != 0 {
		packet = append(packet, 0)
	}
	return packet
}

// greet connects to a publish or subscribe socket and says hello, again and again until there is an answer: a broker that
// ends meanwhile hangs up on who has no ok yet. It returns that ok.
func greet(path string, options []string) (fd int, ok string, err error) {
	for deadline := time.Now().Add(answerTimeout); ; time.Sleep(comeAgain) {
		fd, answer, err := hello(path, options)
		switch {
		case strings.HasPrefix(answer, "ok"):
			return fd, answer, nil
		case answer != "":
			return -1, "", fmt.Errorf("cannot say hello to %s: %s", path, strings.TrimSpace(answer))
		case err != nil && time.Now().After(deadline):
			return -1, "", fmt.Errorf("cannot say hello to %s: %w", path, err)
		}
	}
}

// hello is one attempt of greet. The descriptor is open only with an answer that is ok.
func hello(path string, options []string) (fd int, answer string, err error) {
	if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, "", err
	}
	defer func() {
		if !strings.HasPrefix(answer, "ok") {
			unix.Close(fd)
		}
	}()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return -1, "", err
	}
	text := strings.Join(append([]string{"msgmux/1"}, options...), "\n") + "\n"
	if err := unix.Send(fd, []byte(text), unix.MSG_NOSIGNAL); err != nil {
		return -1, "", err
	}
	buffer := make([]byte, 4096)
	n, err := receivePacket(fd, buffer, answerTimeout)
	if err != nil {
		return -1, "", err
	}
	return fd, string(buffer[:n]), nil
}

// errHungUp is the end of a connection.
var errHungUp = errors.New("the broker has hung up")

// receivePacket receives one packet and waits for it for at most limit (EAGAIN).
func receivePacket(fd int, buffer []byte, limit time.Duration) (int, error) {
	for ended := false; ; {
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(limit.Milliseconds())); err == unix.EINTR {
			continue
		}
		n, _, err := unix.Recvfrom(fd, buffer, unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
		case err == nil && n == 0 && !ended:
			ended = true // told once it may have come before what was sent last
		case err == nil && n == 0:
			return 0, errHungUp
		default:
			return n, err
		}
	}
}

// subscribe is the command that receives as a framed sink.
func subscribe(arguments []string, stop <-chan struct{}) (any, error) {
	var options []string
	flags := flag.NewFlagSet("subscribe", flag.ContinueOnError)
	from := flags.String("from", "", "`PATH` of the channel's subscribe socket")
	flags.Func("option", "`KEY=VALUE` of the hello; may be repeated", func(option string) error {
		options = append(options, option)
		return nil
	})
	delay := flags.Duration("delay", 0, "pause after each packet")
	settle := flags.Duration("settle", 300*time.Millisecond, "after SIGTERM, go on until nothing has come for so long")
	largest := flags.Int("largest", 256<<10, "`BYTES` of the largest message")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	fd, _, err := greet(*from, options)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	ready()

	var t tally.Tally
	var p packets
	buffer := make([]byte, sinkHeader+recordHeader+max(*largest+3, maxPacket))
	var idle time.Time // since when nothing has come, once this is to stop
	for {
		// A limit, so that stop is seen.
		n, err := receivePacket(fd, buffer, 50*time.Millisecond)
		switch {
		case err == nil:
			idle = time.Time{}
			p.take(&t, buffer[:n])
			time.Sleep(*delay)
		case err != unix.EAGAIN:
			return nil, fmt.Errorf("cannot receive from %s: %w", *from, err)
		case !stopped(stop):
		case idle.IsZero():
			idle = time.Now()
		case time.Since(idle) > *settle:
			report := t.Report(*from)
			report.Told = p.lost
			return []tally.Sink{report}, nil
		}
	}
}

// packets is what the headers of the packets have told so far.
type packets struct {
	next uint64 // the number that the next record has; 0: none has come
	lost uint64
}

// take counts the messages of one packet. A packet that breaks a rule counts as one message that is not whole.
func (p *packets) take(t *tally.Tally, b []byte) {
	if len(b) < sinkHeader+recordHeader {
		t.Add(nil)
		return
	}
	first, lost := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	// A gap in the numbers is what was lost, no more and no less.
	if p.next != 0 && first-p.next != lost-p.lost {
		t.Add(nil)
	}
	p.next, p.lost = first, lost
	for b = b[sinkHeader:]; len(b) > 0; p.next++ {
		if len(b) < recordHeader {
			t.Add(nil)
			return
		}
		n := int(binary.LittleEndian.Uint32(b))
		padded := (recordHeader + n + 3) &^ 3
		if n > len(b) || padded > len(b) {
			t.Add(nil)
			return
		}
		t.Add(b[recordHeader : recordHeader+n])
		b = b[padded:]
	}
}
