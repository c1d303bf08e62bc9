// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"fmt"
	"os"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
)

// Sockets and queues of static sinks that an administrator hands over (Sockets= in a drop-in).

// handedOver is a datagram socket bound to name as systemd hands it over: the reader has it too.
func handedOver(t *testing.T, name, label string) (reader *brokertest.Sink, d activation.Descriptor) {
	t.Helper()
	reader = brokertest.NewSocket(t, name)
	f, err := reader.Conn.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	return reader, activation.Descriptor{Name: "sink-" + label, FD: fd, Kind: activation.Datagram}
}

// TestHandedOverSockets: a socket is a sink by its address, a path or an abstract name, and stays one.
func TestHandedOverSockets(t *testing.T) {
	dir, err := os.MkdirTemp("", "mm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file, first := handedOver(t, dir+"/file", "file")
	abstract, second := handedOver(t, brokertest.Name(), "abstract")
	b := brokertest.Start(t, func(cfg *broker.Config) { cfg.Inherited.Sinks = []activation.Descriptor{first, second} })
	becomes(t, b, "file", "ready")
	becomes(t, b, "abstract", "ready")
	b.Channel.Rescan()
	source := brokertest.NewSource(t, b.Dir)
	for i := range uint64(3) {
		if err := source.Send(stamped(1, i, 100)); err != nil {
			t.Fatal(err)
		}
		receiveSeq(t, file, 1, i, i+1)
		receiveSeq(t, abstract, 1, i, i+1)
	}
}

// TestHandedOverOptions: they are where those of the folder's sinks are.
func TestHandedOverOptions(t *testing.T) {
	options, in := optionsIn(t)
	writeFile(t, options+"/audit.conf", "patience=7s\n")
	_, d := handedOver(t, brokertest.Name(), "audit")
	b := brokertest.Start(t, in, func(cfg *broker.Config) { cfg.Inherited.Sinks = []activation.Descriptor{d} })
	if s := becomes(t, b, "audit", "ready"); s.Patience != "7s" {
		t.Errorf("%+v", s)
	}
	writeFile(t, options+"/audit.conf", "patience=forever\n")
	b.Channel.Rescan()
	brokertest.Eventually(t, "the new option is seen", func() bool {
		s, ok := static(b, "audit")
		return ok && s.Patience == "forever"
	})
}

// openQueue opens, or makes, a message queue that goes with the test.
func openQueue(t *testing.T, name string) int {
	t.Helper()
	text := name + "\x00"
	at := uintptr(unsafe.Pointer(unsafe.StringData(text)))
	fd, _, e := unix.Syscall6(unix.SYS_MQ_OPEN, at, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600, 0, 0, 0)
	if e != 0 {
		t.Fatal(e)
	}
	t.Cleanup(func() { unix.Syscall(unix.SYS_MQ_UNLINK, at, 0, 0) })
	return int(fd)
}

// TestPromise8_QueueIntoTheBroker: a message queue that the broker takes from is no sink of it: each message would come
// back for ever.
func TestPromise8_QueueIntoTheBroker(t *testing.T) {
	log := &journal{}
	name := fmt.Sprintf("msgmux-loop-%d", os.Getpid())
	in, out := openQueue(t, name), openQueue(t, name)
	mine := openQueue(t, name)
	defer unix.Close(mine)
	b := brokertest.Start(t, keepLog(log), func(cfg *broker.Config) {
		cfg.Inherited.SourceQueues = []activation.Descriptor{{Name: "source-mq", FD: in, Kind: activation.MessageQueue}}
		cfg.Inherited.Sinks = []activation.Descriptor{{Name: "sink-loop", FD: out, Kind: activation.MessageQueue}}
	})
	sink := brokertest.NewSink(t, b.Dir)
	message := []byte("once")
	if _, _, e := unix.Syscall6(unix.SYS_MQ_TIMEDSEND, uintptr(mine), uintptr(unsafe.Pointer(&message[0])), uintptr(len(message)), 0, 0, 0); e != 0 {
		t.Fatal(e)
	}
	if m, err := sink.Receive(); err != nil || string(m) != "once" {
		t.Fatalf("%q, %v", m, err)
	}
	log.logged(t, 1, "static-sink", "sink=loop", "loop")
	time.Sleep(50 * time.Millisecond)
	if st := b.Channel.Status(); st.Received != 1 {
		t.Errorf("one message was received %d times", st.Received)
	}
}
