// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestStagesInTheLimits: a source that takes the place of two is let in where there are two places, whether its mark is kept or not.
func TestStagesInTheLimits(t *testing.T) {
	l := stagedLoop(t)
	l.limits.UID = 1
	spec := ring.ClientSpec{Label: "a", Marks: true, Keep: time.Minute, UID: 1}
	spec.ID = l.ring.NewID()
	c, err := l.ring.AddClient(spec)
	if err != nil {
		t.Fatal(err)
	}
	l.forgetSource(c, false)
	most := int(l.ring.Geometry().MaxClients)
	for i := range most - 1 { // one place for the one that is kept
		if _, refusal := l.ReserveSource(1, false); refusal != nil {
			t.Fatalf("source %d of %d: %v", i, most, refusal)
		}
		if _, err := l.ring.AddClient(ring.ClientSpec{ID: l.ring.NewID(), UID: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if _, refusal := l.ReserveMarked("a", 1, false, false); refusal != nil {
		t.Errorf("back without a stage: %v", refusal)
	}
	if _, refusal := l.ReserveMarked("a", 1, false, true); refusal == nil || refusal.Code != wire.CodeQuota {
		t.Errorf("back with a stage, where there is no place for one: %v", refusal)
	}
}

// TestMemoryLeavesPlaces: ordinary users leave some places to root, also those who take the place of two each.
func TestMemoryLeavesPlaces(t *testing.T) {
	l := stagedLoop(t)
	for i := 0; ; i++ {
		uid := uint32(1000 + i)
		if _, refusal := l.ReserveSource(uid, true); refusal != nil {
			break
		}
		stager(t, l, ring.ClientSpec{UID: uid})
	}
	if l.stages != 4 {
		t.Errorf("%d stages where there are 9 places", l.stages)
	}
	if _, refusal := l.ReserveSource(0, true); refusal != nil {
		t.Errorf("root's: %v", refusal)
	}
	l = stagedLoopOf(t, 10)
	for l.ring.Sinks(func(s *ring.Sink) bool { l.forget(s); return true }); ; {
		id, refusal := l.Reserve(1000, true)
		if refusal != nil {
			break
		}
		page, refusal := NewPage()
		if refusal != nil {
			t.Fatal(refusal)
		}
		fd, _ := connection(t)
		s, err := l.ring.Add(ring.Spec{ID: id, Kind: ring.Framed, UID: 1000, Frames: true, View: true}, ring.Reading{CursorSpec: ring.CursorSpec{Ack: true, UID: 1000}}, true)
		if err != nil {
			t.Fatal(err)
		}
		l.Greet(s, fd, page)
	}
	if l.views != 4 {
		t.Errorf("%d sinks in view where there are 9 places", l.views)
	}
	if _, refusal := l.Reserve(0, true); refusal != nil {
		t.Errorf("root's: %v", refusal)
	}
}

// TestMemoryInTheLimitOfAUser: a page or a stage counts for its user as one more, also one that he asks for when he comes back to what is
// kept for him; others have nothing to do with it.
func TestMemoryInTheLimitOfAUser(t *testing.T) {
	l := stagedLoopOf(t, 20)
	l.ring.Sinks(func(s *ring.Sink) bool { l.forget(s); return true })
	l.limits.PerUser = 5
	quota := func(who string, refusal *wire.Error, want bool) {
		t.Helper()
		if refusal != nil && refusal.Code != wire.CodeQuota || (refusal != nil) != want {
			t.Errorf("%s: %v", who, refusal)
		}
	}
	for range 2 {
		_, refusal := l.ReserveSource(1000, true)
		quota("a source with a stage", refusal, false)
		stager(t, l, ring.ClientSpec{UID: 1000})
	}
	_, refusal := l.ReserveSource(1000, true)
	quota("one with a stage too many", refusal, true)
	_, refusal = l.ReserveSource(1001, true)
	quota("another user's", refusal, false)
	_, refusal = l.ReserveSource(0, true)
	quota("root's", refusal, false)
	_, refusal = l.ReserveSource(1000, false)
	quota("the fifth place", refusal, false)

	kept := ring.Spec{Kind: ring.Framed, UID: 1000, Frames: true}
	for i := range 5 {
		kept.Label = string(rune('a' + i))
		id, refusal := l.Reserve(1000, false)
		quota("a sink", refusal, false)
		kept.ID = id
		s, err := l.ring.Add(kept, ring.Reading{CursorSpec: ring.CursorSpec{Ack: true, UID: 1000, Keep: time.Minute}}, true)
		if err != nil {
			t.Fatal(err)
		}
		l.labels[kept.Label] = id
		l.ring.Leave(s)
		if i == 2 {
			kept.View = true
			_, refusal = l.ReserveKept(kept, Wish{}, false)
			quota("back in view, where there is a place", refusal, false)
			kept.View = false
		}
	}
	_, refusal = l.ReserveKept(kept, Wish{}, false)
	quota("back", refusal, false)
	kept.View = true
	_, refusal = l.ReserveKept(kept, Wish{}, false)
	quota("back in view, where there is none", refusal, true)
}

// TestStagesInTheMemory: there are no more stages than there is memory for; sources without one come in.
func TestStagesInTheMemory(t *testing.T) {
	l := stagedLoop(t)
	l.limits.Stages, l.limits.QueueBound = 3, "the memory"
	staged := func(uid uint32) string {
		_, refusal := l.ReserveSource(uid, true)
		if refusal != nil {
			return refusal.Code + " " + refusal.Text
		}
		stager(t, l, ring.ClientSpec{UID: uid})
		return ""
	}
	for i := range uint32(3) {
		if said := staged(1000 + i); said != "" {
			t.Errorf("stage %d of 3: %s", i, said)
		}
	}
	for _, uid := range []uint32{0, 2000} {
		if said := staged(uid); !strings.HasPrefix(said, wire.CodeQuota) || !strings.Contains(said, "3 stages already, as many as the memory allows") {
			t.Errorf("one more, of user %d: %q", uid, said)
		}
	}
	if _, refusal := l.ReserveSource(2000, false); refusal != nil {
		t.Errorf("without a stage: %v", refusal)
	}
}
