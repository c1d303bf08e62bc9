// SPDX-License-Identifier: Apache-2.0

package ring

import "time"

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
	Abandoned             uint64
	Uncertain             uint64
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

// Numbers are those of one sink at one moment: Accepted + Lost + Waiting = what entered since Start. A member of a
// share shows the share's cursor, and in Took how many messages it accepted itself.
type Numbers struct {
	Spec      *Spec
	Slot      int // its place in the sink table; another sink may have it later
	Cursor    Place
	Start     uint64
	Accepted  uint64
	Lost      uint64
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
}

// Snapshot reads the totals, and appends the numbers of every sink with a cursor or a socket to buf. It may be called
// from any goroutine; it never makes the data thread wait, which changes an entry under its sequence word.
func (r *Ring) Snapshot(buf []Numbers) (Totals, []Numbers) {
	t := r.totals()
	byID := map[uint64]Numbers{}
	first := len(buf)
	for i := range r.table {
		s := r.table[i].Load()
		if s == nil || s.Spec().Kind == Source {
			continue
		}
		n := s.numbers(t.Head)
		n.Slot = i
		if r.table[i].Load() != s {
			continue // gone meanwhile, and the numbers are perhaps those of who has its entry now
		}
		if n.Spec.Kind == Share {
			byID[n.Spec.ID] = n
		}
		if n.Spec.ShareID == 0 {
			t.Accepted += n.Accepted
			t.Lost += n.Lost
		}
		buf = append(buf, n)
	}
	for i := range buf[first:] {
		n := &buf[first+i]
		if share, ok := byID[n.Spec.ShareID]; ok && n.Spec.ShareID != 0 {
			own := *n
			*n = share
			n.Spec, n.Took, n.Attaching, n.Absent, n.Stalled = own.Spec, own.Took, own.Attaching, own.Absent, own.Stalled
			n.Queue, n.Slot = own.Queue, own.Slot
		}
	}
	return t, buf
}

func (r *Ring) totals() (t Totals) {
	c := r.c
	t = Totals{Geometry: r.geo, Generation: r.head.Generation.Load(), Starts: c.Starts.Load(), Since: c.Since.Load(),
		Uncertain: c.Uncertain.Load(), Accepted: c.GoneAccepted.Load(), Lost: c.GoneLost.Load(),
		Abandoned: c.GoneAbandoned.Load()}
	stable(&c.Word, func() {
		t.Head, t.Tail, t.Delivered = c.Head.load(), c.Tail.load(), c.Delivered.load()
		for i := range t.Refused {
			t.Refused[i] = c.Refused[i].Load()
		}
	})
	return t
}

func (s *Sink) numbers(head Place) (n Numbers) {
	e := s.e
	n.Spec, n.Start, n.Took = s.Spec(), e.Start.Load(), e.Accepted.Load()
	stable(&e.Word, func() { n.Cursor, n.Lost = e.Cursor.load(), e.Lost.Load() })
	f := e.Flags.Load()
	n.Lagging, n.Catching = f&flagLagging != 0, f&flagCatching != 0
	n.Absent, n.Stalled = s.cookie.Load() == 0, s.stalled.Load()
	n.Queue = s.queue.Load()
	n.Attaching = e.State.Load() == attaching
	n.Owed = time.Duration(e.Owed.Load())
	// Head was read before: a cursor may have gone past it meanwhile.
	n.Accepted = n.Cursor.Seq - n.Start - n.Lost
	if head.Seq > n.Cursor.Seq {
		n.Waiting, n.LagBytes = head.Seq-n.Cursor.Seq, head.Pos-n.Cursor.Pos
	}
	if n.Spec.ShareID == 0 {
		n.Took = n.Accepted
	}
	return n
}
