// SPDX-License-Identifier: Apache-2.0

// Package mem is memory that outlives the process: the words, message headers and bytes of a ring's two files. What is in
// it can be changed only by the methods here, so that a program that does otherwise does not compile.
//
// A SIGKILL can interrupt the broker only between two stores to this memory, or on the return of a system call. So there
// are finitely many moments at which a broker can die, and a test can try each: in a program that was built with the tag
// ring_watch every store is made by the function that [Watch] was given. In any other program a method here is the plain
// store that its name says.
//
// It knows nothing of what the words mean.
//
// The package makes no compatibility promise.
package mem
