// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package ring

import (
	"bytes"
	"reflect"
	"testing"
	"time"
	"unsafe"
)

// The ledger says what every field of the control page and of the tables has to be, in the ring at work and in whatever takes
// over. A field that nothing is said of here has to be 0 in a new entry, and to stay what it is whatever happens, over moves
// too. So a field that comes to be used is noticed, and gets a line here.

// spoken are the fields of which more is known, with where that is judged.
var spoken = map[string]string{
	"control.Word":          "a reader's, and readers are in the same process",
	"control.Head":          "judgeContents",
	"control.Tail":          "judgeDelivered, judgeContents",
	"control.Delivered":     "judgeDelivered",
	"control.Clock":         "judgeChannel",
	"control.NextID":        "judgeChannel",
	"control.Starts":        "judgeChannel",
	"control.Slots":         "judgeContents: what is landed enters",
	"control.Offset":        "judgeContents",
	"control.Land":          "judgeContents",
	"control.From":          "judgeContents",
	"control.Runs":          "judgeOrigins",
	"control.Received":      "judgeOrigins",
	"control.Sender":        "judgeOrigins",
	"control.Refused":       "judgeContents",
	"control.GoneAccepted":  "judgeCursors",
	"control.GoneLost":      "judgeCursors",
	"control.GoneAbandoned": "judgeCursors",
	"control.GoneLeftOut":   "judgeCursors",
	"control.GoneUnread":    "judgeCursors",
	"control.Uncertain":     "judge",
	"control.AsOwn":         "judgeChannel",
	"control.Attempts":      "judgeChannel",
	"control.Sources":       "judgeChannel",
	"control.Log":           "garbage, unless an operation is going on, which a successor ends",

	"cursorEntry.Word":     "a reader's",
	"cursorEntry.State":    "the table itself",
	"cursorEntry.Flags":    "cursorBook.judge",
	"cursorEntry.Done":     "cursorBook.judge",
	"cursorEntry.Start":    "cursorBook.judge",
	"cursorEntry.Lost":     "cursorBook.judge",
	"cursorEntry.LeftOut":  "cursorBook.judge",
	"cursorEntry.Unread":   "cursorBook.judge",
	"cursorEntry.Owed":     "cursorBook.judge",
	"cursorEntry.Sent":     "cursorBook.judge",
	"cursorEntry.Left":     "cursorBook.judge",
	"cursorEntry.Known":    "cursorBook.judge",
	"cursorEntry.Identity": "cursorBook.judge",
	"cursorEntry.Sum":      "an entry whose sum is wrong is given up",

	"sinkEntry.State":    "judgeClients",
	"sinkEntry.Accepted": "cursorBook.judge",
	"sinkEntry.Said":     "cursorBook.judge",
	"sinkEntry.Acked":    "cursorBook.judge",
	"sinkEntry.From":     "cursorBook.judge",
	"sinkEntry.To":       "cursorBook.judge",
	"sinkEntry.Identity": "cursorBook.judge",
	"sinkEntry.Sum":      "an entry whose sum is wrong is given up",

	"clientEntry.State":    "judgeClients",
	"clientEntry.Mark":     "judgeClients",
	"clientEntry.Taken":    "stageBook.judge",
	"clientEntry.Left":     "judgeClients",
	"clientEntry.Identity": "judgeClients",
	"clientEntry.Sum":      "an entry whose sum is wrong is given up",
}

// born are the fields of which nothing is said once they are there, and that are not 0 at first.
var born = map[string]string{
	"control.Since": "the time of its making",
	"control.Epoch": "chance",
}

// field is a field of an entry, or of the control page, as it lies in the file.
type field struct {
	name   string
	off, n uintptr
}

// fieldsIn are the fields of a T.
func fieldsIn[T any]() (all []field) {
	t := reflect.TypeFor[T]()
	for i := range t.NumField() {
		if f := t.Field(i); f.Name != "_" {
			all = append(all, field{t.Name() + "." + f.Name, f.Offset, f.Type.Size()})
		}
	}
	return all
}

// silentIn are those that nothing is said of.
func silentIn[T any]() (all []field) {
	for _, f := range fieldsIn[T]() {
		if spoken[f.name] == "" {
			all = append(all, f)
		}
	}
	return all
}

var (
	silentOfControl = silentIn[control]()
	silentOfCursor  = silentIn[cursorEntry]()
	silentOfSink    = silentIn[sinkEntry]()
	silentOfClient  = silentIn[clientEntry]()
)

// TestLedgerNamesFields: what the ledger says is said of a field that there is.
func TestLedgerNamesFields(t *testing.T) {
	there := make(map[string]bool)
	for _, fields := range [][]field{fieldsIn[control](), fieldsIn[cursorEntry](), fieldsIn[sinkEntry](), fieldsIn[clientEntry]()} {
		for _, f := range fields {
			there[f.name] = true
		}
	}
	for _, of := range []map[string]string{spoken, born} {
		for name := range of {
			if !there[name] {
				t.Errorf("%s: there is no such field", name)
			}
		}
	}
	for name := range born {
		if spoken[name] != "" {
			t.Errorf("%s is said to stay what it was, and more", name)
		}
	}
}

