// SPDX-License-Identifier: Apache-2.0

package ring

// reclaim moves the tail on, so that a record that takes need bytes fits at head. It says whether it does now; if it
// cannot, nothing is changed.
//
// The tail stops at the smallest cursor that is waited for, and never passes delivered: what no sink has had is never
// given up. With nobody lagging, everything behind that limit is free. A lagging cursor loses no more than what the room
// is needed for: first SKIP for each such cursor, then TAIL, so that none is ever behind the tail.
func (r *Ring) reclaim(need uint64) bool {
	head, tail := r.c.Head.load(), r.c.Tail.load()
	limit, lagging, delivered := r.holders(head)
	enough := func(t Place) bool { return head.Pos-t.Pos+need <= r.geo.Size }
	if limit.Seq <= tail.Seq || !enough(limit) {
		return enough(tail)
	}
	to := limit
	if lagging.Seq < limit.Seq {
		// Somebody will lose what is taken: the oldest records only, but for what is landed at once, up to a sixteenth of the
		// ring. Room for one record at a time would cost an operation for each.
		batch := max(need, min(r.landedSize(), r.geo.Size/16))
		if first := head.Pos + batch; first <= r.geo.Size+tail.Pos {
			to = tail
		} else if first -= r.geo.Size; first < limit.Pos {
			to = r.from(first)
		}
		if lagging.Seq > to.Seq {
			to = lagging // free for nothing
		}
		for _, c := range r.cursors {
			if c.e.Done.Seq.Load() < to.Seq {
				r.skip(c, to, 0)
			}
		}
	}
	r.moveTail(to, delivered)
	return true
}

// holders finds how far the tail may go (limit), the furthest behind of the lagging cursors (head if there is none),
// and delivered.
//
// Delivered moves on here if every cursor that is waited for is past it although none accepted what lies between: each of
// their sinks had to leave it out (EMSGSIZE), it is counted as lost by each, and nobody is left who could take it.
func (r *Ring) holders(head Place) (limit, lagging, delivered Place) {
	limit, lagging, delivered = head, head, r.c.Delivered.load()
	all, there := head, false
	for _, c := range r.cursors {
		at := c.e.Done.load()
		if c.lagging {
			if at.Seq < lagging.Seq {
				lagging = at
			}
			continue
		}
		if at.Seq < limit.Seq {
			limit = at
		}
		if !c.tap {
			there = there || c.connected > 0
			if at.Seq < all.Seq {
				all = at
			}
		}
	}
	if there && all.Seq > delivered.Seq {
		delivered = all
	}
	if delivered.Seq < limit.Seq {
		limit = delivered
	}
	return limit, lagging, delivered
}
