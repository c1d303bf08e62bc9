// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
)

// TestPromise5_Form: a sink that asks for it gets no empty messages, none that it would cut, and each with the end that it wants. All
// others get all as they are, and what was left out is counted.
func TestPromise5_Form(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t)
	messages := []string{"", "plain", "line\n", "two\n\n", "nul\x00", "\n", "", "0123456789", "01234567890\n", "last"}
	forms := []struct {
		options []string
		want    []string
		leftOut uint64
	}{
		{nil, messages, 0},
		{[]string{"empty=no"}, []string{"plain", "line\n", "two\n\n", "nul\x00", "\n", "0123456789", "01234567890\n", "last"}, 2},
		{[]string{"end=newline"}, []string{"\n", "plain\n", "line\n", "two\n", "nul\n", "\n", "\n", "0123456789\n", "01234567890\n", "last\n"}, 0},
		{[]string{"end=none"}, []string{"", "plain", "line", "two", "nul", "", "", "0123456789", "01234567890", "last"}, 0},
		{[]string{"end=none", "empty=no"}, []string{"plain", "line", "two", "nul", "0123456789", "01234567890", "last"}, 3},
		{[]string{"max-size=10"}, []string{"", "plain", "line\n", "two\n\n", "nul\x00", "\n", "", "0123456789", "last"}, 1},
		{[]string{"end=newline", "empty=no", "max-size=10"}, []string{"plain\n", "line\n", "two\n", "nul\n", "last\n"}, 5},
		{[]string{"end=none", "max-size=10", "share=workers"}, []string{"", "plain", "line", "two", "nul", "", "", "0123456789", "last"}, 1},
	}
	var sinks []*brokertest.Sink
	for _, f := range forms {
		sinks = append(sinks, brokertest.NewSink(t, b.Dir, f.options...))
	}
	source := brokertest.NewSource(t, b.Dir)
	const rounds = 30 // several batches, from any place on
	for range rounds {
		for _, m := range messages {
			if err := source.Send([]byte(m)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, f := range forms {
		for round := range rounds {
			for n, want := range f.want {
				got, err := sinks[i].Receive()
				if err != nil || string(got) != want {
					t.Fatalf("%q, round %d, message %d: %q, %v; want %q", f.options, round, n, got, err, want)
				}
			}
		}
		entered := uint64(rounds * len(messages))
		test.Eventually(t, "its books are closed", func() bool { return sinkOf(t, b, sinks[i].ID).Waiting == 0 })
		if s := sinkOf(t, b, sinks[i].ID); s.LeftOut != rounds*f.leftOut || s.Lost != 0 || s.Accepted+s.LeftOut != entered {
			t.Errorf("%q: accepted %d, left out %d, lost %d of %d", f.options, s.Accepted, s.LeftOut, s.Lost, entered)
		}
		receivesNothing(t, sinks[i], "the sink")
	}
	// What has gone is counted on.
	before := b.Channel.Status()
	for _, s := range sinks {
		s.Close()
	}
	test.Eventually(t, "the sinks are gone", func() bool { return counted(b).Sinks.Total == 0 })
	if after := counted(b); after.LeftOut != before.LeftOut || after.Lost != 0 || after.LeftOut != 12*rounds {
		t.Errorf("left out %d before, %d after, of %d; lost %d", before.LeftOut, after.LeftOut, 12*rounds, after.Lost)
	}
}

// TestFormOfShare: what one of a share does not want is for another one that does; what none wants is left out.
func TestFormOfShare(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t)
	short := brokertest.NewSink(t, b.Dir, "share=g", "max-size=10")
	source := brokertest.NewSource(t, b.Dir)
	send := func(messages ...string) {
		t.Helper()
		for _, m := range messages {
			if err := source.Send([]byte(m)); err != nil {
				t.Fatal(err)
			}
		}
	}
	long := strings.Repeat("x", 100)
	send("a", long, "b")
	for _, want := range []string{"a", "b"} {
		if got, err := short.Receive(); err != nil || string(got) != want {
			t.Fatalf("%q, %v; want %q", got, err, want)
		}
	}
	any := brokertest.NewSink(t, b.Dir, "share=g")
	const n = 20
	for range n {
		send(long)
	}
	for range n {
		if got, err := any.Receive(); err != nil || string(got) != long {
			t.Fatalf("%q, %v", got, err)
		}
	}
	receivesNothing(t, short, "the one that wants none of these")
	if s := sinkOf(t, b, short.ID); s.LeftOut != 1 || s.Lost != 0 || s.Waiting != 0 {
		t.Errorf("%+v", s)
	}
}

// TestFormOfStaticSink: its file of options says it, also while it is there, and a broker that comes after keeps it.
func TestFormOfStaticSink(t *testing.T) {
	t.Parallel()
	options := t.TempDir()
	b := brokertest.Start(t, func(cfg *broker.Config) { cfg.OptionsDir = options })
	conf := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(options, "agent.conf"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		b.Channel.Rescan()
	}
	conf("empty=no\n")
	agent := brokertest.NewSocket(t, b.Dir+"/sinks/agent")
	source := brokertest.NewSource(t, b.Dir)
	want := func(messages []string, got ...string) {
		t.Helper()
		for _, m := range messages {
			if err := source.Send([]byte(m)); err != nil {
				t.Fatal(err)
			}
		}
		var came []string
		for range got {
			m, err := agent.Receive()
			if err != nil {
				t.Fatal(err)
			}
			came = append(came, string(m))
		}
		if !slices.Equal(came, got) {
			t.Errorf("%q came of %q, want %q", came, messages, got)
		}
	}
	want([]string{"", "a", "", "", "b", ""}, "a", "b")
	conf("end=newline\n")
	test.Eventually(t, "the file is read", func() bool {
		if err := source.Send([]byte("c")); err != nil {
			t.Fatal(err)
		}
		m, err := agent.Receive()
		return err == nil && string(m) == "c\n"
	})
	want([]string{"", "d"}, "\n", "d\n")
}
