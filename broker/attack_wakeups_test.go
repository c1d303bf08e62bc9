// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestPromise4_BoughtWakeUps: entries of poll(2) on a sink's or source's own socket, for events that never come, cost whoever
// sends to it or receives from it a walk through them all. That is not the others' time: whose they are is served seldom, then
// dropped, and kept out for a while. With a million entries others keep 85 % of their rate and more, and without the rule 0.4 %;
// here it is half, at some time of several, because others may use the machine.
func TestPromise4_BoughtWakeUps(t *testing.T) {
	needRoot(t)
	for name, kind := range map[string]hog{
		"subscribe": {Socket: "subscribe"},
		"register":  {Socket: "register"},
		"publish":   {Socket: "publish"},
		"stage":     {Socket: "publish", Options: "stage=yes\n"}, // it wakes the broker all the time
	} {
		t.Run(name, func(t *testing.T) {
			log := &keptLog{}
			b := brokertest.Start(t, keepLog(log))
			openToAll(t, b.Dir)
			got := paced(t, b, time.Millisecond)
			rate := func(d time.Duration) float64 {
				n, began := got.Load(), time.Now()
				time.Sleep(d)
				return float64(got.Load()-n) / time.Since(began).Seconds()
			}
			whole := rate(500 * time.Millisecond)
			kind.Dir, kind.Many, kind.Entries = b.Dir, 1, 300_000
			be(t, &kind, stranger)
			log.logged(t, 1, "too-costly", "dropped", fmt.Sprint("uid=", stranger))
			rest := 0.0
			for try := 0; try < 5 && rest < whole/2; try++ {
				rest = max(rest, rate(time.Second))
			}
			t.Logf("%.0f messages/s before, %.0f meanwhile", whole, rest)
			if rest < whole/2 {
				t.Errorf("%.0f messages/s before, %.0f meanwhile", whole, rest)
			}
			// Nobody of that user comes in by whatever way.
			if r := registerAs(t, b.Dir, stranger, nil, strangersSocket(t, brokertest.Name()).Name); codeOf(r.Err) != wire.CodeBusy {
				t.Errorf("a registration of that user: %+v", r)
			}
			for _, name := range []string{"subscribe", "publish"} {
				if answers := strangers(t, b.Dir+"/"+name, 1); !strings.HasPrefix(answers[0], "error busy ") {
					t.Errorf("%s: %q", name, answers)
				}
			}
			if _, sinks := b.Channel.List(); len(sinks) != 1 {
				t.Errorf("there are %d sinks", len(sinks))
			}
		})
	}
}

// poll has very many entries on one descriptor, in threads of their own, and reads or sends all the time, until it is dropped.
func (h *hog) poll(conn *net.UnixConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	// poll(2) takes as many entries as there may be descriptors.
	var limit unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	each := min(int(limit.Cur), h.Entries)
	raw.Control(func(fd uintptr) {
		unix.SetNonblock(int(fd), false)
		for range h.Entries / each {
			go func() {
				entries := make([]unix.PollFd, each)
				for i := range entries {
					entries[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLPRI}
				}
				for {
					if n, err := unix.Poll(entries, -1); n > 0 || err != unix.EINTR {
						return
					}
				}
			}()
		}
		b := make([]byte, 256<<10)
		packet := wire.AppendRecord(nil, []byte(strings.Repeat("x", 100)))
		for {
			var n int
			if h.Socket == "publish" {
				// Nothing waits for a packet to be taken unless the queue is nearly empty.
				for left := 1; left > 0; left, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) {
					time.Sleep(time.Millisecond)
				}
				n, _ = unix.Write(int(fd), packet)
			} else {
				n, _ = unix.Read(int(fd), b)
			}
			if n <= 0 {
				return
			}
		}
	})
}
