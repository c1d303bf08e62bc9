// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"net"
	"testing"
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// TestStoreIsEmptiedLater: while the service manager does not read its mail, and has no room for more, sinks go. Their
// descriptors are taken out of the store once it listens again, and not at the next start.
func TestStoreIsEmptiedLater(t *testing.T) {
	k := newKeeper(t)
	up(t, k, Death{})
	s, err := NewSink(k.Setup.Dir, &Traffic{Largest: 1 << 10}, "s", ByName, wire.Options{}, Fast)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := s.Register(); err != nil {
		t.Fatal(err)
	}
	reaches(t, k, s)
	stored := func() int {
		sinks, _, err := k.Stored()
		if err != nil {
			t.Fatal(err)
		}
		return len(sinks)
	}
	if n := stored(); n != 1 {
		t.Fatalf("%d sinks stored", n)
	}

	k.systemd.Pause()
	filler, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: k.systemd.Socket(), Net: "unixgram"})
	if err != nil {
		k.systemd.Resume()
		t.Fatal(err)
	}
	defer filler.Close()
	filler.SetWriteDeadline(time.Now().Add(time.Second))
	for err == nil {
		_, err = filler.Write([]byte("STATUS=other services have a lot to say"))
	}
	s.close()
	time.Sleep(9 * time.Second) // 3 s until that is noticed, and 5 s that a message is waited with
	k.systemd.Resume()
	err = until(patience, func() (bool, error) { return stored() == 0, nil })
	if err != nil {
		t.Errorf("%d sinks are stored still: %v\n%s", stored(), err, k.Log())
	}
}
