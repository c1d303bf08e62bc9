// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"fmt"
	"slices"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/internal/wire"
)

// Books are what everybody says of a channel that is at rest: the sources of what they sent, the sinks of what they
// got, the broker of what it counted, the service manager of what it holds.
type Books struct {
	Traffic  *Traffic
	Sources  []*Source
	Standing []*Sink
	Departed []*Sink
	Abrupt   bool // some of Departed left with messages unread

	Status   *wire.Status
	Sinks    []wire.Sink
	Stored   []string // descriptors of sinks and clients
	Memory   []string // and of memory
	Faults   []string // what the service manager, and brokers, complained about
	Open     []string // descriptors that the broker had open at the least; none: not known
	OpenAnew []string // and the one after it, with the same sinks, at the most
	Restless error    // why Sinks and Stored are not what they should have come to
}

// audit is the comparison of Books.
type audit struct {
	*Books
	order  []Key            // the one order, as the measure got it: order[n] is message n of the ring
	where  map[int][]uint32 // by source and index, the place in order plus one; 0: nowhere
	empty  []uint32         // how many of order[:n] have no bytes
	faults []string
}

// maxViolations is how many violations are told: the first ones say what is wrong.
const maxViolations = 12

func (a *audit) fault(format string, args ...any) {
	if len(a.faults) < maxViolations {
		a.faults = append(a.faults, fmt.Sprintf(format, args...))
	}
}

// Violations says what does not balance; nothing, if everything does.
func (b *Books) Violations() []string {
	a := &audit{Books: b}
	a.whatSinksSaw()
	a.theOrder()
	a.theChannel()
	shares := map[string][]*Sink{}
	for _, s := range b.Standing {
		if s.Options.Share != "" {
			shares[s.Options.Share] = append(shares[s.Options.Share], s)
		}
		a.listed(s)
	}
	for _, s := range b.Departed {
		if s.Options.Share != "" {
			shares[s.Options.Share] = append(shares[s.Options.Share], s)
		}
		a.visitor(s)
	}
	for name, members := range shares {
		a.share(name, members)
	}
	a.theSums()
	a.theStore()
	return a.faults
}

// whatSinksSaw are the faults that sinks found themselves: bytes that were not sent, packets that contradict each other.
func (a *audit) whatSinksSaw() {
	for _, s := range slices.Concat(a.Standing, a.Departed) {
		for _, f := range s.Faults {
			a.fault("sink %s (%d): %s", s.Name, s.ID, f)
		}
	}
}

// progress is how far the one order has come with one source.
type progress struct {
	sent  uint64
	next  uint64 // the next message of it that has bytes and is not too large; sent: none
	empty int    // how many without bytes are before that, and after the one before
}

// advance moves on to the next message from index on.
func (p *progress) advance(t *Traffic, source int, index uint64) {
	p.empty = 0
	for p.next = index; p.next < p.sent; p.next++ {
		switch n := t.Size(source, p.next); {
		case n == 0:
			p.empty++
		case n <= t.Largest:
			return
		}
	}
}

// theOrder checks that the measure got every message of each source once, and in the order of the source. A message
// without bytes does not say whose it is; so many as there are between two that do must lie between them.
func (a *audit) theOrder() {
	a.order = a.Standing[0].Keys
	a.where = make(map[int][]uint32)
	a.empty = make([]uint32, len(a.order)+1)
	sources := make(map[int]*progress)
	least, most := 0, 0 // so many without bytes must have come, and may have
	for _, s := range a.Sources {
		p := &progress{sent: s.Sent.Load()}
		p.advance(a.Traffic, s.Number, 0)
		most += p.empty
		sources[s.Number] = p
		a.where[s.Number] = make([]uint32, p.sent)
	}
	// A fault is told once: afterwards the count goes on from what was found, so that the next fault is another one.
	empty := 0
	for n, key := range a.order {
		a.empty[n+1] = a.empty[n]
		if key == Nobody {
			empty++
			a.empty[n+1]++
			if empty > most {
				a.fault("message %d: the %d. without bytes, and only %d can have been sent", n, empty, most)
				most = empty
			}
			continue
		}
		p := sources[key.Source()]
		if p == nil || key.Index() >= p.sent {
			a.fault("message %d is %s, which nobody sent", n, key)
			continue
		}
		if key.Index() != p.next {
			a.fault("message %d is %s, and not %s", n, key, keyOf(key.Source(), p.next))
		}
		a.where[key.Source()][key.Index()] = uint32(n + 1)
		least += p.empty
		if empty < least {
			a.fault("message %d, %s, comes after %d without bytes, and at least %d were sent before", n, key, empty, least)
			empty = least
		}
		p.advance(a.Traffic, key.Source(), key.Index()+1)
		most += p.empty
	}
	for number, p := range sources {
		if p.next != p.sent {
			a.fault("message %s, and what source %d sent after it, are missing", keyOf(number, p.next), number)
		}
		least += p.empty
	}
	if empty != least {
		a.fault("%d messages without bytes came, and %d were sent", empty, least)
	}
}

