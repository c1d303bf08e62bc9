// SPDX-License-Identifier: Apache-2.0

// Package layout2 reads a ring of layout 2, which an earlier version of the broker has left: [Open] finishes the operation
// that the earlier broker was killed in, by the rules of that layout, and shows what the ring then holds. The caller copies
// it into a ring of its own.
//
// Nothing here changes the two files. They are mapped privately, and what recovery stores goes to pages of this process. So
// a reader that is killed leaves everything as it found it, the next one comes to the same result, and so does a broker of
// the earlier version, until the caller has published its own ring.
//
// The package is frozen: layout 2 does not change any more, so what it says about the files is written out as numbers, and
// follows from nothing that may change elsewhere. It knows nothing of how a ring is used, nor of what comes after layout 2.
// Package writer, beside it, is the program that wrote such rings; it is kept for the tests.
//
// The package makes no compatibility promise.
package layout2
