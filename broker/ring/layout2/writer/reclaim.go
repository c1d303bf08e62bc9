// SPDX-License-Identifier: Apache-2.0

package writer

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
		// Somebody will lose what is taken: the oldest records only, but for a whole batch at once, in bytes and in index
		// entries, whichever is short: room for one record at a time would cost an operation for each.
		bytes, records := r.landedSize()
		bytes = max(need, min(bytes, r.geo.Size/16))
		records = max(1, min(records, uint64(len(r.index))/16))
		to = r.boundary(tail, limit, func(p Place) bool {
			return enough(p) && (p.Pos >= limit.Pos ||
				head.Pos-p.Pos+bytes <= r.geo.Size && head.Seq-p.Seq+records <= uint64(len(r.index)))
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
	r.moveTail(to, delivered)
	return true
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

// landedSize is how much of the ring, and of its index, what is landed will take. A message that will be refused takes
// nothing.
func (r *Ring) landedSize() (bytes, records uint64) {
	for i := r.c.Next.Load(); i < r.c.Landed.Load(); i++ {
		b := r.slot(i)
		switch {
		case b == nil:
		case r.c.Land.Load().kind() == Packets:
			for b = b[min(r.c.Offset.Load(), uint64(len(b))):]; len(b) >= wire.RecordHeader; records++ {
				n := min(wire.Padded(int(getLength(b))), len(b))
				bytes += uint64(n)
				b = b[n:]
			}
		default:
			bytes += uint64(wire.Padded(len(b)))
			records++
		}
	}
	return bytes, records
}