// bytesOf are the bytes of a field of the entry at p.
func (f *field) bytesOf(p unsafe.Pointer) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(p, f.off)), f.n)
}

// filled says whether there is anything in the field of the entry at p.
func (f *field) filled(p unsafe.Pointer) bool {
	return bytes.ContainsFunc(f.bytesOf(p), func(r rune) bool { return r != 0 })
}

// kept is what the fields hold that nothing is said of: one after the other. nil: the entry is new.
type kept []byte

// keep writes something into each of these fields, as if it were used, for it has to stay.
func (w *world) keep(p unsafe.Pointer, fields []field) (k kept) {
	k = kept{}
	for _, f := range fields {
		b := f.bytesOf(p)
		for i := range b {
			w.kept++
			b[i] = byte(w.kept%250 + 1)
		}
		w.twins[0].wrote(unsafe.Pointer(&b[0]), len(b))
		k = append(k, b...)
	}
	return k
}

// judge compares the fields of the entry at p.
func (k kept) judge(v *verdict, who string, p unsafe.Pointer, fields []field) {
	n := 0
	for _, f := range fields {
		var want []byte
		switch {
		case k != nil:
			want = k[n : n+int(f.n)]
			n += int(f.n)
		default:
			want = make([]byte, f.n)
		}
		if got := f.bytesOf(p); !bytes.Equal(got, want) {
			v.say("%s: %s is %x instead of %x", who, f.name, got, want)
		}
	}
}

// channelBook is what is known of the channel as a whole.
type channelBook struct {
	geometry   Geometry
	generation uint64
	kept       kept
	starts     uint64
	clock      [2]time.Duration // what it may be: before and after the step that is going on
	nextID     uint64
	naming     uint64 // how many ids the step that is going on may take
}

// begin writes down how a new ring has to be.
func (ch *channelBook) begin(v *verdict, r *Ring, from time.Time) {
	*ch = channelBook{geometry: r.geo, generation: 1, kept: kept{}, starts: 1, nextID: 1}
	if since := r.c.Since.Load(); since < from.Unix() || since > time.Now().Unix() {
		v.say("made at %d", since)
	}
	if r.c.Epoch.Load() == 0 {
		v.say("no epoch")
	}
	for _, f := range silentOfControl {
		ch.kept = append(ch.kept, f.bytesOf(unsafe.Pointer(r.c))...)
	}
}

// judgeChannel compares the words of the channel as a whole. level is that of who has taken over; 0 is the ring at work.
func (b *books) judgeChannel(v *verdict, r *Ring, level int) {
	c, ch := r.c, &b.channel
	ch.kept.judge(v, "the channel", unsafe.Pointer(c), silentOfControl)
	judgePublished(v, r, level)
	if got := c.Starts.Load(); got < ch.starts+uint64(min(level, 1)) || got > ch.starts+uint64(level) {
		v.say("%d starts, and %d before", got, ch.starts)
	}
	if got := time.Duration(c.Clock.Load()); got != ch.clock[0] && got != ch.clock[1] {
		v.say("the clock is at %v instead of %v or %v", got, ch.clock[0], ch.clock[1])
	}
	if got := c.NextID.Load(); got < ch.nextID || got > ch.nextID+ch.naming {
		v.say("the next id is %d instead of %d to %d", got, ch.nextID, ch.nextID+ch.naming)
	}
	switch n := c.Attempts.Load(); {
	case b.consumed && n != 0, !b.consumed && n != b.attempts:
		v.say("%d attempts instead of %d (or 0, if it was taken: %v)", n, b.attempts, b.consumed)
	}
	if got := c.AsOwn.Load(); got != b.asOwn {
		v.say("%d messages went with the broker's own credentials by its books, %d by the kernel's", got, b.asOwn)
	}
	for i := range c.Sources {
		if got := c.Sources[i].Load(); got != sumOfSource(b.sources, i) && got != sumOfSource(b.numbering, i) {
			v.say("source %d is %x, of %v", i+1, got, b.sources)
		}
	}
	for i, p := range []*header{at[header](r.files.header, 0), r.head} {
		got := headerBook{p.Magic.Load(), p.Layout.Load(), p.Role.Load(), p.Generation.Load(), p.Lock.Load(), p.Geometry.Load()}
		if want := (headerBook{magic, layout, uint32(roleData + i), ch.generation, 0, ch.geometry}); got != want {
			v.say("header %d is %v instead of %v", i, got, want)
		}
	}
}

// sumOfSource is what stands for the i-th of the channel's own sources.
func sumOfSource(names []string, i int) uint64 {
	if i < len(names) {
		return sumOfName(names[i])
	}
	return 0
}

// headerBook is what is in a header.
type headerBook struct {
	magic        uint64
	layout, role uint32
	generation   uint64
	lock         uint64
	geometry     Geometry
}
