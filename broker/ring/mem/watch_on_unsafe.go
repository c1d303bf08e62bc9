// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package mem

import "unsafe"

// Watched says whether stores go through the function given to Watch.
const Watched = true

// Store is one store that is about to be made.
type Store struct {
	Kind  Kind
	At    unsafe.Pointer // where; in a file that is mapped
	Value []byte         // what, valid during the call
	More  bool           // of a value of several words, others follow
}

// Make makes the store.
func (s *Store) Make() {
	copy(unsafe.Slice((*byte)(s.At), len(s.Value)), s.Value)
}

var watcher func(*Store)

// Watch has every store from now on made by f, which may look at it, leave it out, or keep it for later; nil ends that. A
// value of several words is as many stores: a kill may fall between them. It is for one thread.
func Watch(f func(*Store)) (before func(*Store)) {
	before, watcher, depth = watcher, f, 0
	return before
}

// same says whether size bytes are there already. A store of them makes no new moment.
func same(at, value unsafe.Pointer, size uintptr) bool {
	return string(unsafe.Slice((*byte)(at), size)) == string(unsafe.Slice((*byte)(value), size))
}

const word = 8

func watch(kind Kind, at, value unsafe.Pointer, size uintptr) bool {
	if watcher == nil {
		return false
	}
	b := unsafe.Slice((*byte)(value), size)
	// One for each store that is being made: whoever looks at one may have others made.
	s := &stack[depth]
	depth++
	defer func() { depth-- }()
	if kind == Word {
		for len(b) > word { // every value here begins on a word
			*s = Store{kind, at, b[:word], true}
			watcher(s)
			at, b = unsafe.Add(at, word), b[word:]
		}
	}
	*s = Store{kind, at, b, false}
	watcher(s)
	return true
}

var (
	stack [16]Store
	depth int
)