// theChannel checks that received = entered + refused, and both against what was sent.
func (a *audit) theChannel() {
	var sent, tooLarge uint64
	for _, s := range a.Sources {
		sent += s.Sent.Load()
		tooLarge += s.TooLarge.Load()
	}
	st := a.Status
	var refused uint64
	for _, n := range st.Refused {
		refused += n
	}
	if st.Received != sent || refused != tooLarge || st.Entered != sent-tooLarge || st.Received != st.Entered+refused {
		a.fault("%d messages were sent, %d of them too large; the channel received %d, %d entered, %d were refused", sent, tooLarge, st.Received, st.Entered, refused)
	}
	if st.Entered != uint64(len(a.order)) {
		a.fault("%d messages entered, and the measure got %d", st.Entered, len(a.order))
	}
	if st.Landed != 0 {
		a.fault("%d messages wait to enter", st.Landed)
	}
}

// listed checks a sink that was there all the time: what the broker counted for it, and what it got.
func (a *audit) listed(s *Sink) {
	// Few are forgotten: only where the ring is full of messages of many senders.
	if (s.Options.Meta || s.Options.Credentials && maySayWho()) && s.Untold > s.Told/4 {
		a.fault("sink %s was told whose %d messages are, and of %d not", s.Name, s.Told, s.Untold)
	}
	at := find(a.Sinks, s.Name)
	if at == nil {
		a.fault("sink %s (%d) is not listed", s.Name, s.ID)
		return
	}
	if s.ID != 0 && at.ID != s.ID {
		a.fault("sink %s is %d, and was %d", s.Name, at.ID, s.ID)
	}
	if s.Options.PatienceSet && at.Patience != wire.FormatPatience(s.Options.Patience) {
		a.fault("sink %s has a patience of %s and asked for %s", s.Name, at.Patience, s.Options.Patience)
	}
	got := uint64(len(s.Keys))
	if at.Accepted != got {
		a.fault("sink %s: %d messages were accepted, and it got %d", s.Name, at.Accepted, got)
	}
	if at.Start != 0 {
		a.fault("sink %s began at %d", s.Name, at.Start)
	}
	a.sequence(s, 0, at.Next)
	if s.Options.Share != "" {
		return // the other columns are the share's
	}
	if at.Accepted+at.Lost+at.Waiting != a.Status.Entered-at.Start {
		a.fault("sink %s: accepted %d + lost %d + waiting %d is not %d - %d", s.Name, at.Accepted, at.Lost, at.Waiting, a.Status.Entered, at.Start)
	}
	if s.frames() && s.Lost > at.Lost {
		a.fault("sink %s was told that it lost %d, and the channel counts %d", s.Name, s.Lost, at.Lost)
	}
	if at.Next-at.Start-got != at.Lost {
		a.fault("sink %s: %d messages are missing from what it got, and %d were lost", s.Name, at.Next-at.Start-got, at.Lost)
	}
	if s.Options.Patience == wire.Forever && at.Lost != 0 {
		a.fault("sink %s, which must have everything, lost %d", s.Name, at.Lost)
	}
}

// visitor checks a sink that came and went. Nobody knows where it began, but what it got it got once and in order.
func (a *audit) visitor(s *Sink) {
	if s.Options.Patience != wire.Forever || s.Options.Start == wire.StartOldest || s.Options.Share != "" {
		a.sequence(s, 0, uint64(len(a.order)))
		return
	}
	// It must have everything: from the first message that says which one it is, the beginning follows.
	for i, key := range s.Keys {
		if key == Nobody {
			continue
		}
		place, ok := a.place(s, i)
		if ok && place >= uint64(i) {
			a.equal(s, 0, len(s.Keys), place-uint64(i))
		} else if ok {
			a.fault("sink %s got %d messages before %s, and there are only %d", s.Name, i, key, place)
		}
		return
	}
}

// place is where message i of a sink stands in the order.
func (a *audit) place(s *Sink, i int) (uint64, bool) {
	key := s.Keys[i]
	if all := a.where[key.Source()]; key.Index() < uint64(len(all)) && all[key.Index()] > 0 {
		return uint64(all[key.Index()] - 1), true
	}
	a.fault("sink %s, message %d: %s is not in the order", s.Name, i, key)
	return 0, false
}

// equal checks that what s got from its message first to last is the order from place from on.
func (a *audit) equal(s *Sink, first, last int, from uint64) {
	for i := first; i < last; i++ {
		n := from + uint64(i-first)
		if n >= uint64(len(a.order)) {
			a.fault("sink %s, message %d is beyond the end of the order", s.Name, i)
			return
		}
		if a.order[n] != s.Keys[i] {
			a.fault("sink %s, message %d is %s, and in the order %s stands at %d", s.Name, i, s.Keys[i], a.order[n], n)
			return
		}
	}
}

