// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package ring

import (
	"reflect"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring/layout2"
	"github.com/msgmux/msgmux/broker/ring/layout2/writer"
	"github.com/msgmux/msgmux/internal/wire"
)

// Scenes in which a ring comes from elsewhere than from Create or a move.

// newOutdated is a ring of the layout before, as package layout2 reads it, with something in every number. Nobody wants its first
// record any more if begun.
func newOutdated(w *world, begun bool) *layout2.Ring {
	r, err := writer.Create(writer.Geometry{Size: writer.MinSize, MaxMessage: 300, MaxSinks: 6, MaxClients: 2}, 5, writer.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(r.Retire)
	in, out := socketpair(w.t, unix.SOCK_DGRAM), socketpair(w.t, unix.SOCK_DGRAM)
	add := func(s writer.Spec, oldest, attach bool) *writer.Sink {
		s.ID, s.Since = r.NewID(), 77
		sink, err := r.Add(s, oldest, attach)
		if err != nil {
			w.t.Fatal(err)
		}
		r.Connect(sink, true)
		return sink
	}
	enter := func(sizes ...int) {
		for _, n := range sizes {
			m := text(n, n)
			if err := unix.Send(in[0], m, 0); err != nil {
				w.t.Fatal(err)
			}
			if n <= 300 {
				w.books.hand(Sender{}, false, m)
			}
		}
		r.Receive(in[1], writer.Datagrams, writer.MaxBatch)
	}
	a := add(writer.Spec{Kind: writer.Dynamic, Label: "a", Address: "@a", UID: 7, Inode: 70, Patience: time.Second, Ordinary: true}, false, false)
	enter(10, 20, 30)
	r.Append()
	r.Advance(5 * time.Millisecond)
	r.Send(a, out[0])
	r.Advance(5 * time.Millisecond)
	enter(35)
	r.Append()
	r.Send(a, out[0])
	enter(40)
	r.Append()
	slow := add(writer.Spec{Kind: writer.Static, Label: "slow", Address: "/slow", Frames: true}, true, false)
	tap := add(writer.Spec{Kind: writer.Framed, Label: "tap", Tap: true}, true, false)
	r.Skip(tap)
	m := add(writer.Spec{Kind: writer.Dynamic, Label: "m1", Group: "g", UID: 8, Patience: time.Minute}, true, false)
	add(writer.Spec{Kind: writer.Dynamic, Label: "m2", Group: "g", UID: 8, Patience: time.Minute}, false, false)
	r.Send(m, out[0])
	r.Advance(5 * time.Millisecond)
	enter(50)
	r.Append()
	r.Send(m, out[0])
	r.Remove(add(writer.Spec{Kind: writer.Dynamic, Label: "goes"}, true, false))
	add(writer.Spec{Kind: writer.Framed, Label: "attaching", Frames: true}, false, true)
	add(writer.Spec{Kind: writer.Source, Label: "source", UID: 9}, false, true)
	if begun {
		r.Remove(slow)
	}
	enter(60, 301, 70) // waits
	data, state := r.Descriptors()
	old, err := layout2.Open(data, state)
	if err != nil {
		w.t.Fatal(err)
	}
	// What takes longer to come about.
	t := &old.Totals
	t.Starts, t.Attempts, t.Uncertain, t.GoneAccepted, t.GoneLost, t.NextID = 9, 2, 3, 11, 13, 99
	t.Refused = [2]uint64{4, 5}
	t.Since = 12345
	old.Sinks[0].Cursor.Owed, old.Sinks[0].Cursor.Lagging = time.Second, true
	for i := range reflect.ValueOf(t).Elem().NumField() {
		if f := reflect.ValueOf(t).Elem(); f.Field(i).IsZero() && f.Type().Field(i).Name != "Tail" {
			w.wrong("there is nothing in " + f.Type().Field(i).Name + " to be taken over")
		}
	}
	return old
}

// newOutdatedFull is one that is full, with a packet a part of which has entered.
func newOutdatedFull(w *world) *layout2.Ring {
	r, err := writer.Create(writer.Geometry{Size: writer.MinSize, MaxMessage: 60_000, MaxSinks: 6}, 5, writer.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(r.Retire)
	in, packets, out := socketpair(w.t, unix.SOCK_DGRAM), socketpair(w.t, unix.SOCK_SEQPACKET), socketpair(w.t, unix.SOCK_DGRAM)
	_ = unix.SetsockoptInt(out[0], unix.SOL_SOCKET, unix.SO_SNDBUF, 60_000) // takes two or so
	slow, err := r.Add(writer.Spec{Kind: writer.Static, ID: r.NewID(), Label: "slow", Address: "/slow"}, true, false)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Connect(slow, true)
	fill := func() {
		for i := 0; !r.Full(); i++ {
			m := text(i, 50_000)
			if err := unix.Send(in[0], m, 0); err != nil {
				w.t.Fatal(err)
			}
			w.books.hand(Sender{}, false, m)
			r.Receive(in[1], writer.Datagrams, writer.MaxBatch)
			r.Append()
		}
	}
	fill()
	r.Send(slow, out[0])
	r.Append()
	fill() // until there is room for less than one
	for {
		_, _, _ = unix.Recvfrom(out[1], w.buf, unix.MSG_DONTWAIT)
		if n, _ := r.Send(slow, out[0]); n > 0 {
			break
		}
	}
	r.Append()
	var packet []byte
	for i := range 3 {
		packet = wire.AppendRecord(packet, text(i, 20_000))
		w.books.hand(Sender{}, false, text(i, 20_000))
	}
	if err := unix.Send(packets[0], packet, 0); err != nil {
		w.t.Fatal(err)
	}
	r.Receive(packets[1], writer.Packets, 1)
	r.Append()
	data, state := r.Descriptors()
	old, err := layout2.Open(data, state)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, _, offset := old.Landed(); offset == 0 || !r.Landed() {
		w.wrong("nothing of a packet, or all of it, has entered")
	}
	return old
}

// outdated writes down what has to come of a ring of the layout before.
func (w *world) outdated(o *layout2.Ring) {
	b, t := w.books, &o.Totals
	b.channel.generation, b.channel.starts, b.channel.nextID = o.Generation, t.Starts+1, t.NextID
	b.channel.clock = [2]time.Duration{t.Clock, t.Clock}
	b.attempts, b.uncertain, b.delivered = t.Attempts, t.Uncertain, t.Delivered.Seq
	b.goneAccepted, b.goneLost, b.goneAbandoned = t.GoneAccepted, t.GoneLost, t.GoneAbandoned
	b.refused = t.Refused
	_, waiting, _ := o.Landed()
	for _, m := range waiting {
		if m == nil { // it is too large
			b.refused[TooLarge]++
		}
	}
	b.from = 0
	for seq := range t.Delivered.Seq {
		b.at = append(b.at, o.FirstAccepted(seq))
	}
	cursor := func(id uint64, share string, uid uint32, at *layout2.Cursor, how CursorSpec) *cursorBook {
		c := &cursorBook{id: id, share: share, uid: uid, start: at.Start, lost: at.Lost, owed: at.Owed, lagging: at.Lagging, catching: at.Catching}
		for k := at.Accepted(); k > 0; k-- {
			c.accepted = append(c.accepted, at.Place.Seq-k)
		}
		c.specs = []described{{CursorSpec: how}}
		b.cursors = append(b.cursors, c)
		return c
	}
	shares := make(map[uint64]*cursorBook)
	for i := range o.Shares {
		s := &o.Shares[i]
		shares[s.ID] = cursor(s.ID, s.Name, s.UID, &s.Cursor, CursorSpec{ID: s.ID, Share: s.Name, UID: s.UID, Tap: s.Tap, Ordinary: s.Ordinary,
			Patience: s.Patience, Since: s.Since})
	}
	for i := range o.Sinks {
		s := &o.Sinks[i]
		spec := Spec{ID: s.ID, Cursor: s.ShareID, Kind: Kind(s.Kind), Label: s.Label, Address: s.Address, UID: s.UID, Inode: s.Inode, Frames: s.Frames, Since: s.Since}
		c, took := shares[s.ShareID], s.Accepted
		if c == nil {
			c = cursor(s.ID, "", s.UID, &s.Cursor, CursorSpec{ID: s.ID, UID: s.UID, Tap: s.Tap, Ordinary: s.Ordinary, Patience: s.Patience, Since: s.Since})
			spec.Cursor, took = s.ID, s.Cursor.Accepted()
			c.specs[0].Spec = spec
		}
		c.members = append(c.members, &memberBook{id: s.ID, spec: spec, accepted: took})
		if s.Attaching {
			b.clients = append(b.clients, &clientBook{id: s.ID})
		}
	}
	for i := range o.Clients {
		c := &o.Clients[i]
		b.clients = append(b.clients, &clientBook{id: c.ID, greeted: !c.Attaching, source: &ClientSpec{ID: c.ID, Label: c.Label, UID: c.UID, Since: c.Since}})
	}
}

// playSetAside makes an empty ring with the sinks and connected sources of one that cannot be used.
func playSetAside(w *world) {
	w.add(wish{Kind: Dynamic, Label: "a", Address: "@a", UID: 7, Inode: 9, Ordinary: true, Patience: time.Second}, false)
	w.add(wish{Kind: Framed, Frames: true, Label: "b"}, false)
	w.add(wish{Kind: Dynamic, Label: "m", Group: "g"}, false)
	p, pc := w.publisher("source")
	w.greet(nil, p, pc)
	w.datagram(text(1, 10))
	w.take(Datagrams, w.in[1])
	_, state := w.r.Descriptors()
	sinks, clients := Salvage(state), SalvageClients(state)
	if len(sinks) != 3 || len(clients) != 1 {
		w.wrong("somebody was not found in the ring that is set aside")
	}
	from, generation := time.Now(), w.r.Generation()
	n, err := Create(tiny(), generation+1, Options{Ops: w.r.opt.Ops, Unpublished: true})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(n.Retire)
	was, b := w.books, &books{}
	w.books = b
	var v verdict
	b.channel.begin(&v, n, from)
	b.channel.generation, b.channel.nextID = generation, was.channel.nextID+1
	for _, c := range was.cursors {
		c.accepted, c.start, c.lost, c.kept = nil, 0, 0, nil
		for _, m := range c.members {
			m.accepted, m.kept = 0, nil
		}
		if c.share != "" { // its cursor is another one
			c.id = was.channel.nextID
			c.members[0].spec.Cursor = c.id
			c.specs[0].CursorSpec.ID = c.id
		}
	}
	for _, c := range was.clients {
		c.kept = nil
	}
	b.cursors, b.clients = was.cursors, was.clients
	garbleTables(n)
	w.become(n, "ring that is set aside", func() {
		for _, s := range sinks {
			n.Reserve(s.Spec.ID)
		}
		for _, c := range clients {
			n.Reserve(c.ID)
			if _, err := n.AddAttached(c); err != nil {
				panic(err)
			}
		}
		for _, s := range sinks {
			if _, err := n.Add(s.Spec, s.Reading, false); err != nil {
				panic(err)
			}
		}
	})
	w.keepAll()
	w.datagram(text(2, 20))
	w.take(Datagrams, w.in[1])
}

// garbleTables makes garbage of all entries of a ring that nobody looks at yet.
func garbleTables(r *Ring) {
	for i := range r.cursorTable {
		garbleEntry(&r.cursorTable[i], unsafe.Offsetof(cursorEntry{}.Flags))
	}
	for i := range r.sinkTable {
		garbleEntry(&r.sinkTable[i], unsafe.Offsetof(sinkEntry{}.Said))
	}
	for i := range r.clientTable {
		garbleEntry(&r.clientTable[i], unsafe.Offsetof(clientEntry{}.Mark))
	}
}

func garbleEntry[T any](e *T, from uintptr) {
	b := unsafe.Slice((*byte)(unsafe.Pointer(e)), unsafe.Sizeof(*e))
	for i := range b[from:] {
		b[int(from)+i] = garbage
	}
}

// playFallen has bits fall in the tables: the entries are given up, one by one, and nothing else.
func playFallen(w *world) {
	var sinks []*Sink
	for _, label := range []string{"a", "b", "c"} {
		sinks = append(sinks, w.add(wish{Kind: Dynamic, Label: label, UID: 7}, false))
	}
	w.add(wish{Kind: Framed, Frames: true, Meta: true, Label: "meta"}, false)
	p, pc := w.publisher("source")
	w.greet(nil, p, pc)
	w.datagram(text(1, 10))
	w.take(Datagrams, w.in[1])
	w.send(sinks[2], 1)
	fallen := []struct {
		where unsafe.Pointer
		entry int // how many entries are given up for it
	}{
		{unsafe.Pointer(&sinks[0].cursor.e.Sum), 1}, // its sink goes with it
		{unsafe.Pointer(&sinks[1].e.Sum), 1},        // and the cursor no sink
		{unsafe.Pointer(&p.e.Sum), 1},
		{unsafe.Pointer(&sinks[2].cursor.e.Owed), 0}, // nobody is owed anything
		{unsafe.Pointer(&w.r.run(0).First), 1},       // and nobody knows whose the messages are
	}
	var was []uint64
	for _, f := range fallen {
		was = append(was, *(*uint64)(f.where))
		w.plant(f.where, ^uint64(4))
		w.books.fallen += f.entry
	}
	w.books.noRuns = true
	books := []*cursorBook{w.cursorOf(sinks[0]), w.cursorOf(sinks[1])}
	for _, c := range books {
		c.there, c.members[0].there = gone, gone
	}
	pc.there, w.books.known = gone, uint64(len(w.books.origins))
	w.where = "fallen bits"
	w.point(0, "bits have fallen")
	w.books.fallen, pc.there, w.books.known, w.books.noRuns = 0, present, 0, false
	for _, c := range books {
		c.there, c.members[0].there = present, present
	}
	for i, f := range fallen {
		w.plant(f.where, was[i])
	}
}
