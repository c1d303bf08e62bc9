// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package ring

import (
	"encoding/binary"
	"math"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// Sources with a stage. What they have written there stays whatever happens to a broker, so a successor takes it from where the table
// says, and the books say what lies there.

// stageBook is what a source has written to its stage.
type stageBook struct {
	stage   *view.Stage
	writer  *view.Writer
	words   []byte
	told    uint64 // how far the source has been told that it is taken
	states  []stageState
	taking  bool // nothing else enters
	refused bool // it has something that is refused
}

// stageState is how far a stage can have been taken: everything before pos.
type stageState struct {
	pos  uint64
	seq  uint64 // the number of the message that enters next
	mark uint64
}

// judge compares how far it is taken with what that means.
func (s *stageBook) judge(v *verdict, r *Ring, c *Client) {
	if s.told = s.taken().Load(); s.told > c.Staged() {
		v.say("source %d has been told that its stage is taken up to %d, and that is %d", c.ID(), s.told, c.Staged())
	}
	i := slices.IndexFunc(s.states, func(x stageState) bool { return x.pos == c.Staged() })
	if i < 0 {
		v.say("the stage of source %d is taken up to %d, within something", c.ID(), c.Staged())
		return
	}
	at := s.states[i]
	if head := r.Head().Seq; head < at.seq || s.taking && head != at.seq {
		v.say("the stage of source %d is taken up to message %d, and %d have entered", c.ID(), at.seq, head)
	}
	if got := c.Mark(); c.Spec().Marks && got != at.mark {
		v.say("source %d has come to %d instead of %d", c.ID(), got, at.mark)
	}
}

func (s *stageBook) taken() *atomic.Uint64 { return sys.Word(s.words, view.StageTakenAt) }

// restore takes back what a successor has told the sources of their stages: they are the next one's, too.
func (b *books) restore() {
	for _, c := range b.clients {
		if c.stage != nil {
			c.stage.taken().Store(c.stage.told)
		}
	}
}

// stage has a ring take what is left in the stages. It says whether that is anything.
func (b *books) stage(r *Ring) bool {
	for _, c := range b.clients {
		if x := r.Client(c.id); x != nil && c.stage != nil && c.there == present {
			// What is refused is refused again, and counted, by a successor of who was killed before he dropped the source.
			again := c.stage.refused && x.Staged() == c.stage.states[len(c.stage.states)-1].pos && b.hasRefused(r)
			if some, bad := r.Stage(x, c.stage.stage, stagingUser, math.MaxInt64); some && bad == nil && !again {
				return true
			}
			r.Unstage(x)
		}
	}
	return false
}

func (b *books) hasRefused(r *Ring) bool {
	for i := range r.c.Refused {
		if r.c.Refused[i].Load() != b.refused[i] {
			return false
		}
	}
	return true
}

// stager adds a source with a stage.
func (w *world) stager(label string, marks bool) (p *Client, c *clientBook) {
	s, fd, err := view.NewStage(view.StageSize(w.geo.MaxMessage))
	if err != nil {
		w.t.Fatal(err)
	}
	book := &stageBook{stage: s}
	if book.writer, err = view.NewWriter(fd); err != nil {
		w.t.Fatal(err)
	}
	if book.words, err = sys.Map(fd, 0, view.PageSize); err != nil {
		w.t.Fatal(err)
	}
	unix.Close(fd)
	w.t.Cleanup(func() { s.Close(); book.writer.Close(); sys.Unmap(book.words) })
	w.do("attach", func() {
		spec := ClientSpec{Label: label, Stage: true, Marks: marks}
		if marks {
			spec.Keep = time.Minute
		}
		w.naming(1, func() { spec.ID = w.r.NewID() })
		c = &clientBook{id: spec.ID, there: appearing, source: &spec}
		w.books.clients = append(w.books.clients, c)
		if p, err = w.r.AddClient(spec); err != nil {
			panic(err)
		}
		c.kept = w.keep(unsafe.Pointer(p.e), silentOfClient)
		c.there = present
	})
	w.greet(nil, p, c)
	book.states = []stageState{{0, uint64(len(w.books.entering)), 0}}
	c.stage = book
	return p, c
}

// stages has a source write messages to its stage, with a mark where it marks. They are the next to enter.
func (w *world) stages(c *clientBook, mark uint64, messages ...[]byte) {
	var b []byte
	last := c.stage.states[len(c.stage.states)-1]
	for _, m := range messages {
		b = wire.AppendRecord(b, m)
		last.pos, last.seq = last.pos+uint64(wire.Padded(len(m))), last.seq+1
		c.stage.states = append(c.stage.states, last)
		w.books.hand(stagingUser, w.r.AsksForOrigins(), m)
	}
	if c.source.Marks {
		last.pos, last.mark = last.pos+view.StageMarkSize, mark
		c.stage.states = append(c.stage.states, last)
	}
	if done, _ := c.stage.writer.Put(b, mark, c.source.Marks); !done {
		w.t.Fatal("the stage is full")
	}
}

// stagingUser is who the sources with a stage are.
var stagingUser = Sender{PID: 9, UID: 8, GID: 7, Bits: SenderKnown}

// takeStage has what is in a stage enter, in turns of about so many bytes.
func (w *world) takeStage(p *Client, c *clientBook, limit uint64) (out Outcome) {
	w.do("take a stage", func() {
		c.stage.taking = true
		some, bad := w.r.Stage(p, c.stage.stage, stagingUser, limit)
		if bad != nil || !some {
			w.wrong("there is nothing in the stage")
			return
		}
		w.losing(true)
		out = w.r.Append()
		w.losing(false)
		w.stageTaken()
		c.stage.taking = false
	})
	return out
}

// stageTaken settles the time of what was taken last.
func (w *world) stageTaken() {
	b := w.books
	for i := min(len(b.origins), int(w.r.Head().Seq)) - 1; i >= 0 && b.origins[i].Time == soon; i-- {
		b.origins[i].Time = w.r.lastOrigin().Time
	}
	b.known = b.kept(w.r)
}

func playStage(w *world) {
	a := w.add(wish{Kind: Dynamic, Label: "a"}, false)
	p, pc := w.stager("plain", false)
	w.stages(pc, 0, text(1, 5), text(2, 0), text(3, 300))
	w.takeStage(p, pc, math.MaxInt64)
	meta := w.add(wish{Kind: Framed, Label: "m", Frames: true, Meta: true}, false)
	q, qc := w.stager("marked", true)
	qc.stage.states[0].seq = uint64(len(w.books.entering))
	w.stages(qc, 7, text(4, 7), text(5, 8))
	w.stages(qc, 3)
	w.stages(qc, 9, text(6, 3))
	w.takeStage(q, qc, 1) // as little as there is at once
	for range 9 {
		if qc.stage.states[len(qc.stage.states)-1].pos != q.Staged() {
			w.takeStage(q, qc, 1)
		}
	}
	w.send(a, 9)
	w.send(meta, 9)
	pc.stage.states[len(pc.stage.states)-1].seq = uint64(len(w.books.entering))
	w.stages(pc, 0, text(7, 1))
	w.takeStage(p, pc, math.MaxInt64)
	// A move takes over how far stages are taken.
	w.move(Geometry{Size: 2 * MinSize, MaxMessage: 300, MaxSinks: 9, MaxClients: 3})
	q = w.r.Client(q.ID())
	qc.stage.states[len(qc.stage.states)-1].seq = uint64(len(w.books.entering))
	w.stages(qc, 11, text(8, 2))
	w.takeStage(q, qc, math.MaxInt64)
	// On another connection it has another stage.
	w.sourceAway(q, qc)
	mark, conn := qc.stage.states[len(qc.stage.states)-1].mark, w.newID()
	qc.stage = nil
	qc.mark = &markBook{starting: mark}
	w.sourceBack(q, qc, conn)
	if q.Staged() != 0 || q.Mark() != mark {
		w.wrong("a source that is back has its stage taken")
	}
	// What cannot be: a record that is too large, one that ends beyond what was written, half a mark.
	for _, bad := range []struct {
		reason Reason
		raw    []byte
	}{{TooLarge, binary.LittleEndian.AppendUint32(nil, 301)}, {BadPacket, binary.LittleEndian.AppendUint32(nil, 300)}, {BadPacket, binary.LittleEndian.AppendUint32(nil, view.StageMark)}} {
		s, sc := w.stager("bad", false)
		sc.stage.states[0].seq = uint64(len(w.books.entering))
		w.stages(sc, 0, text(9, 4))
		sc.stage.writer.Put(bad.raw, 0, false)
		w.books.refused[bad.reason]++
		sc.stage.refused = true
		if out := w.takeStage(s, sc, math.MaxInt64); out.Bad == nil || out.Entered != 1 || out.From != s.ID() {
			w.wrong("what cannot be in a stage is taken")
		}
		w.do("remove a source", func() {
			sc.there = vanishing
			w.r.RemoveClient(s)
			sc.there = gone
		})
	}
}

// playStageFull fills the ring from a stage: room is made piece by piece, a record longer than one copy among it.
func playStageFull(w *world) {
	a := w.add(wish{Kind: Dynamic, Label: "a"}, false)
	slow := w.add(wish{Kind: Dynamic, Label: "slow"}, false)
	p, pc := w.stager("large", true)
	w.fill(50_000, a)
	w.append()
	w.silently(func() { // until it is empty of datagrams
		w.lag(slow, true)
		for w.append(); w.r.Landed(); w.append() {
			w.send(a, 9)
			w.read(a)
		}
		w.lag(slow, false)
	})
	pc.stage.states[0].seq = uint64(len(w.books.entering))
	for i, n := range []int{20_000, 50_000, 20_001, 0, 59_999, 3} {
		w.stages(pc, uint64(i)+1, text(i, n))
	}
	full := 0
	w.do("take a stage", func() {
		if some, bad := w.r.Stage(p, pc.stage.stage, stagingUser, math.MaxInt64); !some || bad != nil {
			w.wrong("there is nothing in the stage")
		}
	})
	for range 20 {
		if w.append(); !w.r.Landed() {
			break
		}
		full++
		w.lag(slow, true)
		w.append()
		w.lag(slow, false)
		w.send(a, 9)
		w.read(a)
	}
	if w.r.Landed() || full == 0 {
		w.wrong("a full ring is not filled by and by")
	}
	w.stages(pc, 100, text(1, 10))
	w.do("ask for a stage, and forget it", func() {
		_, _ = w.r.Stage(p, pc.stage.stage, stagingUser, math.MaxInt64)
		w.r.Unstage(p)
		if w.r.Landed() {
			w.wrong("what was forgotten waits")
		}
	})
	w.takeStage(p, pc, math.MaxInt64)
}