// sequence checks that what s got is a part of the order from start to end, each message once. A sink that must have
// everything, and has, is compared one to one.
func (a *audit) sequence(s *Sink, start, end uint64) {
	if end > uint64(len(a.order)) {
		a.fault("sink %s is at message %d of %d", s.Name, end, len(a.order))
		return
	}
	// As many as there are: then it has all of them, or the same one twice.
	if uint64(len(s.Keys)) == end-start {
		a.equal(s, 0, len(s.Keys), start)
		return
	}
	// It was told where each stretch of messages stands: that is exact for those without bytes, too.
	for i, r := range s.Runs {
		last := len(s.Keys)
		if i+1 < len(s.Runs) {
			last = s.Runs[i+1].first
		}
		a.equal(s, r.first, last, r.pos)
	}
	if len(s.Runs) > 0 {
		return
	}
	at, empty := start, uint32(0) // at is behind the last message that said which one it is; empty came since
	for i, key := range s.Keys {
		if key == Nobody {
			empty++
			continue
		}
		place, ok := a.place(s, i)
		if !ok {
			return
		}
		if place < at {
			a.fault("sink %s, message %d: %s stands at %d, and the one before behind %d", s.Name, i, key, place, at)
			return
		}
		if empty > a.empty[place]-a.empty[at] {
			a.fault("sink %s, message %d: %d without bytes before %s, and there are %d", s.Name, i, empty, key, a.empty[place]-a.empty[at])
			return
		}
		at, empty = place+1, 0
	}
	if empty > a.empty[end]-a.empty[at] {
		a.fault("sink %s: %d without bytes at the end, and there are %d", s.Name, empty, a.empty[end]-a.empty[at])
	}
}

// share checks that the members together got everything, and each message one of them.
func (a *audit) share(name string, members []*Sink) {
	// Who got message n. Those without bytes can only be counted.
	got := make([]string, len(a.order))
	empty := uint32(0)
	for _, s := range members {
		for i, key := range s.Keys {
			if key == Nobody {
				empty++
				continue
			}
			if place, ok := a.place(s, i); !ok {
				return
			} else if got[place] != "" {
				a.fault("share %s: message %d, %s, went to %s and to %s", name, place, key, got[place], s.Name)
				return
			} else {
				got[place] = s.Name
			}
		}
	}
	for n, who := range got {
		if who == "" && a.order[n] != Nobody {
			a.fault("share %s: message %d, %s, went to nobody", name, n, a.order[n])
			return
		}
	}
	if empty != a.empty[len(a.order)] {
		a.fault("share %s: %d messages without bytes, and there are %d", name, empty, a.empty[len(a.order)])
	}
}

// theSums checks the channel's sums over all sinks, past ones included.
func (a *audit) theSums() {
	// What sinks took that are gone by now is in the sum of the ring, and nowhere else any more.
	var accepted uint64
	for _, s := range slices.Concat(a.Standing, a.Departed) {
		accepted += uint64(len(s.Keys))
	}
	if st := a.Status; st.Accepted < accepted || !a.Abrupt && st.Accepted != accepted {
		a.fault("all sinks together got %d messages, and %d were accepted", accepted, st.Accepted)
	}
}

// Kept are the sinks and clients whose descriptors belong into the store.
func (b *Books) Kept() (names []string) {
	for i := range b.Sinks {
		switch s := &b.Sinks[i]; s.Kind {
		case "dynamic":
			names = append(names, activation.SinkName(activation.DatagramSink, s.ID))
		case "framed":
			names = append(names, activation.SinkName(activation.ConnectedSink, s.ID))
		}
	}
	return names
}

// theStore checks that there is one copy of everybody: no sink is listed twice, no descriptor is left over.
func (a *audit) theStore() {
	if a.Restless != nil {
		a.fault("the channel did not come to rest: %v", a.Restless)
	}
	var labels []string
	for i := range a.Sinks {
		labels = append(labels, a.Sinks[i].Label)
	}
	slices.Sort(labels)
	if len(labels) != len(a.Standing) {
		a.fault("%d sinks are listed instead of %d: %v", len(labels), len(a.Standing), labels)
	}
	kept, stored := a.Kept(), slices.Clone(a.Stored)
	slices.Sort(kept)
	slices.Sort(stored)
	if !slices.Equal(kept, stored) {
		a.fault("the store holds %v, and the table has %v", stored, kept)
	}
	if len(a.Memory) != 2 {
		a.fault("the store holds %v as memory", a.Memory)
	}
	if len(a.Open) > len(a.OpenAnew) {
		a.fault("a broker had %d descriptors open, and the next one has %d: %v, and %v", len(a.Open), len(a.OpenAnew), a.Open, a.OpenAnew)
	}
	for _, f := range a.Faults {
		a.fault("%s", f)
	}
}
