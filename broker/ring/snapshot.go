// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"runtime"
	"slices"
	"time"
)

// Totals are the numbers of a channel at one moment. Counts are messages.
type Totals struct {
	Geometry              Geometry
	Generation            uint64
	Starts                uint64
	Since                 int64 // unix seconds
	Head, Tail, Delivered Place
	Refused               [numReasons]uint64
	Accepted              uint64 // by all sinks, past ones included
	Lost                  uint64
	LeftOut               uint64 // what sinks did not want: see Form
	Unread                uint64 // of Accepted: what lay unread in sockets that went, see CountUnread
	Abandoned             uint64
	Uncertain             uint64
	AsOwn                 uint64 // what sinks that want the senders' credentials got with the broker's own
}

// Entered is how many messages have entered the ring so far.
func (t *Totals) Entered() uint64 { return t.Head.Seq }

// Received is how many messages the sources have got rid of and the ring has looked at.
func (t *Totals) Received() uint64 {
	n := t.Head.Seq
	for _, k := range t.Refused {
		n += k
	}
	return n
}

// RefusedBy is Refused with the names of the reasons.
func (t *Totals) RefusedBy() map[string]uint64 {
	m := make(map[string]uint64, numReasons)
	for i, n := range t.Refused {
		m[Reason(i).String()] = n
	}
	return m
}

// Numbers are those of one sink at one moment: Accepted + Lost + LeftOut + Waiting = what entered since Start. Of a sink of a share
// they are the share's, and Took is what it accepted itself.
type Numbers struct {
	Spec      *Spec
	Reading   *CursorSpec
	Slot      int // its place in the sink table; another sink may have it later
	Cursor    Place
	Start     uint64
	Accepted  uint64
	Lost      uint64
	LeftOut   uint64 // what it did not want: see Form
	Unread    uint64 // of Accepted: what lay unread in sockets of its cursor that went, see CountUnread
	Waiting   uint64
	LagBytes  uint64
	Took      uint64
	Lagging   bool
	Catching  bool
	Attaching bool
	Absent    bool          // its socket is not connected
	Stalled   bool          // its socket is full
	Queue     bool          // it is a POSIX message queue
	Owed      time.Duration // its account, or its user's

	Unacknowledged uint64    // of one that acknowledges: sent, and not done
	Left           time.Time // of a kept one: when its connection went; the zero Time: it is there
}

// Snapshot reads the totals, and appends the numbers of every sink to buf. It may be called from any goroutine; it never makes
// the data thread wait, which changes an entry under its sequence word.
func (r *Ring) Snapshot(buf []Numbers) (Totals, []Numbers) {
	t := r.totals()
	type row struct {
		s *Sink
		n Numbers
	}
	rows := make([]row, 0, 64)
	for i := range r.sinks {
		if s := r.sinks[i].Load(); s != nil {
			rows = append(rows, row{s, s.numbers(t.Head)})
		}
	}
	// A sink that has gone since then has its counts among the totals, or will have in a moment.
	for {
		before := r.removals.Load()
		t.Accepted, t.Lost, t.LeftOut, t.Abandoned = r.c.GoneAccepted.Load(), r.c.GoneLost.Load(), r.c.GoneLeftOut.Load(), r.c.GoneAbandoned.Load()
		t.Unread = r.c.GoneUnread.Load()
		rows = slices.DeleteFunc(rows, func(x row) bool { return r.sinks[x.n.Slot].Load() != x.s })
		if before&1 == 0 && r.removals.Load() == before {
			break
		}
		runtime.Gosched()
	}
	t.Lost -= min(t.Lost, t.LeftOut) // which is a part of it there
	counted := make(map[*Cursor]bool, len(rows))
	for i := range rows {
		x := &rows[i]
		if c := x.s.cursor; !counted[c] {
			counted[c] = true
			t.Accepted += x.n.Accepted
			t.Lost += x.n.Lost
			t.LeftOut += x.n.LeftOut
			t.Unread += x.n.Unread
		}
		buf = append(buf, x.n)
	}
	return t, buf
}

func (r *Ring) totals() (t Totals) {
	c := r.c
	t = Totals{Geometry: r.geo, Generation: r.head.Generation.Load(), Starts: c.Starts.Load(), Since: c.Since.Load(),
		Uncertain: c.Uncertain.Load(), AsOwn: c.AsOwn.Load()}
	stable(&c.Word, func() {
		t.Head, t.Tail, t.Delivered = c.Head.load(), c.Tail.load(), c.Delivered.load()
		for i := range t.Refused {
			t.Refused[i] = c.Refused[i].Load()
		}
	})
	return t
}

func (s *Sink) numbers(head Place) (n Numbers) {
	c, e := s.cursor, s.cursor.e
	n.Spec, n.Reading, n.Slot, n.Start, n.Took = s.Spec(), c.Spec(), s.slot, e.Start.Load(), s.e.Accepted.Load()
	var begin, end Place
	stable(&e.Word, func() {
		n.Cursor, n.Lost, n.LeftOut = e.Done.load(), e.Lost.Load(), e.LeftOut.Load()
		begin, end = e.Done.load(), e.Sent.load()
		if c.sole == nil {
			begin, end = s.e.From.load(), s.e.To.load()
		} else if n.Spec.View {
			end = head
		}
	})
	if begin.Seq = max(begin.Seq, n.Cursor.Seq); n.Reading.Ack && end.Seq > begin.Seq {
		n.Unacknowledged = end.Seq - begin.Seq
	}
	n.Left, n.Unread = c.Left(), e.Unread.Load()
	f := e.Flags.Load()
	n.Lagging, n.Catching = f&flagLagging != 0, f&flagCatching != 0
	n.Absent, n.Stalled = s.cookie.Load() == 0, s.stalled.Load()
	n.Queue = s.queue.Load()
	n.Attaching = s.e.State.Load() == attaching
	n.Owed = time.Duration(e.Owed.Load())
	n.Accepted = n.Cursor.Seq - n.Start - n.Lost
	n.Lost -= min(n.Lost, n.LeftOut) // which is a part of it there
	// Head was read before: a cursor may have gone past it meanwhile.
	if head.Seq > n.Cursor.Seq {
		n.Waiting, n.LagBytes = head.Seq-n.Cursor.Seq, head.Pos-n.Cursor.Pos
	}
	return n
}
