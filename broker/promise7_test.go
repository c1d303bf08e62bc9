// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// What promise 7 says of a broker that was started by hand: it is told to stop, delivers what sinks take within 2 s, and
// takes its sockets with it. (What it says of a broker with a service manager is tested in crashtest.)

// socketsLeft names the sockets in a folder.
func socketsLeft(t *testing.T, dir string) (left []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Type()&os.ModeSocket != 0 {
			left = append(left, e.Name())
		}
	}
	return left
}

// TestPromise7_Drain: on SIGTERM and SIGINT, what the ring holds goes to a sink that takes its time; nothing new is
// received; then the sockets are gone and the exit code is 0.
func TestPromise7_Drain(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			p := startProcess(t, "--buffer", "1M")
			source, slow := brokertest.NewSource(t, p.Dir), brokertest.NewSink(t, p.Dir)
			framed := brokertest.NewSubscriber(t, p.Dir)
			const total = 400
			for i := range uint64(total) {
				if err := source.Send(stamped(1, i, 1000)); err != nil {
					t.Fatal(err)
				}
			}
			test.Eventually(t, "all are in the ring", func() bool { st, _ := p.status(t); return st.Entered == total })
			p.signal(t, sig)
			time.Sleep(100 * time.Millisecond)
			for i := range uint64(total) { // 0.8 s
				receiveSeq(t, slow, 1, i, i+1)
				time.Sleep(2 * time.Millisecond)
				if i == 100 {
					// It is on its way out: this would lie in a queue that dies with it.
					if err := source.TrySend([]byte("too late")); !errors.Is(err, unix.EPIPE) {
						t.Errorf("a message that comes too late is answered with %v", err)
					}
					if left := socketsLeft(t, p.Dir); len(left) > 0 {
						t.Errorf("who comes now finds %v", left)
					}
				}
			}
			next := uint64(0)
			for {
				pkt, err := framed.Receive()
				if err != nil {
					if !errors.Is(err, io.EOF) {
						t.Errorf("the framed sink: %v instead of the end", err)
					}
					break
				}
				wire.EachRecord(pkt.Records, func(m []byte) bool {
					if _, seq, ok := stamp(m); !ok || seq != next {
						t.Errorf("the framed sink received %q instead of message %d", m, next)
					}
					next++
					return true
				})
			}
			if next != total {
				t.Errorf("the framed sink received %d of %d", next, total)
			}
			if code, _ := p.wait(t); code != 0 {
				t.Errorf("exit code %d: %s", code, p.stderr.String())
			}
			receivesNothing(t, slow, "the sink")
			if left := socketsLeft(t, p.Dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if s := p.stderr.String(); strings.Contains(s, "lost") {
				t.Error(s)
			}
		})
	}
}

// TestPromise7_DrainEnds: a sink that takes nothing delays the end by 2 s and not for ever, and what nobody has is told.
func TestPromise7_DrainEnds(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "--buffer", "1M")
	source := brokertest.NewSource(t, p.Dir)
	brokertest.NewSink(t, p.Dir)
	n := sendUntilFull(t, source, 1, 0, 1000)
	st, sinks := p.status(t)
	held := st.Landed
	for _, s := range sinks {
		held += s.Waiting
	}
	unread := n - st.Entered - st.Landed
	p.signal(t, syscall.SIGTERM)
	code, took := p.wait(t)
	if code != 0 || took < 1900*time.Millisecond || took > 4*time.Second {
		t.Errorf("exit code %d after %s: %s", code, took, p.stderr.String())
	}
	for want, n := range map[string]uint64{"messages": held, "unread": unread} {
		if n == 0 || !strings.Contains(p.stderr.String(), fmt.Sprintf("%s=%d", want, n)) {
			t.Errorf("no word of %d messages (%s): %s", n, want, p.stderr.String())
		}
	}
	if left := socketsLeft(t, p.Dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestPromise7_NothingToDrain: with nothing to deliver it ends at once.
func TestPromise7_NothingToDrain(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "--buffer", "1M")
	brokertest.NewSink(t, p.Dir)
	brokertest.NewSubscriber(t, p.Dir)
	p.signal(t, syscall.SIGTERM)
	if code, took := p.wait(t); code != 0 || took > time.Second || p.stderr.String() != "" {
		t.Errorf("exit code %d after %s: %q", code, took, p.stderr.String())
	}
}

// TestPromise7_StoppedInTheMiddle: told to stop while registrations, hellos and commands come in, it stops.
func TestPromise7_StoppedInTheMiddle(t *testing.T) {
	t.Parallel()
	for range 3 {
		p := startProcess(t, "--buffer", "1M", "--log-level", "error")
		var done atomic.Bool
		var rush sync.WaitGroup
		text := wire.Registration{Address: wire.Address{Abstract: true, Name: "nobody"}}.Append(nil)
		rush.Go(func() {
			conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: p.Dir + "/register", Net: "unixgram"})
			if err != nil {
				return
			}
			defer conn.Close()
			for !done.Load() {
				conn.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
				conn.Write(text)
			}
		})
		for socket, request := range map[string]string{
			"subscribe": wire.Protocol, "publish": wire.Protocol, "control": `{"op":"drop","sink":"nobody"}`,
		} {
			rush.Go(func() {
				b := make([]byte, 1024)
				for !done.Load() {
					conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: p.Dir + "/" + socket, Net: "unixpacket"})
					if err != nil {
						time.Sleep(time.Millisecond)
						continue
					}
					conn.SetDeadline(time.Now().Add(time.Second))
					conn.Write([]byte(request))
					conn.Read(b)
					conn.Close()
				}
			})
		}
		time.Sleep(100 * time.Millisecond)
		p.signal(t, syscall.SIGTERM)
		code, took := p.wait(t)
		done.Store(true)
		rush.Wait()
		if code != 0 || took > 3*time.Second {
			t.Errorf("exit code %d after %s: %s", code, took, p.stderr.String())
		}
	}
}

// TestPromise7_Killed: after kill -9 the next one takes over the folder; while one is alive there, a second one is not
// started, and says who it is.
func TestPromise7_Killed(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "--buffer", "1M")
	second := newProcess(t)
	second.cmd.Args[2] = p.Dir
	second.start(t)
	if code, _ := second.wait(t); code != 1 || !strings.Contains(second.stderr.String(), fmt.Sprint(p.cmd.Process.Pid)) {
		t.Errorf("a second broker in the same folder: exit code %d, %q", code, second.stderr.String())
	}
	p.signal(t, syscall.SIGKILL)
	<-p.ended
	if left := socketsLeft(t, p.Dir); len(left) != 5 {
		t.Fatalf("left behind: %v", left)
	}
	third := newProcess(t)
	third.cmd.Args[2], third.Dir = p.Dir, p.Dir
	third.start(t)
	third.serves(t)
	sink, source := brokertest.NewSink(t, p.Dir), brokertest.NewSource(t, p.Dir)
	if err := source.Send([]byte("anew")); err != nil {
		t.Fatal(err)
	}
	if m, err := sink.Receive(); err != nil || !bytes.Equal(m, []byte("anew")) {
		t.Fatalf("%q, %v", m, err)
	}
}
