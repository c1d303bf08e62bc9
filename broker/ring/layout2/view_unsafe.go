// SPDX-License-Identifier: Apache-2.0

package layout2

import "unsafe"

// sections of the state, in bytes from the start of the file.
type sections struct{ control, index, table, recv, send, consume, greet, landing, end uint64 }

func pages(n uintptr) uint64 { return (uint64(n) + page - 1) / page * page }

func (g Geometry) sections() (s sections) {
	s.control = page
	s.index = s.control + pages(unsafe.Sizeof(control{}))
	s.table = s.index + pages(uintptr(g.entries())*unsafe.Sizeof(indexEntry{}))
	s.recv = s.table + pages(uintptr(g.slots())*unsafe.Sizeof(entry{}))
	s.send = s.recv + pages(unsafe.Sizeof(receiving{}))
	s.consume = s.send + pages(unsafe.Sizeof(sending{}))
	s.greet = s.consume + pages(unsafe.Sizeof(consuming{}))
	s.landing = s.greet + pages(unsafe.Sizeof(greeting{}))
	s.end = s.landing + pages(uintptr(g.batch()*g.stride()))
	return s
}

func (g Geometry) dataBytes() int64  { return int64(page + g.Size) }
func (g Geometry) stateBytes() int64 { return int64(g.sections().end) }

// The sizes of what the files are made of. They do not compile if one is another.
const (
	_ = -(unsafe.Sizeof(header{}) ^ 64)
	_ = -(unsafe.Sizeof(control{}) ^ 592)
	_ = -(unsafe.Sizeof(entry{}) ^ 360)
	_ = -(unsafe.Sizeof(message{}) ^ 64)
	_ = -(unsafe.Offsetof(header{}.Lock) ^ LockOffset)
	_ = -(unsafe.Offsetof(control{}.Log) ^ 168)
	_ = -(unsafe.Offsetof(receiving{}.Priority) ^ 136192)
	_ = -(unsafe.Offsetof(sending{}.PacketEnd) ^ 49248)
)

// at is the object of type T at offset off of b.
func at[T any](b []byte, off uint64) *T { return (*T)(unsafe.Pointer(&b[off])) }

// slice is n objects of type T at offset off of b.
func slice[T any](b []byte, off, n uint64) []T { return unsafe.Slice(at[T](b, off), n) }

// sum is FNV-1a over the identity's bytes: it tells a bit that fell from one that stands.
func (i *identity) sum() uint64 {
	h := uint64(14695981039346656037)
	for _, b := range unsafe.Slice((*byte)(unsafe.Pointer(i)), unsafe.Sizeof(*i)) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}
