// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pairWithLimit is a connected pair of packet sockets whose calls wait for limit at most.
func pairWithLimit(tb testing.TB, limit time.Duration) (one, other int) {
	tb.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(pair[0]); unix.Close(pair[1]) })
	timeout := unix.NsecToTimeval(int64(limit))
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, option, &timeout); err != nil {
			tb.Fatal(err)
		}
	}
	return pair[0], pair[1]
}

func TestStayingCallsCarryPackets(t *testing.T) {
	one, other := pairWithLimit(t, 10*time.Second)
	for _, size := range []int{1, 0, 60000} {
		packet := make([]byte, size)
		for i := range packet {
			packet[i] = byte(i)
		}
		if _, e := Send(other, packet, 0); e != 0 {
			t.Fatalf("cannot send %d bytes: %v", size, e)
		}
		got := make([]byte, 1<<16)
		n, _, e := Recv(one, got, 0)
		if e != 0 || string(got[:n]) != string(packet) {
			t.Fatalf("sent %d bytes, got %d: %v", size, n, e)
		}
	}
}

func TestStayingCallsEndAtTheLimit(t *testing.T) {
	one, _ := pairWithLimit(t, time.Millisecond)
	buffer := make([]byte, 60000)
	// The runtime interrupts at will.
	var e unix.Errno
	for e = unix.EINTR; e == unix.EINTR; {
		_, _, e = Recv(one, buffer, 0)
	}
	if e != unix.EAGAIN {
		t.Errorf("recv ended with %v, want EAGAIN", e)
	}
	for e = 0; e == 0 || e == unix.EINTR; {
		_, e = Send(one, buffer, 0)
	}
	if e != unix.EAGAIN {
		t.Errorf("send ended with %v, want EAGAIN", e)
	}
	if _, _, e := Recv(one, buffer, unix.MSG_DONTWAIT); e != unix.EAGAIN {
		t.Errorf("recv that may not wait ended with %v, want EAGAIN", e)
	}
}

// TestStayingCallsDoNotHoldUpTheCollector although they would wait for longer than the test takes.
func TestStayingCallsDoNotHoldUpTheCollector(t *testing.T) {
	const limit = time.Minute
	one, other := pairWithLimit(t, limit)
	interrupted, done := 0, make(chan struct{})
	began := make(chan struct{})
	go func() {
		defer close(done)
		close(began)
		buffer := make([]byte, 16)
		for {
			_, away, e := Recv(one, buffer, 0)
			if e == 0 {
				return
			}
			if interrupted++; away <= 0 {
				t.Errorf("recv ended with %v, and others had the P for %v", e, away)
			}
		}
	}()
	<-began
	start := time.Now()
	for range 3 {
		time.Sleep(time.Millisecond)
		runtime.GC()
	}
	if took := time.Since(start); took > limit/2 {
		t.Errorf("three collections took %v", took)
	}
	if _, e := Send(other, []byte("end"), 0); e != 0 {
		t.Fatal(e)
	}
	<-done
	// Who does not stop when told to is told again each 5 us.
	if t.Logf("interrupted %d times", interrupted); interrupted > 1000 {
		t.Errorf("three collections interrupted %d times", interrupted)
	}
}

// TestYieldTellsHowLongOthersRan on the one P that there is. The scheduler may have its reasons to take them later.
func TestYieldTellsHowLongOthersRan(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const long = 5 * time.Millisecond
	var away time.Duration
	for range 100 {
		done := make(chan struct{})
		go func() {
			defer close(done)
			for start := time.Now(); time.Since(start) < long; {
			}
		}()
		away = max(away, Yield())
		<-done
		if away >= long {
			return
		}
	}
	t.Errorf("Yield says %v at most, another goroutine ran for %v", away, long)
}
