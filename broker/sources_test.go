// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestSeveralSources: every socket for sources is one, the status shows what lies in each, and that somebody waits.
func TestSeveralSources(t *testing.T) {
	t.Parallel()
	other := t.TempDir()
	log, dsd := filepath.Join(other, "log"), filepath.Join(other, "dsd")
	p := startProcess(t, "--buffer", "1M", "--source", log, "--source", dsd)
	main, a, b, framed := brokertest.NewSource(t, p.Dir), brokertest.NewSourceAt(t, log), brokertest.NewSourceAt(t, dsd), brokertest.NewPublisher(t, p.Dir)
	sources := func() wire.Sources {
		st, _ := p.status(t)
		return st.Sources
	}
	if s := sources(); s.Blocked {
		t.Errorf("nobody has sent anything, and sources are blocked: %+v", s)
	}
	// A framed source alone waits as well.
	if err := framed.TrySend(stamped(4, 0, 100)); err != nil {
		t.Fatal(err)
	}
	test.Eventually(t, "the framed source is shown to wait", func() bool {
		s := sources()
		last := s.Sockets[len(s.Sockets)-1]
		return s.Blocked && s.Why == "no sink" && last.Path == p.Dir+"/publish" && last.Blocked == 1 && last.WaitingBytes > 100
	})
	for i := range uint64(3) {
		if err := errors.Join(main.TrySend(stamped(1, i, 20)), a.TrySend(stamped(2, i, 30))); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.TrySend(stamped(3, 0, 40)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []wire.SourceSocket{
		{Number: 1, Path: p.Dir + "/source", Kind: wire.KindDatagrams, Waiting: 3, WaitingBytes: 60},
		{Number: 2, Path: dsd, Kind: wire.KindDatagrams, Waiting: 1, WaitingBytes: 40},
		{Number: 3, Path: log, Kind: wire.KindDatagrams, Waiting: 3, WaitingBytes: 90},
	} {
		if got := sources().Sockets[want.Number-1]; got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	sink := brokertest.NewSink(t, p.Dir)
	next := make(map[uint32]uint64)
	for range 3 + 3 + 1 + 1 {
		m, err := sink.Receive()
		if err != nil {
			t.Fatal(err)
		}
		source, seq, ok := stamp(m)
		if !ok || seq != next[source] {
			t.Errorf("message %d of source %d instead of %d", seq, source, next[source])
		}
		next[source]++
	}
	if s := sources(); s.Blocked || s.Sockets[0].Waiting > 0 {
		t.Errorf("all is received, and sources: %+v", s)
	}
	p.signal(t, unix.SIGTERM)
	if code, _ := p.wait(t); code != 0 {
		t.Errorf("exit code %d: %s", code, p.stderr.String())
	}
	if left := socketsLeft(t, other); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestQuietSourceBesideFlood: with a socket of its own, a source that never waits loses nothing beside others that flood theirs: it
// gets its turn.
func TestQuietSourceBesideFlood(t *testing.T) {
	t.Parallel()
	quiet := filepath.Join(t.TempDir(), "quiet")
	p := startProcess(t, "--buffer", "1M", "--source", quiet)
	sink := brokertest.NewSubscriber(t, p.Dir)
	stop := make(chan struct{})
	var floods []<-chan uint64
	for i := range uint32(4) {
		floods = append(floods, flood(brokertest.NewSource(t, p.Dir), 10+i, 1000, stop))
	}
	source, next, others := brokertest.NewSourceAt(t, quiet), uint64(0), 0
	for next < 300 {
		if err := source.TrySend(stamped(1, next, 100)); err != nil {
			t.Fatalf("message %d beside %d of others: %v", next, others, err)
		}
		for came := false; !came; {
			packet, err := sink.Receive()
			if err != nil {
				t.Fatal(err)
			}
			wire.EachRecord(packet.Records, func(m []byte) bool {
				if number, _, _ := stamp(m); number == 1 {
					came = true
				} else {
					others++
				}
				return true
			})
		}
		next++
	}
	if others < 1000 {
		t.Errorf("%d messages of others are no flood", others)
	}
	close(stop)
	for _, f := range floods {
		<-f
	}
}
