// SPDX-License-Identifier: Apache-2.0

package activation_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/msgmux/msgmux/activation"
	"golang.org/x/sys/unix"
)

func TestRoute(t *testing.T) {
	ds := []activation.Descriptor{
		{Name: "mux-state-2", FD: 10, Kind: activation.Memfd},
		{Name: "d1", FD: 11, Kind: activation.Datagram},
		{Name: "sink-foo", FD: 12, Kind: activation.Datagram},
		{Name: "control", FD: 13, Kind: activation.SeqpacketListener},
		{Name: "source-mq", FD: 14, Kind: activation.MessageQueue},
		{Name: "subscribe", FD: 15, Kind: activation.SeqpacketListener},
		{Name: "mux-data", FD: 16, Kind: activation.Memfd},
		{Name: "source", FD: 17, Kind: activation.Datagram},
		{Name: "sA", FD: 18, Kind: activation.SeqpacketConn},
		{Name: "sink", FD: 19, Kind: activation.MessageQueue},
		{Name: "publish", FD: 20, Kind: activation.SeqpacketListener},
		{Name: "register", FD: 21, Kind: activation.Datagram},
		{Name: "metrics", FD: 22, Kind: activation.StreamListener},
		{Name: "source-mq", FD: 23, Kind: activation.MessageQueue},
		{Name: "mux-data-2", FD: 24, Kind: activation.Memfd},
		{Name: "mux-state", FD: 25, Kind: activation.Memfd},
		{Name: "cZ", FD: 26, Kind: activation.SeqpacketConn},
		{Name: "d1", FD: 27, Kind: activation.Datagram},
		{Name: "mux-last", FD: 28, Kind: activation.Other},
		{Name: "mux-first", FD: 29, Kind: activation.Other},
		{Name: "source", FD: 30, Kind: activation.Datagram},
	}
	set, problems := activation.Route(ds)
	if len(problems) > 0 {
		t.Errorf("problems: %v", problems)
	}
	for name, got := range map[string]activation.Descriptor{
		"source": set.Sources[0], "publish": set.Publish, "register": set.Register,
		"subscribe": set.Subscribe, "control": set.Control, "metrics": set.Metrics,
	} {
		if got.Name != name || !got.Given() {
			t.Errorf("in the place of %s: %+v", name, got)
		}
	}
	numbers := func(ds []activation.Descriptor) (fds []int) {
		for _, d := range ds {
			fds = append(fds, d.FD)
		}
		return fds
	}
	for _, tt := range []struct {
		name      string
		got, want []int
	}{
		{"sources", numbers(set.Sources), []int{17, 30}},
		{"source queues", numbers(set.SourceQueues), []int{14, 23}},
		{"sinks", numbers(set.Sinks), []int{12, 19}},
		{"data", numbers(set.Data), []int{16, 24}},
		{"state", numbers(set.State), []int{10, 25}},
		{"witnesses", numbers(set.Witnesses), []int{28, 29}},
	} {
		if !slices.Equal(tt.got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, tt.got, tt.want)
		}
	}
	var stored []string
	for _, s := range set.Stored {
		if activation.SinkName(s.Letter, s.ID) != s.Name {
			t.Errorf("%s was taken apart as %c and %d", s.Name, s.Letter, s.ID)
		}
		stored = append(stored, s.Name)
	}
	if !slices.Equal(stored, []string{"d1", "sA", "cZ", "d1"}) {
		t.Errorf("stored: %q", stored)
	}
}

func TestRouteAbsent(t *testing.T) {
	set, problems := activation.Route(nil)
	if len(problems) > 0 {
		t.Errorf("problems: %v", problems)
	}
	for _, d := range []activation.Descriptor{set.Publish, set.Register, set.Subscribe, set.Control, set.Metrics} {
		if d.FD != -1 || d.Given() {
			t.Errorf("absent descriptor: %+v", d)
		}
	}
}

