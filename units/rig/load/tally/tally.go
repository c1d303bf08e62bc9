// SPDX-License-Identifier: Apache-2.0

package tally

import (
	"fmt"
	"slices"
	"time"
)

// prime is the multiplier of the 64-bit FNV hash.
const prime = 1099511628211

// Tally counts what arrives at one sink. The zero value is ready. It is for one goroutine.
type Tally struct {
	received, bytes, corrupt uint64
	order                    uint64
	streams                  map[uint32]*stream
}

// stream is what has arrived of one source.
type stream struct {
	first, next                  uint64 // next is one above the highest number seen
	count, duplicates, reordered uint64
	gaps                         []span // numbers between first and next that have not arrived, in rising order
}

// span is the numbers from from to to, without to.
type span struct{ from, to uint64 }

// Add counts one message as it was received, and returns what it says it is.
func (t *Tally) Add(b []byte) (source uint32, number uint64, ok bool) {
	t.bytes += uint64(len(b))
	if source, number, ok = Get(b); !ok {
		t.received++
		t.corrupt++
		return 0, 0, false
	}
	t.Note(source, number)
	return source, number, true
}

// Note counts a message that is known to be whole, without its bytes.
func (t *Tally) Note(source uint32, number uint64) {
	t.received++
	t.order = (t.order ^ uint64(source)) * prime
	t.order = (t.order ^ number) * prime

	if t.streams == nil {
		t.streams = map[uint32]*stream{}
	}
	s := t.streams[source]
	if s == nil {
		s = &stream{first: number, next: number}
		t.streams[source] = s
	}
	s.note(number)
}

// note counts one message of a source.
func (s *stream) note(number uint64) {
	switch {
	case number >= s.next:
		if number > s.next {
			s.gaps = append(s.gaps, span{s.next, number})
		}
		s.next = number + 1
		s.count++
	case number < s.first:
		s.reordered++
		s.count++
		if number+1 < s.first {
			s.gaps = slices.Insert(s.gaps, 0, span{number + 1, s.first})
		}
		s.first = number
	default:
		at := slices.IndexFunc(s.gaps, func(g span) bool { return g.from <= number && number < g.to })
		if at < 0 {
			s.duplicates++
			return
		}
		// Late, but not lost.
		s.reordered++
		s.count++
		gap := s.gaps[at]
		s.gaps = slices.Delete(s.gaps, at, at+1)
		if number+1 < gap.to {
			s.gaps = slices.Insert(s.gaps, at, span{number + 1, gap.to})
		}
		if gap.from < number {
			s.gaps = slices.Insert(s.gaps, at, span{gap.from, number})
		}
	}
}

// Sink is the report of one sink.
type Sink struct {
	Name       string            `json:"name"`
	Received   uint64            `json:"received"`   // messages, duplicates and corrupt ones included
	Bytes      uint64            `json:"bytes"`      // of those; 0 for what was read back from a log
	Corrupt    uint64            `json:"corrupt"`    // not whole, or not of this kind
	Duplicates uint64            `json:"duplicates"` // the sums over all sources
	Missing    uint64            `json:"missing"`
	Reordered  uint64            `json:"reordered"`
	Told       uint64            `json:"told"`  // messages that a framed sink was told it had lost
	Order      string            `json:"order"` // a checksum: two sinks that got the same messages have the same if the order was the same
	Sources    map[uint32]Source `json:"sources"`
}

// Source is what a sink got of one source.
type Source struct {
	First      uint64      `json:"first"` // the lowest number that arrived
	Last       uint64      `json:"last"`  // the highest
	Count      uint64      `json:"count"` // how many arrived at least once
	Duplicates uint64      `json:"duplicates"`
	Missing    uint64      `json:"missing"`   // how many between First and Last did not arrive
	Reordered  uint64      `json:"reordered"` // how many arrived after a later one
	Gaps       [][2]uint64 `json:"gaps,omitempty"`
}

// maxGaps is how many gaps a report shows.
const maxGaps = 20

// Report is the state of the tally.
func (t *Tally) Report(name string) Sink {
	r := Sink{Name: name, Received: t.received, Bytes: t.bytes, Corrupt: t.corrupt,
		Order: fmt.Sprintf("%016x", t.order), Sources: map[uint32]Source{}}
	for id, s := range t.streams {
		source := Source{First: s.first, Last: s.next - 1, Count: s.count, Duplicates: s.duplicates, Reordered: s.reordered}
		for i, gap := range s.gaps {
			source.Missing += gap.to - gap.from
			if i < maxGaps {
				source.Gaps = append(source.Gaps, [2]uint64{gap.from, gap.to - 1})
			}
		}
		r.Duplicates += source.Duplicates
		r.Missing += source.Missing
		r.Reordered += source.Reordered
		r.Sources[id] = source
	}
	return r
}

// Sender is the report of one sender.
type Sender struct {
	Source      uint32            `json:"source"`
	Sent        uint64            `json:"sent"` // messages 1 to Sent were taken by the socket
	Bytes       uint64            `json:"bytes"`
	Again       uint64            `json:"again"`            // how often a sender that does not wait was told to come again
	Errors      map[string]uint64 `json:"errors,omitempty"` // every other error, by its name; the message was then sent again
	LongestWait float64           `json:"longest_wait"`     // of all messages, the longest time from the first try, in seconds
	Waits       []Wait            `json:"waits,omitempty"`  // the first MaxWaits that were at least LongWait
	Blocked     bool              `json:"blocked"`          // the report was made while message Sent+1 was waiting
}

// Wait is the time that one message waited before it was taken: from At, in seconds of CLOCK_MONOTONIC, for so many seconds.
type Wait struct{ At, For float64 }

// LongWait is what counts as a wait, and MaxWaits how many of them a report has.
const (
	LongWait = 5 * time.Millisecond
	MaxWaits = 10000
)

// Problems says what is not as it must be if this sink was there before the first message and until after the last: every
// message of every sender exactly once, whole, in order, and none of anybody else.
func (r Sink) Problems(senders ...Sender) []string {
	var problems []string
	say := func(format string, arguments ...any) {
		problems = append(problems, r.Name+": "+fmt.Sprintf(format, arguments...))
	}
	if r.Corrupt > 0 {
		say("%d messages are not whole", r.Corrupt)
	}
	expected := map[uint32]bool{}
	for _, sender := range senders {
		expected[sender.Source] = true
		got := r.Sources[sender.Source]
		if got.Count != sender.Sent || got.Duplicates+got.Missing+got.Reordered > 0 || (sender.Sent > 0 && (got.First != 1 || got.Last != sender.Sent)) {
			say("of messages 1 to %d of source %d came %d, %d to %d, %d twice, %d never, %d too late; never: %v",
				sender.Sent, sender.Source, got.Count, got.First, got.Last, got.Duplicates, got.Missing, got.Reordered, got.Gaps)
		}
		if len(sender.Errors) > 0 {
			say("source %d saw errors: %v", sender.Source, sender.Errors)
		}
	}
	for id, got := range r.Sources {
		if !expected[id] {
			say("%d messages of source %d, which is none", got.Count, id)
		}
	}
	return problems
}
