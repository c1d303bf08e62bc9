// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"sort"

	"github.com/msgmux/msgmux/internal/wire"
)

// reclaim moves the tail on, so that a record that takes need bytes fits at head. It says whether it does now; if it
// cannot, nothing is changed.
//
// The tail stops at the smallest cursor that is waited for, and never passes delivered: what no sink has had is never
// given up. With nobody lagging, everything behind that limit is free. A lagging sink loses no more than what the room
// is needed for: first SKIP for each such sink, then TAIL, so that no cursor is ever behind the tail.
func (r *Ring) reclaim(need uint64) bool {
	head, tail := r.c.Head.load(), r.c.Tail.load()
	limit, lagging, delivered := r.holders(head)
	enough := func(t Place) bool {
		return head.Pos-t.Pos+need <= r.geo.Size && head.Seq-t.Seq < uint64(len(r.index))
	}
	if limit.Seq <= tail.Seq || !enough(limit) {
		return enough(tail)
	}
	to := limit
	if lagging.Seq < limit.Seq {
		// Somebody will lose what is taken: the oldest records only, but for a whole batch at once.
		batch := max(need, min(r.landedBytes(), r.geo.Size/16))
		to = r.boundary(tail, limit, func(p Place) bool {
			return enough(p) && (p.Pos >= limit.Pos || head.Pos-p.Pos+batch <= r.geo.Size)
		})
		if lagging.Seq > to.Seq {
			to = lagging // free for nothing
		}
		for _, s := range r.cursors {
			if s.e.Cursor.Seq.Load() < to.Seq {
				r.skip(s, to)
			}
		}
	}
	l := &r.c.Log
	l.Place, l.Other = to, delivered
	r.log(opTail, "tail.logged")
	r.applyTail()
	r.done("tail.done")
	return true
}

func (r *Ring) applyTail() {
	c, l := r.c, &r.c.Log
	r.change()
	c.Delivered.store(l.Other)
	r.ops.Seam("tail.delivered")
	c.Tail.store(l.Place)
	r.changed()
}

// holders finds how far the tail may go (limit), the furthest behind of the lagging sinks (head if there is none),
// and delivered.
//
// Delivered moves on here if every connected sink is past it although none accepted what lies between: each of them
// had to skip it (EMSGSIZE), it is counted as lost by each, and nobody is left who could ever take it.
func (r *Ring) holders(head Place) (limit, lagging, delivered Place) {
	limit, lagging, delivered = head, head, r.c.Delivered.load()
	all, any := head, false
	for _, s := range r.cursors {
		cur := s.e.Cursor.load()
		if s.lagging {
			if cur.Seq < lagging.Seq {
				lagging = cur
			}
		} else if cur.Seq < limit.Seq {
			limit = cur
		}
		if s.connected > 0 && !s.tap {
			any = true
			if cur.Seq < all.Seq {
				all = cur
			}
		}
	}
	if any && all.Seq > delivered.Seq {
		delivered = all
	}
	if delivered.Seq < limit.Seq {
		limit = delivered
	}
	return limit, lagging, delivered
}

// boundary is the first place from tail to limit for which ok holds; ok holds at limit and behind every place for
// which it holds.
func (r *Ring) boundary(tail, limit Place, ok func(Place) bool) Place {
	n := sort.Search(int(limit.Seq-tail.Seq), func(i int) bool { return ok(r.place(tail, tail.Seq+uint64(i))) })
	return r.place(tail, tail.Seq+uint64(n))
}

// landedBytes is how much of the ring the landing zone's contents will take.
func (r *Ring) landedBytes() (n uint64) {
	for i := r.c.Next; i < r.c.Landed; i++ {
		if size := uint64(r.recv.Hdr[i].Len); size <= r.geo.MaxMessage {
			n += uint64(wire.Padded(int(size)))
		}
	}
	return n
}
