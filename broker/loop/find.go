// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"strconv"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/wire"
)

// Find is the sink with that id, nil if there is none.
func (r *Roster) Find(id uint64) *ring.Sink { return r.ring.Sink(id) }

// Static is the static sink with that address, nil if there is none.
func (r *Roster) Static(address string) *ring.Sink {
	return r.sinkWhere(func(spec *ring.Spec) bool { return spec.Kind == ring.Static && spec.Address == address })
}

// Statics calls yield for every static sink, in no order, until it returns false. yield may drop it.
func (r *Roster) Statics(yield func(*ring.Sink) bool) {
	for s := range r.ring.Sinks {
		if s.Spec().Kind == ring.Static && !yield(s) {
			return
		}
	}
}

// Dynamic is the registered sink with that address and owner, nil if there is none.
func (r *Roster) Dynamic(address string, uid uint32) *ring.Sink {
	return r.sinkWhere(func(spec *ring.Spec) bool {
		return spec.Kind == ring.Dynamic && spec.UID == uid && spec.Address == address
	})
}

// ByInode is the registered sink whose peer has that inode and that owner, nil if there is none. (Inodes are numbers of 32
// bits, and come again.)
func (r *Roster) ByInode(inode, uid uint32) *ring.Sink {
	return r.sinkWhere(func(spec *ring.Spec) bool {
		return spec.Kind == ring.Dynamic && spec.Inode == inode && spec.UID == uid
	})
}

// Shared is the registered sink whose peer has that inode and address, whoever it counts for; nil if there is none.
func (r *Roster) Shared(inode uint32, address string) *ring.Sink {
	return r.sinkWhere(func(spec *ring.Spec) bool {
		return spec.Kind == ring.Dynamic && spec.Inode == inode && spec.Address == address
	})
}

// sinkWhere is a sink that is wanted, nil if there is none.
func (r *Roster) sinkWhere(wanted func(*ring.Spec) bool) *ring.Sink {
	for s := range r.ring.Sinks {
		if wanted(s.Spec()) {
			return s
		}
	}
	return nil
}

// named is the sink that a label, or an id as "#12", names.
func (r *Roster) named(name string) (*ring.Sink, *wire.Error) {
	id, ok := r.labels[name]
	if !ok && len(name) > 1 && name[0] == '#' {
		n, err := strconv.ParseUint(name[1:], 10, 64)
		ok = err == nil
		id = n
	}
	if s := r.ring.Sink(id); ok && s != nil {
		return s, nil
	}
	return nil, wire.Refuse(wire.CodeNotFound, "there is no sink %q", name)
}
