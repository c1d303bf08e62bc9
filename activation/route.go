// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/msgmux/msgmux/internal/wire"
)

// The names of the memfds in the descriptor store. A second pair, while one generation replaces another, needs names of
// its own (see [MemoryName]), because removal takes everything that has a name.
const (
	DataName  = "mux-data"
	StateName = "mux-state"
)

// The names of the witnesses in the descriptor store (see [Witness]): one that was stored before everything else, and one that
// was stored after.
const (
	FirstWitness = "mux-first"
	LastWitness  = "mux-last"
)

// MemoryName is the store name of one memfd of a generation: base is [DataName] or [StateName]. Generation 0 has the
// bare name.
func MemoryName(base string, generation uint64) string {
	if generation == 0 {
		return base
	}
	return base + "-" + strconv.FormatUint(generation, 10)
}

// The first letters of store names, for [SinkName].
const (
	DatagramSink    = 'd' // a dynamic sink's sending socket
	ConnectedSource = 'c' // a client of the publish socket
	ConnectedSink   = 's' // a client of the subscribe socket
	ViewPage        = 'v' // the page that one of those in view shares with the broker
)

// SinkName is the store name of the sink or client id: a letter and the id in base 36.
//
// The digits are capitals. In small letters some ids would spell a name that means something else: sink 24176 would be
// "sink", and a successor would take a client for a socket to be closed.
func SinkName(kind byte, id uint64) string {
	return string(rune(kind)) + strings.ToUpper(strconv.FormatUint(id, 36))
}

// ParseSinkName is the inverse of [SinkName]; ok is false for every string that SinkName does not return.
func ParseSinkName(name string) (kind byte, id uint64, ok bool) {
	if len(name) < 2 {
		return 0, 0, false
	}
	switch kind = name[0]; kind {
	case DatagramSink, ConnectedSource, ConnectedSink, ViewPage:
	default:
		return 0, 0, false
	}
	id, err := strconv.ParseUint(name[1:], 36, 64)
	if err != nil || SinkName(kind, id) != name {
		return 0, 0, false
	}
	return kind, id, true
}

// Set is inherited descriptors, each in its place. Absent single ones have FD -1 and kind None.
type Set struct {
	Own
	Metrics Descriptor // StreamListener

	SourceQueues []Descriptor // MessageQueue, opened for reading only
	Sinks        []Descriptor // Datagram or MessageQueue: sockets of static sinks that an administrator handed over
	Data         []Descriptor // Memfd, named DataName or DataName-GENERATION
	State        []Descriptor // Memfd, named StateName or StateName-GENERATION
	Stored       []Stored     // what the descriptor store held of sinks and clients
	Witnesses    []Descriptor // Other: those of a predecessor, of no use to anybody else
}

// Stored is a descriptor from the descriptor store with its name taken apart.
type Stored struct {
	Descriptor
	Letter byte // DatagramSink (a Datagram), ConnectedSource or ConnectedSink (a SeqpacketConn), ViewPage (a Memfd)
	ID     uint64
}

// Problem is a descriptor that has no place, and why.
type Problem struct {
	Descriptor
	Reason string
}

// OfStore says whether the name is of the kind that brokers store descriptors by, this one or a later one, and no socket unit uses.
// Such a descriptor has done its work for whoever stored it, and may be closed. Behind any other there may be somebody who sends,
// connects or writes, with success: closed, it would swallow that as long as the service manager holds it too.
func (p Problem) OfStore() bool {
	return storedName.MatchString(p.Name)
}

// storedName is what [MemoryName] and [SinkName] make, and what a later broker's names for other things look like.
var storedName = regexp.MustCompile(`^(mux-.*|[a-z][0-9A-Z]+)$`)

// String is one log line.
func (p Problem) String() string {
	return fmt.Sprintf("inherited descriptor %d %q (%s): %s", p.FD, p.Name, p.Kind, p.Reason)
}

// Route puts each descriptor in its place, by name and never by order. Every descriptor of ds is either in the set or
// in a problem.
func Route(ds []Descriptor) (Set, []Problem) {
	set := Set{Own: noneOwn(), Metrics: absent}
	var problems []Problem
	for _, d := range ds {
		if reason := set.place(d); reason != "" {
			problems = append(problems, Problem{d, reason})
		}
	}
	return set, problems
}

// place stores d, or says why it cannot.
func (s *Set) place(d Descriptor) (reason string) {
	for _, p := range s.places() {
		if d.Name == p.name {
			return single(p.place, d, p.kind)
		}
	}
	switch d.Name {
	case wire.SocketSource:
		return several(&s.Sources, d, Datagram)
	case "metrics":
		return single(&s.Metrics, d, StreamListener)
	case "source-mq":
		return several(&s.SourceQueues, d, MessageQueue)
	case FirstWitness, LastWitness:
		return several(&s.Witnesses, d, Other)
	}
	switch {
	case d.Name == "sink", strings.HasPrefix(d.Name, "sink-"):
		return several(&s.Sinks, d, Datagram, MessageQueue)
	case d.Name == DataName, strings.HasPrefix(d.Name, DataName+"-"):
		return several(&s.Data, d, Memfd)
	case d.Name == StateName, strings.HasPrefix(d.Name, StateName+"-"):
		return several(&s.State, d, Memfd)
	}
	letter, id, ok := ParseSinkName(d.Name)
	if !ok {
		return "unknown name; FileDescriptorName= in the socket unit says what a socket is for"
	}
	want := SeqpacketConn
	switch letter {
	case DatagramSink:
		want = Datagram
	case ViewPage:
		want = Memfd
	}
	if d.Kind != want {
		return wrongKind(want)
	}
	s.Stored = append(s.Stored, Stored{d, letter, id})
	return ""
}

// single places a descriptor that there can be one of.
func single(place *Descriptor, d Descriptor, want Kind) string {
	if d.Kind != want {
		return wrongKind(want)
	}
	if place.Given() {
		return fmt.Sprintf("descriptor %d has the same name", place.FD)
	}
	*place = d
	return ""
}

// several places a descriptor that there can be many of.
func several(place *[]Descriptor, d Descriptor, want ...Kind) string {
	if !slices.Contains(want, d.Kind) {
		return wrongKind(want...)
	}
	*place = append(*place, d)
	return ""
}

func wrongKind(want ...Kind) string {
	words := make([]string, len(want))
	for i, k := range want {
		words[i] = "a " + k.String()
	}
	return "wrong kind: it must be " + strings.Join(words, " or ")
}
