// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"encoding/binary"
	"errors"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// onSmallSockets is a marked source whose kernel carries packets of up to most bytes, as one with a low net.core.wmem_max does, and its
// broker, which would take more.
func onSmallSockets(t *testing.T, most int) (*Source, *net.UnixConn) {
	t.Helper()
	dir := test.Folder(t)
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(dir, "publish"), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	came := make(chan *net.UnixConn, 1)
	go func() {
		conn, err := listener.AcceptUnix()
		if err == nil {
			_, err = conn.Read(make([]byte, wire.MaxReply))
		}
		if err == nil {
			_, err = conn.Write([]byte("ok id=7 epoch=1 mark=5 max-message=4194304\n"))
		}
		if err != nil {
			t.Error(err)
		}
		came <- conn
	}()
	s, err := Channel{RuntimeDir: dir}.Dial(t.Context(), SourceOptions{Label: "tail", Marks: true})
	if err != nil {
		t.Fatal(err)
	}
	conn := <-came
	t.Cleanup(func() { s.Close(); conn.Close() })
	s.out.try = func(fd uintptr) bool {
		if len(s.out.packet) > most {
			s.out.err = syscall.EMSGSIZE
			return true
		}
		return s.try(fd)
	}
	return s, conn
}

// TestMarkedBatchLeavesOutWhatIsTooLarge for a socket of this host, although the broker would take it, and sends the mark.
func TestMarkedBatchLeavesOutWhatIsTooLarge(t *testing.T) {
	s, broker := onSmallSockets(t, 100_000)
	packet := make([]byte, 1000)
	receives := func(mark uint64, messages int) {
		t.Helper()
		broker.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := broker.Read(packet)
		if err != nil {
			t.Fatal(err)
		}
		count := 0
		wire.EachRecord(packet[wire.MarkSize:n], func([]byte) bool { count++; return true })
		if got := binary.LittleEndian.Uint64(packet); got != mark || count != messages {
			t.Errorf("the broker got the mark %d and %d messages, want %d and %d", got, count, mark, messages)
		}
	}
	batch := s.Batch()
	if err := errors.Join(batch.Add(t.Context(), make([]byte, 1<<20)), batch.Mark(7)); err != nil {
		t.Fatal(err)
	}
	if err := batch.Flush(t.Context()); !errors.Is(err, ErrTooLarge) || batch.Len() != 0 || s.Mark() != 5 {
		t.Errorf("got %v, %d are left, and the mark is %d", err, batch.Len(), s.Mark())
	}
	if err := batch.Flush(t.Context()); err != nil || s.Mark() != 7 {
		t.Fatalf("then %v, and the mark is %d", err, s.Mark())
	}
	receives(7, 0)
	if err := errors.Join(batch.Add(t.Context(), []byte("next")), batch.TryFlush()); err != nil {
		t.Error(err)
	}
	receives(7, 1)
	if got := s.Stats(); got.Messages != 1 || got.Bytes != 4 {
		t.Errorf("counted were %+v", got)
	}
}
