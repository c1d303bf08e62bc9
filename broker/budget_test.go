// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// What the broker may take: no allocation for a message, memory that is fixed at start, and what happens when that
// cannot be had.

// TestPromise9_NoAllocations: in steady state the broker allocates nothing for a message, whatever kinds of sources and
// sinks there are, and while somebody has to be waited for.
func TestPromise9_NoAllocations(t *testing.T) {
	b := brokertest.Start(t)
	source, publisher := brokertest.NewSource(t, b.Dir), brokertest.NewPublisher(t, b.Dir)
	sinks := []*brokertest.Sink{
		brokertest.NewSink(t, b.Dir), brokertest.NewSink(t, b.Dir), brokertest.NewSink(t, b.Dir, "frames=yes"),
		brokertest.NewSink(t, b.Dir, "share=s"), brokertest.NewSink(t, b.Dir, "share=s"),
		brokertest.NewSink(t, b.Dir, "tap=yes"),
	}
	brokertest.NewSink(t, b.Dir, "patience=0") // hangs: lagging from the first round on
	subscriber := brokertest.NewSubscriber(t, b.Dir)
	var read atomic.Int64
	var readers sync.WaitGroup
	conns := []interface{ Read([]byte) (int, error) }{subscriber.Conn}
	for _, s := range sinks {
		conns = append(conns, s.Conn)
	}
	for _, c := range conns {
		readers.Go(func() {
			for buf := make([]byte, 128<<10); ; read.Add(1) {
				if _, err := c.Read(buf); err != nil {
					return
				}
			}
		})
	}
	packet := bytes.Repeat(wire.AppendRecord(nil, make([]byte, 100)), 20)
	plain := make([]byte, 100)
	source.Conn.SetWriteDeadline(time.Time{})
	publisher.Conn.SetWriteDeadline(time.Time{})
	const rounds = 500
	run := func() uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range rounds {
			// Straight to the socket: the clients are not to allocate either.
			for range 10 {
				if _, err := source.Conn.Write(plain); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := publisher.Conn.Write(packet); err != nil {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		return after.Mallocs - before.Mallocs
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	run() // what is allocated once
	least := run()
	for range 2 {
		least = min(least, run())
	}
	const messages = rounds * 30
	t.Logf("%d allocations for %d messages, %d reads", least, messages, read.Load())
	if float64(least)/messages >= 0.001 {
		t.Errorf("%d allocations for %d messages", least, messages)
	}
	for _, s := range sinks {
		s.Close()
	}
	subscriber.Close()
	readers.Wait()
}

// rollup reads a field of /proc/PID/smaps_rollup, in bytes.
func rollup(t *testing.T, pid int, field string) (bytes int64) {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && name == field {
			fmt.Sscan(value, &bytes)
		}
	}
	return bytes << 10
}

// TestPromise9_Memory: after full load the process has the ring, the landing zone and 12 MiB, and no more after more.
func TestPromise9_Memory(t *testing.T) {
	p := startProcess(t)
	pid := p.cmd.Process.Pid
	t.Logf("at start: Rss %d KiB, Pss %d KiB", rollup(t, pid, "Rss")>>10, rollup(t, pid, "Pss")>>10)
	var readers sync.WaitGroup
	defer readers.Wait()
	for range 2 {
		s := brokertest.NewSink(t, p.Dir)
		defer s.Close()
		readers.Go(func() {
			for {
				if _, err := s.ReceiveWithin(time.Minute); err != nil {
					return
				}
			}
		})
	}
	brokertest.NewSubscriber(t, p.Dir, "patience=0")
	source, publisher := brokertest.NewSource(t, p.Dir), brokertest.NewPublisher(t, p.Dir)
	big, small := make([]byte, 256<<10), bytes.Repeat(wire.AppendRecord(nil, make([]byte, 60)), 1000)
	var held int64
	for round := range 3 {
		for range 70 { // more than the ring
			if err := source.Send(big); err != nil {
				t.Fatal(err)
			}
			if err := publisher.SendPacket(small); err != nil {
				t.Fatal(err)
			}
		}
		for range 50 { // bad input as well
			brokertest.Register(t, p.Dir, "@nobody")
			p.status(t)
		}
		// Pss, as the ring is mapped twice; and without the program's own text.
		anon, shared := rollup(t, pid, "Pss_Anon"), rollup(t, pid, "Pss_Shmem")
		t.Logf("round %d: Rss %d KiB, Pss %d KiB: anonymous %d, shared %d, program %d", round, rollup(t, pid, "Rss")>>10,
			rollup(t, pid, "Pss")>>10, anon>>10, shared>>10, rollup(t, pid, "Pss_File")>>10)
		if most := int64(16+16+12) << 20; anon+shared > most {
			t.Errorf("round %d: the process has %d bytes, %d are its share", round, anon+shared, most)
		}
		if round > 0 && shared != held {
			t.Errorf("round %d: %d bytes are shared memory, it was %d: it is to be fixed", round, shared, held)
		}
		held = shared
	}
}

// TestMemoryLimits: where the memory cannot be had, the program says so at once, in one line.
func TestMemoryLimits(t *testing.T) {
	check := func(t *testing.T, buffer, shell string, words ...string) {
		t.Helper()
		dir, err := os.MkdirTemp("", "mm")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		cmd := exec.Command("sh", "-ec", shell+`; exec "$@"`, "sh", programPath(t), "--runtime-dir", dir, "--buffer", buffer)
		all, err := cmd.CombinedOutput()
		out := all[:min(len(all), 500)]
		if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() != 1 {
			t.Errorf("%v: %s", err, out)
		}
		if strings.Count(string(all), "\n") != 1 {
			t.Errorf("%q: not one line", out)
		}
		for _, w := range words {
			if !strings.Contains(string(out), w) {
				t.Errorf("%q: want in it %q", out, w)
			}
		}
		if left := socketsLeft(t, dir); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	t.Run("addresses", func(t *testing.T) {
		// The runtime of Go alone takes 1 GB of addresses, and of those it says nothing so clear.
		check(t, "1G", "ulimit -v 2000000", "cannot map the ring", "MiB", "cannot allocate memory")
	})
	t.Run("control group", func(t *testing.T) {
		group, limit := memoryGroup(t)
		if err := os.WriteFile(limit, []byte("100000000"), 0); err != nil {
			t.Skipf("no memory limit can be set here: %v", err)
		}
		check(t, "256M", "echo $$ > "+group+"/cgroup.procs", "--buffer", "limit is 95 MiB", limit, "raise MemoryMax")
	})
}

// TestMemoryOfQueues: sinks that do not read have the kernel keep messages in the broker's memory. As many are let in as its control
// group has room for, and what they are sent does not have the kernel kill it.
func TestMemoryOfQueues(t *testing.T) {
	group, limit := memoryGroup(t)
	if err := os.WriteFile(limit, []byte("64000000"), 0); err != nil {
		t.Skipf("no memory limit can be set here: %v", err)
	}
	p := newProcess(t)
	p.cmd = exec.Command("sh", "-ec", "echo $$ > "+group+`/cgroup.procs; exec "$@"`, "sh", programPath(t), "--runtime-dir", p.Dir,
		"--buffer", "1M", "--max-sinks", "512", "--max-sinks-per-user", "512", "--patience", "0")
	p.cmd.Stderr = &p.stderr
	p.start(t)
	p.serves(t)
	sinks := 0
	for ; sinks < 300; sinks++ {
		r := brokertest.NewSocket(t, brokertest.Name())
		if reply := brokertest.Register(t, p.Dir, r.Name); reply.Err != nil {
			if !strings.Contains(reply.Err.Error(), "the control group's memory limit (61 MiB, "+limit) {
				t.Errorf("the refusal says %v", reply.Err)
			}
			break
		}
	}
	if st, _ := p.status(t); st.SinksRoom != uint64(sinks) {
		t.Errorf("%d sinks are let in, and the status tells of room for %d", sinks, st.SinksRoom)
	}
	t.Logf("%d sinks are let in", sinks)
	if sinks < 20 || sinks > 100 {
		t.Errorf("%d sinks were let in", sinks)
	}
	// Until all queues and the ring are full.
	source, held := brokertest.NewSource(t, p.Dir), uint64(0)
	for ; held < 100; held++ {
		if source.TrySend(make([]byte, 60<<10)) != nil {
			time.Sleep(100 * time.Millisecond)
			if source.TrySend(make([]byte, 60<<10)) != nil {
				break
			}
		}
	}
	if st, all := p.status(t); len(all) != sinks || st.Received < 8 || st.Received > held {
		t.Errorf("of %d messages %d are received, with %d sinks", held, st.Received, len(all))
	}
}

// TestMemoryOfStages: sources publish what they have not written, so that the pages of their stages are the broker's. As many are let in as
// its control group has room for, and the kernel does not kill it.
func TestMemoryOfStages(t *testing.T) {
	group, limit := memoryGroup(t)
	if err := os.WriteFile(limit, []byte("64000000"), 0); err != nil {
		t.Skipf("no memory limit can be set here: %v", err)
	}
	p := newProcess(t)
	p.cmd = exec.Command("sh", "-ec", "echo $$ > "+group+`/cgroup.procs; exec "$@"`, "sh", programPath(t), "--runtime-dir", p.Dir,
		"--buffer", "1M", "--max-sinks-per-user", "512")
	p.cmd.Stderr = &p.stderr
	p.start(t)
	p.serves(t)
	sink := brokertest.NewSubscriber(t, p.Dir)
	go io.Copy(io.Discard, sink.Conn)
	const size = 1 << 20 // of a stage, with the usual messages
	stages := 0
	for ; stages < 100; stages++ {
		s, ok := brokertest.NewStager(t, p.Dir)
		if ok.Err != nil {
			if !strings.Contains(ok.Err.Error(), "the control group's memory limit (61 MiB, "+limit) {
				t.Errorf("the refusal says %v", ok.Err)
			}
			break
		}
		var head [8]byte
		binary.NativeEndian.PutUint64(head[:], size)
		if _, err := unix.Pwrite(s.Stage, head[:], view.StageHeadAt); err != nil {
			t.Fatal(err)
		}
		if err := s.Wake(); err != nil {
			t.Fatal(err)
		}
	}
	// Each is as many messages of no bytes as there are words in it.
	test.Eventually(t, "all that was published is in", func() bool {
		st, _ := p.status(t)
		return st.Received >= uint64(stages)*size/4
	})
	t.Logf("%d stages are let in", stages)
	if stages < 1 || stages > 30 {
		t.Errorf("%d stages were let in", stages)
	}
}

// scarce is the kernel, which has no memory for what is sent to sinks while it is poor.
type scarce struct {
	sys.Kernel
	poor    atomic.Bool
	refused atomic.Int64
}

func (k *scarce) Sendmmsg(seam string, fd int, vec []sys.Mmsghdr) (int, unix.Errno) {
	if k.poor.Load() {
		return 0, []unix.Errno{unix.ENOBUFS, unix.ENOMEM}[k.refused.Add(1)%2]
	}
	return k.Kernel.Sendmmsg(seam, fd, vec)
}

// TestPromise9_WantOfMemory: where the kernel has no memory for a message, its sink is as one whose queue is full: it stays, has
// everything when there is memory again, and nothing counts as lost.
func TestPromise9_WantOfMemory(t *testing.T) {
	k := &scarce{}
	b := brokertest.Start(t, func(cfg *broker.Config) { cfg.Ops = k })
	source := brokertest.NewSource(t, b.Dir)
	plain, member := brokertest.NewSink(t, b.Dir), brokertest.NewSink(t, b.Dir, "share=s")
	framed := brokertest.NewSubscriber(t, b.Dir)
	k.poor.Store(true)
	const messages = 50
	for i := range uint64(messages) {
		if err := source.Send(stamped(1, i, 100)); err != nil {
			t.Fatal(err)
		}
	}
	ids := []uint64{plain.ID, member.ID, framed.ID}
	test.Eventually(t, "all are stalled", func() bool {
		for _, id := range ids {
			if s, there := findSink(b, id); !there || s.State != "stalled" || s.Waiting == 0 {
				return false
			}
		}
		return k.refused.Load() > 20
	})
	k.poor.Store(false)
	receiveSeq(t, plain, 1, 0, messages)
	receiveSeq(t, member, 1, 0, messages)
	for n := 0; n < messages; {
		p, err := framed.Receive()
		if err != nil {
			t.Fatal(err)
		}
		n += p.Count
	}
	test.Eventually(t, "none is stalled", func() bool { return counted(b).Sinks.Stalled == 0 })
	if st := counted(b); st.Lost+st.Abandoned+st.Unread != 0 || st.Sinks.Total != len(ids) {
		t.Errorf("%+v", st)
	}
}

// memoryGroup makes a control group, and returns it and the file for its memory limit.
func memoryGroup(t *testing.T) (group, limit string) {
	t.Helper()
	name := fmt.Sprintf("mmtest-%d", os.Getpid())
	for _, place := range []struct{ dir, limit string }{
		{"/sys/fs/cgroup/memory/", "memory.limit_in_bytes"}, {"/sys/fs/cgroup/", "memory.max"},
	} {
		if _, err := os.Stat(place.dir + "cgroup.procs"); err != nil {
			continue
		}
		group = place.dir + name
		if os.Mkdir(group, 0o755) != nil {
			continue
		}
		t.Cleanup(func() { os.Remove(group) })
		if _, err := os.Stat(group + "/" + place.limit); err == nil {
			return group, group + "/" + place.limit
		}
	}
	t.Skip("no control group with a memory limit can be made here")
	return "", ""
}

// TestFullDisk: full file systems, in /dev/shm and where its sockets are, are nothing to the broker: it writes no files.
func TestFullDisk(t *testing.T) {
	needRoot(t)
	p := newProcess(t)
	script := `mount -t tmpfs -o size=64k,mode=755 none /dev/shm
		mkdir /dev/shm/mm
		dd if=/dev/zero of=/dev/shm/full bs=4k 2>/dev/null || :
		exec "$@"`
	p.cmd = exec.Command("sh", "-ec", script, "sh", programPath(t), "--runtime-dir", "/dev/shm/mm")
	p.cmd.Stderr = &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := p.cmd.Start(); err != nil {
		need.Lacking(t, "unit", "no mount namespace can be made here: %v", err)
	}
	go func() {
		defer close(p.ended)
		p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.ended
	})
	p.Dir = fmt.Sprintf("/proc/%d/root/dev/shm/mm", p.cmd.Process.Pid)
	test.Eventually(t, "it is full", func() bool { return len(p.stderr.String()) > 0 || exists(p.Dir+"/control") })
	if err := os.WriteFile(p.Dir+"/test", make([]byte, 4096), 0o600); err == nil {
		t.Fatal("the file system is not full")
	}
	p.serves(t)
	source, sink := brokertest.NewSource(t, p.Dir), brokertest.NewSink(t, p.Dir)
	stop := make(chan struct{})
	got := drained(sink, stop, nil)
	const total = 300
	for i := range uint64(total) { // more than the ring holds
		if err := source.Send(stamped(1, i, 100<<10)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	if n := <-got; n != total {
		t.Errorf("%d of %d arrived", n, total)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
