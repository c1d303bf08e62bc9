// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/view"
)

// keep is the command that sees each message exactly once, however often it is killed: it is a kept sink that stores its place
// with what it does. What it does is to append lines to a file,
//
//	EPOCH NUMBER MESSAGE
//
// all of a packet with one write(2), and the last whole line is its place.
func keep(arguments []string, stop <-chan struct{}) (any, error) {
	flags := flag.NewFlagSet("keep", flag.ContinueOnError)
	from := flags.String("from", "", "`PATH` of the channel's subscribe socket")
	label := flags.String("label", "", "`NAME` that the place is kept under")
	log := flags.String("log", "", "`FILE` to append to")
	inView := flags.Bool("view", false, "read the channel's memory")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(*log, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for !stopped(stop) {
		last, err := lastLine(file)
		if err != nil {
			return nil, err
		}
		options, goOn := []string{"label=" + *label, "ack=yes", "keep=1h", "replace=yes", "patience=forever"}, keepOn
		if *inView {
			options[1], goOn = "view=yes", viewOn
		}
		if last != "" {
			var epoch string
			var number uint64
			if _, err := fmt.Sscan(last, &epoch, &number); err != nil {
				return nil, fmt.Errorf("cannot read %q in %s: %w", last, *log, err)
			}
			options = append(options, fmt.Sprintf("from=%s:%d", epoch, number+1))
		}
		fd, ok, err := greet(*from, options)
		if err != nil {
			return nil, err
		}
		ready()
		_, epoch, _ := strings.Cut(ok, " epoch=")
		epoch, _, _ = strings.Cut(epoch, " ")
		err = goOn(fd, epoch, file, stop)
		unix.Close(fd)
		if err != nil && !errors.Is(err, errHungUp) {
			return nil, fmt.Errorf("cannot go on with %s: %w", *from, err)
		}
	}
	return nil, nil
}

// keepOn writes down what comes on a connection and acknowledges it, until the broker hangs up or stop is closed.
func keepOn(fd int, epoch string, file *os.File, stop <-chan struct{}) error {
	packet := make([]byte, sinkHeader+recordHeader+maxPacket)
	var lines []byte
	for !stopped(stop) {
		n, err := receivePacket(fd, packet, 50*time.Millisecond)
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return err
		}
		if n < sinkHeader || bytes.HasPrefix(packet, []byte("error ")) {
			return fmt.Errorf("the broker said %.200q", packet[:n])
		}
		next := binary.LittleEndian.Uint64(packet)
		lines, next = appendLines(lines[:0], epoch, next, packet[sinkHeader:n])
		if _, err := file.Write(lines); err != nil {
			return err
		}
		ack := binary.LittleEndian.AppendUint64(nil, next)
		if err := unix.Send(fd, ack, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT); err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EPIPE) {
			return err
		}
	}
	return nil
}

// appendLines appends a line for each record, the first of which has the number next, and returns the number behind the last.
func appendLines(lines []byte, epoch string, next uint64, records []byte) ([]byte, uint64) {
	for b := records; len(b) >= recordHeader; next++ {
		size := int(binary.LittleEndian.Uint32(b))
		lines = fmt.Appendf(lines, "%s %d %s\n", epoch, next, b[recordHeader:recordHeader+size])
		b = b[(recordHeader+size+3)&^3:]
	}
	return lines, next
}

// viewOn is keepOn for a sink in view.
func viewOn(fd int, epoch string, file *os.File, stop <-chan struct{}) error {
	reader, err := openView(fd)
	if err != nil {
		return err
	}
	defer reader.Close()
	buffer := make([]byte, maxPacket)
	var lines []byte
	for !stopped(stop) {
		b, err := reader.Read(buffer, math.MaxUint64)
		switch {
		case err != nil:
			return err
		case b.Need > 0:
			buffer = make([]byte, b.Need)
			continue
		case b.Count == 0:
			if reader.Over() || reader.Sleep() {
				err = waitView(fd, reader)
			}
			if reader.Wake(); err != nil {
				return err
			}
			continue
		}
		var next uint64
		lines, next = appendLines(lines[:0], epoch, b.First, buffer[:b.Size])
		if _, err := file.Write(lines); err != nil {
			return err
		}
		if reader.Say(next) {
			_ = unix.Send(fd, binary.LittleEndian.AppendUint64(nil, next), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT) // it is asked again
		}
	}
	return nil
}

// openView waits for what a sink in view is given.
func openView(fd int) (*view.Reader, error) {
	for {
		_, fds, err := receiveView(fd)
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err == nil && len(fds) != 2 {
			err = fmt.Errorf("%d descriptors came", len(fds))
		}
		if err != nil {
			return nil, err
		}
		defer sys.CloseDescriptors(fds)
		return view.NewReader(fds[0], fds[1])
	}
}

// waitView waits for a packet, not for long.
func waitView(fd int, reader *view.Reader) error {
	packet, fds, err := receiveView(fd)
	defer sys.CloseDescriptors(fds)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case err != nil:
		return err
	case len(packet) != sinkHeader:
		return fmt.Errorf("the broker said %.200q", packet)
	case len(fds) == 2:
		return reader.Move(fds[0])
	}
	return nil
}

func receiveView(fd int) (packet []byte, fds []int, err error) {
	set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if _, err := unix.Poll(set, 50); err != nil && !errors.Is(err, unix.EINTR) {
		return nil, nil, err
	}
	packet = make([]byte, 1024)
	n, fds, errno := sys.RecvDescriptors(fd, packet)
	switch {
	case errno == unix.ECONNRESET, errno == 0 && n == 0:
		return nil, nil, errHungUp
	case errno != 0:
		return nil, nil, errno
	}
	return packet[:n], fds, nil
}

// lastLine is the last whole line of a file, "" if there is none. What stands behind it, of a write that a kill has cut, is cut off.
func lastLine(file *os.File) (string, error) {
	all, err := os.ReadFile(file.Name())
	if err != nil {
		return "", err
	}
	all = all[:bytes.LastIndexByte(all, '\n')+1]
	if err := file.Truncate(int64(len(all))); err != nil || len(all) == 0 {
		return "", err
	}
	whole := all[:len(all)-1]
	return string(whole[bytes.LastIndexByte(whole, '\n')+1:]), nil
}
