// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/sys"
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
	b := brokertest.StartWith(t, func(_ *broker.Config, in *activation.Set) { in.Sinks = []activation.Descriptor{first, second} })
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
	options, withOptions := optionsIn(t)
	writeFile(t, options+"/audit.conf", "patience=7s\n")
	_, d := handedOver(t, brokertest.Name(), "audit")
	b := brokertest.StartWith(t, func(_ *broker.Config, in *activation.Set) { in.Sinks = []activation.Descriptor{d} }, withOptions)
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

// TestPromise8_QueueIntoTheBroker: a message queue that the broker takes from is no sink of it: each message would come
// back for ever.
func TestPromise8_QueueIntoTheBroker(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("mqueue", dir, "mqueue", 0, ""); err != nil {
		need.Lacking(t, "unit", "message queues cannot be mounted: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	// Creating a file there is mq_open(3) with the default attributes.
	path := fmt.Sprintf("%s/msgmux-loop-%d", dir, os.Getpid())
	in, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	out, err := sys.OpenQueue(path)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(out)
	log := &keptLog{}
	b := brokertest.StartWith(t, func(cfg *broker.Config, set *activation.Set) {
		set.SourceQueues = []activation.Descriptor{{Name: "source-mq", FD: in, Kind: activation.MessageQueue}}
		if err := os.Symlink(path, cfg.SinksDir+"/loop"); err != nil {
			t.Fatal(err)
		}
	}, keepLog(log))
	sink := brokertest.NewSink(t, b.Dir)
	if errno := (sys.Kernel{}).QueueSend("", out, []byte("once")); errno != 0 {
		t.Fatal(errno)
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
