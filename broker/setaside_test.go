// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// stored connects to a sink's socket, as the broker does, and is what a successor gets of it out of the store.
func stored(t *testing.T, s *brokertest.Sink, id uint64) activation.Stored {
	t.Helper()
	fd, err := sys.ConnectDatagram(s.Name, 0)
	if err != nil {
		t.Fatal(err)
	}
	name := activation.SinkName(activation.DatagramSink, id)
	return activation.Stored{Descriptor: activation.Descriptor{Name: name, FD: fd, Kind: activation.Datagram}, Letter: activation.DatagramSink, ID: id}
}

// brokenRing is a pair of files with these sinks in it, and a head that cannot be.
func brokenRing(t *testing.T, specs ...ring.Salvaged) (data, state activation.Descriptor) {
	t.Helper()
	return brokenRingOf(t, 0, specs, nil)
}

// brokenRingOf is brokenRing with connected sources, too.
func brokenRingOf(t *testing.T, messages int, specs []ring.Salvaged, sources []ring.ClientSpec) (data, state activation.Descriptor) {
	t.Helper()
	data, state = ringOf(t, messages, specs, sources)
	const head = 4096 + 8 // control.Head.Pos
	if _, err := unix.Pwrite(state.FD, []byte{1, 2, 3, 4, 5, 6, 7, 8}, head); err != nil {
		t.Fatal(err)
	}
	return data, state
}

// ringWith is a pair of files with some messages in it, and these sinks, which have none of them.
func ringWith(t *testing.T, messages int, specs ...ring.Salvaged) (data, state activation.Descriptor) {
	t.Helper()
	return ringOf(t, messages, specs, nil)
}

func ringOf(t *testing.T, messages int, specs []ring.Salvaged, sources []ring.ClientSpec) (data, state activation.Descriptor) {
	t.Helper()
	r, err := ring.Create(brokertest.Config().Geometry, 7, ring.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Retire()
	for _, spec := range specs {
		spec.Spec.ID = r.NewID()
		if _, err := r.Add(spec.Spec, spec.Reading, false); err != nil {
			t.Fatal(err)
		}
	}
	for _, spec := range sources {
		spec.ID = r.NewID()
		if _, err := r.AddAttached(spec); err != nil {
			t.Fatal(err)
		}
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	for range messages {
		if err := unix.Send(ends[0], []byte("old"), 0); err != nil {
			t.Fatal(err)
		}
		r.Receive(ends[1], ring.Datagrams, ring.From{}, 1)
		r.Append()
	}
	return handedOn(t, r)
}

// handedOn are the files of a ring as a successor gets them.
func handedOn(t *testing.T, r *ring.Ring) (data, state activation.Descriptor) {
	t.Helper()
	d, s := r.Descriptors()
	again := func(fd int, name string) activation.Descriptor {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			t.Fatal(err)
		}
		return activation.Descriptor{Name: activation.MemoryName(name, 7), FD: n, Kind: activation.Memfd}
	}
	return again(d, activation.DataName), again(s, activation.StateName)
}

// TestSetAsideKeepsAllSinks: when a ring is set aside its sinks go on under their ids, and no other entry gets one of
// these, in whatever order their descriptors come.
func TestSetAsideKeepsAllSinks(t *testing.T) {
	plain, member := brokertest.NewSocket(t, brokertest.Name()), brokertest.NewSocket(t, brokertest.Name())
	uid := uint32(os.Getuid())
	var declared *brokertest.Sink
	b := brokertest.StartWith(t, func(cfg *broker.Config, in *activation.Set) {
		address := cfg.SinksDir + "/declared"
		declared = brokertest.NewSocket(t, address)
		data, state := brokenRing(t,
			ring.Salvaged{Spec: ring.Spec{Kind: ring.Dynamic, Label: "plain", Address: plain.Name, UID: uid}},
			ring.Salvaged{Spec: ring.Spec{Kind: ring.Dynamic, Label: "member", Address: member.Name, UID: uid},
				Reading: ring.Reading{CursorSpec: ring.CursorSpec{Share: "g", UID: uid}}},
			ring.Salvaged{Spec: ring.Spec{Kind: ring.Static, Label: "undeclared", Address: "/nowhere"}}, // its id is 4, after that of the share
			ring.Salvaged{Spec: ring.Spec{Kind: ring.Static, Label: "declared", Address: address}})
		in.Data, in.State = []activation.Descriptor{data}, []activation.Descriptor{state}
		in.Stored = []activation.Stored{stored(t, member, 2), stored(t, plain, 1)}
	})
	for id, label := range map[uint64]string{1: "plain", 2: "member"} {
		if s, ok := findSink(b, id); !ok || s.Label != label || s.State != "ready" {
			t.Errorf("sink %d is %+v, there: %v", id, s, ok)
		}
	}
	if s := becomes(t, b, "declared", "ready"); s.ID != 5 {
		t.Errorf("the static sink is another one, %d: it was not there from the beginning on", s.ID)
	}
	if err := brokertest.NewSource(t, b.Dir).Send(stamped(1, 0, 100)); err != nil {
		t.Fatal(err)
	}
	receiveSeq(t, plain, 1, 0, 1)
	receiveSeq(t, member, 1, 0, 1)
	receiveSeq(t, declared, 1, 0, 1)
	test.Eventually(t, "a sink that is not declared any more is gone", func() bool {
		_, there := static(b, "undeclared")
		return !there
	})
}

// TestSetAsideSourcesAreNoSinks: connected sources of a ring that was set aside go on, too, and take neither the name of a sink nor the
// place of one.
func TestSetAsideSourcesAreNoSinks(t *testing.T) {
	web := brokertest.NewSocket(t, brokertest.Name())
	uid := uint32(os.Getuid())
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[0])
	b := brokertest.StartWith(t, func(cfg *broker.Config, in *activation.Set) {
		data, state := brokenRingOf(t, 0,
			[]ring.Salvaged{{Spec: ring.Spec{Kind: ring.Dynamic, Label: "web", Address: web.Name, UID: uid}}},
			[]ring.ClientSpec{{Label: "web", UID: uid}, {Label: "tail", UID: uid}})
		source := activation.Stored{Letter: activation.ConnectedSource, ID: 3, Descriptor: activation.Descriptor{
			Name: activation.SinkName(activation.ConnectedSource, 3), FD: ends[1], Kind: activation.SeqpacketConn}}
		in.Data, in.State = []activation.Descriptor{data}, []activation.Descriptor{state}
		in.Stored = []activation.Stored{stored(t, web, 1), source}
	})
	if e := b.Channel.SetPatience(0, "web", time.Minute); e != nil {
		t.Errorf("the sink is not found by its name: %v", e)
	}
	if n := b.Channel.Status().Sinks.Total; n != 1 {
		t.Errorf("%d sinks instead of 1", n)
	}
	if s, ok := findSink(b, brokertest.NewSink(t, b.Dir, "label=tail").ID); !ok || s.Label != "tail" {
		t.Errorf("a source has taken the name of a sink, which is called %q", s.Label)
	}
	if err := unix.Send(ends[0], wire.AppendRecord(nil, stamped(1, 0, 100)), 0); err != nil {
		t.Fatal(err)
	}
	receiveSeq(t, web, 1, 0, 1)
}

