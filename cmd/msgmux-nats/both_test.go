// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	msgmux "github.com/msgmux/msgmux/client"
)

// TestBothWays joins two hosts by one stream: what is sent on either is heard on the other, once and in order, and never comes back
// to where it began. Everything is killed meanwhile.
func TestBothWays(t *testing.T) {
	n := newNetwork(t)
	s := newServers(t, n, 1)
	js := s.connect(t, n.newHost("desk"))
	s.stream(t, js, jetstream.StreamConfig{Subjects: []string{"site.*"}, AllowBatchPublish: true})
	names := []string{"east", "west"}
	var said, heard [2]*channelOn // each host has a channel for what is said there, and one for what comes from elsewhere
	var wrong atomic.Pointer[string]
	var got [2]atomic.Uint64
	var processes []*process
	var hosts []*host
	for i, name := range names {
		h := n.newHost(name)
		hosts = append(hosts, h)
		said[i], heard[i] = newChannel(t, h, "--buffer", "64M"), newChannel(t, h)
		common := []string{"server=" + s.URLs, "stream=S", "keep=forever", "patience=forever", "writer=" + name, "packets=yes"}
		out := newBridge(t, h, "out", said[i], append(common, "out=site."+name)...).supervise()
		in := newBridge(t, h, "in", heard[i], append(common, "in=site.*")...).supervise()
		processes = append(processes, out, in, said[i].broker, heard[i].broker)
		forever := msgmux.Forever
		sink, err := heard[i].Subscribe(t.Context(), msgmux.SinkOptions{Label: "ear", Keep: msgmux.Forever, Patience: &forever})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { sink.Close() })
		go func() {
			for m, err := range sink.Messages(t.Context()) {
				if err != nil {
					return
				}
				want := fmt.Sprintf("from %s: %d", names[1-i], got[i].Load())
				if string(m.Payload) != want {
					text := fmt.Sprintf("on %s %q came, and %q was next", name, m.Payload, want)
					wrong.CompareAndSwap(nil, &text)
				}
				got[i].Add(1)
			}
		}()
	}
	eventually(t, "the kept sinks", func() bool {
		for i := range names {
			if _, all, err := said[i].Sinks(t.Context()); err != nil || len(all) != 1 {
				return false
			}
		}
		return true
	})
	const many = 5000
	var speakers sync.WaitGroup
	for i, name := range names {
		speakers.Go(func() {
			source, err := said[i].Dial(t.Context(), msgmux.SourceOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			defer source.Close()
			for m := range many {
				if err := source.Send(t.Context(), fmt.Appendf(nil, "from %s: %d", name, m)); err != nil {
					t.Error(err)
					return
				}
				if m%10 == 0 {
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
	c := newChaos(t, number(t, "MSGMUX_SEED", uint64(time.Now().UnixNano())), 9, processes, s, hosts)
	for c.total() < 10 && wrong.Load() == nil {
		c.strike()
	}
	speakers.Wait()
	eventually(t, "all messages", func() bool {
		return wrong.Load() != nil || got[0].Load() == many && got[1].Load() == many
	})
	if w := wrong.Load(); w != nil {
		t.Error(*w)
	}
	t.Logf("seed %d: %s", c.seed, strings.TrimPrefix(fmt.Sprint(c.kinds), "map"))
}
