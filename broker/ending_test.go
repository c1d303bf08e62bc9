// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
)

// TestPromise7_StoppedByHandUnderLoad: a broker that nobody comes after is told to stop while sources send as fast as they can.
// Its sink gets every message whose sending has succeeded.
func TestPromise7_StoppedByHandUnderLoad(t *testing.T) {
	for range 3 {
		log := &keptLog{}
		b := brokertest.Start(t, keepLog(log))
		sink := brokertest.NewSink(t, b.Dir)
		stop, end := make(chan struct{}), make(chan struct{})
		got := drained(sink, stop, nil)
		sent := flood(brokertest.NewSource(t, b.Dir), 1, 200, end)
		packets := make(chan uint64, 1)
		go func() {
			publisher, n := brokertest.NewPublisher(t, b.Dir), uint64(0)
			for {
				switch err := publisher.TrySend(stamped(2, n, 200)); {
				case err == nil:
					n++
					continue
				case errors.Is(err, unix.EAGAIN):
					time.Sleep(100 * time.Microsecond)
					continue
				}
				packets <- n
				return
			}
		}()
		test.Eventually(t, "messages pass", func() bool { return b.Channel.Status().Accepted > 1000 })
		b.Stop()
		close(end)
		all := <-sent + <-packets
		close(stop)
		if n := <-got; n != all {
			t.Errorf("%d messages were sent, and the sink has got %d", all, n)
		}
		if lines := log.grep("held: "); len(lines) > 0 {
			t.Errorf("nothing is left, and the journal says %q", lines)
		}
	}
}

// TestPromise5_HeldSaysAll: what is lost with a broker that nobody comes after is what is in the ring, what has landed beside it,
// and what its sockets hold.
func TestPromise5_HeldSaysAll(t *testing.T) {
	log := &keptLog{Handler: slog.NewTextHandler(t.Output(), nil)}
	b := brokertest.Start(t, keepLog(log))
	source := brokertest.NewSource(t, b.Dir)
	publisher := brokertest.NewPublisher(t, b.Dir)
	brokertest.NewSink(t, b.Dir, "label=hung", "patience=forever")
	sent := sendUntilFull(t, source, 1, 0, 1000)
	packets := uint64(0)
	for publisher.TrySend(stamped(2, packets, 1000)) == nil {
		packets++
	}
	st, sinks := b.Channel.List()
	if st.Landed == 0 || packets == 0 {
		t.Fatalf("%d have landed, %d packets wait", st.Landed, packets)
	}
	b.Stop()
	held := st.Entered - st.Delivered + st.Landed
	unread := sent + packets - st.Entered - st.Landed
	want := fmt.Sprintf("messages=%d waiting=%d unread=%d", held, sinks[0].Waiting, unread)
	if lines := log.grep("held: ", want); len(lines) != 1 {
		t.Errorf("the journal says %q, not %q", log.grep("held: "), want)
	}
}

// TestForeignNotifySocket: NOTIFY_SOCKET is somebody else's, as in a shell that runs in a service. It leads nowhere, or to one
// that keeps no descriptors for this process. The broker starts, and gives its sink everything before it ends.
func TestForeignNotifySocket(t *testing.T) {
	dir := t.TempDir()
	taker, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/notify", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer taker.Close()
	go takeAllThatComes(taker, false)
	keeper, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/shell", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer keeper.Close()
	go takeAllThatComes(keeper, true)
	for what, env := range map[string][]string{
		"stale":   {"NOTIFY_SOCKET=" + dir + "/nobody"},
		"foreign": {"NOTIFY_SOCKET=" + dir + "/notify"},
		"shell's": {"NOTIFY_SOCKET=" + dir + "/shell", "SYSTEMD_EXEC_PID=1", "FDSTORE=5"},
		"relic":   {"NOTIFY_SOCKET=" + dir + "/nobody", "FDSTORE=5"},
	} {
		t.Run(what, func(t *testing.T) {
			p := newProcess(t)
			p.cmd.Env = append(p.cmd.Environ(), env...)
			p.start(t)
			p.serves(t)
			sink := brokertest.NewSink(t, p.Dir)
			const messages = 2000
			source := brokertest.NewSource(t, p.Dir)
			for i := range uint64(messages) {
				if err := source.Send(stamped(1, i, 100)); err != nil {
					t.Fatal(err)
				}
			}
			stop := make(chan struct{})
			p.signal(t, syscall.SIGTERM)
			got := drained(sink, stop, nil)
			if code, _ := p.wait(t); code != 0 {
				t.Errorf("exit code %d", code)
			}
			close(stop)
			if n := <-got; n != messages {
				t.Errorf("the sink got %d messages of %d: %s", n, messages, p.stderr.String())
			}
			if !strings.Contains(p.stderr.String(), "service manager") {
				t.Errorf("it says nothing of the service manager: %q", p.stderr.String())
			}
		})
	}
}

// takeAllThatComes is a service manager that keeps what a process stores, or that closes it without a word.
func takeAllThatComes(conn *net.UnixConn, keep bool) {
	var kept []int
	defer func() {
		for _, fd := range kept {
			unix.Close(fd)
		}
	}()
	b, control := make([]byte, 4096), make([]byte, 4096)
	for {
		clear(b)
		_, n, _, _, err := conn.ReadMsgUnix(b, control)
		if err != nil {
			return
		}
		messages, _ := unix.ParseSocketControlMessage(control[:n])
		for i := range messages {
			fds, _ := unix.ParseUnixRights(&messages[i])
			if keep && !strings.Contains(string(b), "BARRIER=1") {
				kept = append(kept, fds...)
				continue
			}
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
	}
}