func TestRouteProblems(t *testing.T) {
	// The classic: a TCP socket where a datagram socket belongs, as the kernel sees it.
	tcp := listening(t, unix.AF_INET, unix.SOCK_STREAM)
	kind, err := activation.Classify(tcp)
	if err != nil {
		t.Fatal(err)
	}
	bad := []struct {
		d      activation.Descriptor
		reason string
	}{
		{activation.Descriptor{Name: "source", FD: tcp, Kind: kind}, "must be a datagram socket"},
		{activation.Descriptor{Name: "publish", FD: 101, Kind: activation.SeqpacketConn}, "must be a listening seqpacket socket"},
		{activation.Descriptor{Name: "register", FD: 102, Kind: activation.SeqpacketListener}, "must be a datagram socket"},
		{activation.Descriptor{Name: "subscribe", FD: 103, Kind: activation.StreamListener}, "must be a listening seqpacket socket"},
		{activation.Descriptor{Name: "control", FD: 105, Kind: activation.SeqpacketListener}, "descriptor 104 has the same name"},
		{activation.Descriptor{Name: "metrics", FD: 106, Kind: activation.Datagram}, "must be a listening stream socket"},
		{activation.Descriptor{Name: "source-mq", FD: 107, Kind: activation.Datagram}, "must be a message queue"},
		{activation.Descriptor{Name: "sink-x", FD: 108, Kind: activation.StreamListener}, "must be a datagram socket or a message queue"},
		{activation.Descriptor{Name: "mux-data", FD: 109, Kind: activation.Other}, "must be a memfd"},
		{activation.Descriptor{Name: "d7", FD: 110, Kind: activation.SeqpacketConn}, "must be a datagram socket"},
		{activation.Descriptor{Name: "c7", FD: 111, Kind: activation.Datagram}, "must be a connected seqpacket socket"},
		{activation.Descriptor{Name: "msgmux-source.socket", FD: 112, Kind: activation.Datagram}, "unknown name"},
		{activation.Descriptor{Name: "", FD: 113, Kind: activation.Datagram}, "unknown name"},
		{activation.Descriptor{Name: "unknown", FD: 114, Kind: activation.Other}, "unknown name"},
		{activation.Descriptor{Name: "sinks", FD: 115, Kind: activation.Datagram}, "unknown name"},
		{activation.Descriptor{Name: "mux-database", FD: 116, Kind: activation.Memfd}, "unknown name"},
	}
	ds := []activation.Descriptor{{Name: "control", FD: 104, Kind: activation.SeqpacketListener}}
	for _, b := range bad {
		ds = append(ds, b.d)
	}
	set, problems := activation.Route(ds)
	if set.Control.FD != 104 || len(set.Sources) > 0 || len(set.Stored) > 0 {
		t.Errorf("set: %+v", set)
	}
	if len(problems) != len(bad) {
		t.Fatalf("%d problems, want %d: %v", len(problems), len(bad), problems)
	}
	for i, p := range problems {
		if p.Descriptor != bad[i].d || !strings.Contains(p.String(), bad[i].reason) {
			t.Errorf("problem %q, want %q", p, bad[i].reason)
		}
	}
}

// TestProblemsOfStore: what a later broker may have stored is of no use to anybody else; all other descriptors may be somebody's
// way to a channel.
func TestProblemsOfStore(t *testing.T) {
	for name, want := range map[string]bool{
		"mux-data": true, "mux-view-3": true, "d1": true, "v1": true, "zZ9": true, "cZ": true,
		"source": false, "register": false, "metrics": false, "sink-x": false, "sink": false, "unknown": false, "": false, "d": false,
		"msgmux-source.socket": false, "dsd": false, "D1": false, "d1 ": false, "muxdata": false,
	} {
		if got := (activation.Problem{Descriptor: activation.Descriptor{Name: name}}).OfStore(); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestSinkName(t *testing.T) {
	for _, tt := range []struct {
		kind byte
		id   uint64
		want string
	}{
		{activation.DatagramSink, 0, "d0"},
		{activation.DatagramSink, 35, "dZ"},
		{activation.ConnectedSource, 36, "c10"},
		{activation.ConnectedSink, 24176, "sINK"}, // in small letters: a handed-over sink
		{activation.ConnectedSink, math.MaxUint64, "s3W5E11264SGSF"},
	} {
		if got := activation.SinkName(tt.kind, tt.id); got != tt.want {
			t.Errorf("%c and %d make %q, want %q", tt.kind, tt.id, got, tt.want)
		}
		if kind, id, ok := activation.ParseSinkName(tt.want); !ok || kind != tt.kind || id != tt.id {
			t.Errorf("%q is %c and %d, %v", tt.want, kind, id, ok)
		}
	}
	// No other string is a store name, so that two names never mean one sink. The fixed names are among them.
	for _, bad := range []string{
		"", "d", "x1", "1", "d01", "da", "d-1", "d+1", "d 1", "s3W5E11264SGSG", "d1_0", "D1",
		"source", "publish", "register", "subscribe", "control", "metrics", "sink", "source-mq",
	} {
		if kind, id, ok := activation.ParseSinkName(bad); ok {
			t.Errorf("%q is %c and %d", bad, kind, id)
		}
	}
}

func TestMemoryName(t *testing.T) {
	for _, name := range []string{
		activation.MemoryName(activation.DataName, 0), activation.MemoryName(activation.DataName, 1),
		activation.MemoryName(activation.DataName, math.MaxUint64),
	} {
		set, problems := activation.Route([]activation.Descriptor{{Name: name, FD: 9, Kind: activation.Memfd}})
		if len(problems) > 0 || len(set.Data) != 1 || len(set.State) > 0 {
			t.Errorf("%s: %+v, %v", name, set, problems)
		}
	}
	if a, b := activation.MemoryName(activation.StateName, 1), activation.MemoryName(activation.StateName, 2); a == b {
		t.Errorf("two generations have one name, %s", a)
	}
}