// TestSetAsideSaysWhatIsGivenUp: of a ring that a newer version has left, how many messages; of a damaged one, that it
// cannot be known.
func TestSetAsideSaysWhatIsGivenUp(t *testing.T) {
	for _, c := range []struct {
		what   string
		offset int64 // of a byte of the state that is made 99
		words  []string
		none   string
	}{
		{"newer", 8, []string{"the messages in it are given up", " messages=3 ", " waiting=3"}, "cannot be known"},
		{"damaged", 4096 + 8 + 7, []string{"the messages in it are given up, and how many cannot be known"}, "messages="},
	} {
		log := &keptLog{Handler: slog.NewTextHandler(t.Output(), nil)}
		b := brokertest.StartWith(t, func(_ *broker.Config, in *activation.Set) {
			data, state := ringWith(t, 3, ring.Salvaged{Spec: ring.Spec{Kind: ring.Static, Label: "absent", Address: "/nowhere"}})
			if _, err := unix.Pwrite(state.FD, []byte{99}, c.offset); err != nil {
				t.Fatal(err)
			}
			in.Data, in.State = []activation.Descriptor{data}, []activation.Descriptor{state}
		}, keepLog(log))
		test.Eventually(t, "the journal is written", func() bool { return len(log.grep("ring-broken: ")) > 0 })
		if lines := log.grep("ring-broken: "); len(lines) != 1 || len(log.grep(c.words...)) != 1 || strings.Contains(lines[0], c.none) {
			t.Errorf("of a ring that is %s the journal says %q", c.what, lines)
		}
		b.Stop()
	}
}

// TestLeftoverIdsAreNotUsedAgain: a descriptor without an entry is taken out of the store by its name, some time after
// the start. Nobody who comes meanwhile is stored by that name.
func TestLeftoverIdsAreNotUsedAgain(t *testing.T) {
	b := brokertest.StartWith(t, func(cfg *broker.Config, in *activation.Set) {
		for id := uint64(1); id <= 3; id++ {
			in.Stored = append(in.Stored, stored(t, brokertest.NewSocket(t, brokertest.Name()), id))
		}
	})
	if s := brokertest.NewSink(t, b.Dir); s.ID <= 3 {
		t.Errorf("a new sink has id %d, and so the name of a descriptor that is being removed", s.ID)
	}
}

// TestNoRoomIsNotBroken: a ring that cannot be mapped for want of memory is not set aside. Its messages are kept for the
// next start.
func TestNoRoomIsNotBroken(t *testing.T) {
	log := &keptLog{Handler: slog.NewTextHandler(t.Output(), nil)}
	cfg := brokertest.Config()
	cfg.Log, cfg.Geometry.Size = log, 256<<20
	r, err := ring.Create(cfg.Geometry, 1, ring.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Retire()
	data, state := r.Descriptors()
	var in activation.Set
	in.Data = []activation.Descriptor{{Name: activation.DataName, FD: data, Kind: activation.Memfd}}
	in.State = []activation.Descriptor{{Name: activation.StateName, FD: state, Kind: activation.Memfd}}
	withoutAddresses(t, func() { _, err = broker.Open(cfg, in) })
	if err == nil || len(log.grep("ring-broken")) > 0 {
		t.Errorf("%v, logged %q", err, log.lines)
	}
	if _, ok := ring.GenerationOf(state); !ok {
		t.Error("the ring is closed")
	}
}

// withoutAddresses runs f while this process can map hardly anything more.
func withoutAddresses(t *testing.T, f func()) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var pages, spare uint64
	fmt.Sscan(string(b), &pages)
	spare = 128 << 20 // for the runtime, which dies when it gets none
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_AS, &old); err != nil {
		t.Fatal(err)
	}
	limit := unix.Rlimit{Cur: pages*uint64(os.Getpagesize()) + spare, Max: old.Max}
	if err := unix.Setrlimit(unix.RLIMIT_AS, &limit); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_AS, &old)
	f()
}
