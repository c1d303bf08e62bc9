// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
	"hash/fnv"
)

// MaxSources is how many sockets and queues for sources a channel can have that are no connections.
const MaxSources = 64

// NumberSources gives each of the channel's own sources a number from 1 on, by its name: the one that it had on this ring, as long as
// no more than MaxSources names are used in the ring's life, and then one of a name that is not used any more. So a number
// that was written down beside a message keeps its meaning over restarts, and over sources that come and go. Names that were
// never seen get theirs in the order of names; of one name, all sources have the same.
//
// A number is taken by one store, of its name's sum: killed before, the successor finds it free.
func (r *Ring) NumberSources(names []string) ([]uint32, error) {
	used := make(map[uint64]bool)
	for _, name := range names {
		used[sumOfName(name)] = true
	}
	if len(used) > MaxSources {
		return nil, fmt.Errorf("cannot have %d sockets and queues for sources, %d are the most", len(used), MaxSources)
	}
	numbers := make([]uint32, len(names))
	for i, name := range names {
		sum := sumOfName(name)
		at := r.sourceAt(func(s uint64) bool { return s == sum })
		if at < 0 {
			if at = r.sourceAt(func(s uint64) bool { return s == 0 }); at < 0 {
				at = r.sourceAt(func(s uint64) bool { return !used[s] })
			}
			r.c.Sources[at].Store(sum)
		}
		numbers[i] = uint32(at) + 1
	}
	return numbers, nil
}

// sourceAt is the first place in the list of sources with a sum that is wanted; -1 if there is none.
func (r *Ring) sourceAt(wanted func(sum uint64) bool) int {
	for i := range r.c.Sources {
		if wanted(r.c.Sources[i].Load()) {
			return i
		}
	}
	return -1
}

// sumOfName is never 0, which stands for no name.
func sumOfName(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return max(h.Sum64(), 1)
}
