// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// Clients that share memory with the broker: sinks in view and sources with a stage.

// receiveShort waits for a packet that may have descriptors, which are the caller's. The error tells of the end, and of what the broker
// has said.
func receiveShort(fd int, within time.Duration) (packet []byte, fds []int, err error) {
	set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if err := retry(func() error { _, err := unix.Poll(set, int(within/time.Millisecond)); return err }); err != nil {
		return nil, nil, err
	}
	b := make([]byte, wire.MaxReply)
	n, fds, errno := sys.RecvDescriptors(fd, b)
	switch {
	case errno == unix.EAGAIN:
		return nil, fds, errors.New("nothing came")
	case errno != 0:
		return nil, fds, errno
	case n == 0:
		return nil, fds, ErrHungUp
	case bytes.HasPrefix(b[:n], []byte("error ")):
		return nil, fds, fmt.Errorf("told %q", b[:n])
	}
	return b[:n], fds, nil
}

// openStage receives the stage of a source, and maps it.
func openStage(fd int) (*view.Writer, error) {
	packet, fds, err := receiveShort(fd, patience)
	defer sys.CloseDescriptors(fds)
	if err == nil && len(fds) != 1 {
		err = fmt.Errorf("%d descriptors came with %q", len(fds), packet)
	}
	if err != nil {
		return nil, err
	}
	return view.NewWriter(fds[0])
}

// putStaged puts records into a stage, with a mark if the source marks, and waits for room.
func putStaged(fd int, stage *view.Writer, records []byte, mark uint64, marks bool) error {
	for {
		switch done, wake := stage.Put(records, mark, marks); {
		case wake:
			if err := send(fd, []byte{0}, unix.MSG_DONTWAIT); err != nil && err != unix.EAGAIN {
				return err
			}
			return nil
		case done:
			return nil
		case stage.Want(len(records)):
			_, fds, err := receiveShort(fd, blocked)
			sys.CloseDescriptors(fds)
			if err != nil {
				return fmt.Errorf("no room in the stage: %w", err)
			}
		}
	}
}

// window is what a sink in view sees, and where it says what it has done.
type window struct {
	fd     int
	reader *view.Reader
	buf    []byte
	moves  int
}

// receive waits for a packet, and does what it is for.
func (w *window) receive() error {
	packet, fds, err := receiveShort(w.fd, patience)
	defer sys.CloseDescriptors(fds)
	switch {
	case err != nil:
		return err
	case len(packet) != wire.SinkHeader:
		return fmt.Errorf("a packet of %d bytes came", len(packet))
	case len(fds) == 0:
		return nil
	case len(fds) != 2:
		return fmt.Errorf("%d descriptors came", len(fds))
	case w.reader == nil:
		w.reader, err = view.NewReader(fds[0], fds[1])
		return err
	}
	w.moves++
	return w.reader.Move(fds[0])
}

// look copies out what is there, or waits for something. What it returns may be nothing still.
func (w *window) look() (b view.Batch, err error) {
	b, err = w.reader.Read(w.buf, math.MaxUint64)
	switch {
	case err != nil:
	case b.Need > 0:
		w.buf = make([]byte, b.Need)
	case b.Count == 0:
		if w.reader.Over() || w.reader.Sleep() {
			err = w.receive()
		}
		w.reader.Wake()
	}
	return b, err
}

// say says that everything numbered below done is done.
func (w *window) say(done uint64) error {
	if w.reader.Say(done) {
		return send(w.fd, wire.AppendAck(nil, done), unix.MSG_DONTWAIT)
	}
	return nil
}

func (w *window) close() {
	unix.Close(w.fd)
	if w.reader != nil {
		w.reader.Close()
	}
}
