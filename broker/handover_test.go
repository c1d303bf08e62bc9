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
	"github.com/msgmux/msgmux/internal/test"
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
	dir := test.Folder(t)
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
	test.Eventually(t, "the new option is seen", func() bool {
		s, ok := static(b, "audit")
		return ok && s.Patience == "forever"
	})
}

// TestPromise8_QueueIntoTheBroker: a message queue that the broker takes from is no sink of it: each message would come
// back for ever.
func TestPromise8_QueueIntoTheBroker(t *testing.T) {
	path, in, out := newQueue(t)
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

// mqueueFolder is a folder with message queues.
func mqueueFolder(t *testing.T) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("mqueue", dir, "mqueue", 0, ""); err != nil {
		need.Lacking(t, "unit", "message queues cannot be mounted: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// TestStaticQueueMadeAnew: a message queue that a link leads to is the sink, and when it is removed and made anew, that one is,
// though somebody has the old one open.
func TestStaticQueueMadeAnew(t *testing.T) {
	path := fmt.Sprintf("%s/msgmux-anew-%d", mqueueFolder(t), os.Getpid())
	made := func() int {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd); os.Remove(path) })
		return fd
	}
	messages := func(fd, n int) {
		t.Helper()
		test.Eventually(t, fmt.Sprintf("%d messages in the queue", n), func() bool {
			a, err := sys.QueueAttributesOf(fd)
			return err == nil && a.Messages == int64(n)
		})
	}
	log := &keptLog{}
	b := brokertest.Start(t, keepLog(log))
	source := brokertest.NewSource(t, b.Dir)
	old := made()
	if err := os.Symlink(path, b.Dir+"/sinks/q"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := source.Send([]byte("one")); err != nil {
			t.Fatal(err)
		}
	}
	messages(old, 2)
	removeFile(t, path)
	anew := made()
	log.logged(t, 1, "stays where its path led", "sink=q", "unread=2")
	if err := source.Send([]byte("three")); err != nil {
		t.Fatal(err)
	}
	messages(anew, 1)
	messages(old, 2)
}

// newQueue makes a message queue: a file, a descriptor that a broker may have, and one that is open for sending.
func newQueue(t *testing.T) (path string, in, out int) {
	t.Helper()
	// Creating a file there is mq_open(3) with the default attributes.
	path = fmt.Sprintf("%s/msgmux-loop-%d", mqueueFolder(t), os.Getpid())
	in, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	if out, err = sys.OpenQueue(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(out) })
	return path, in, out
}
