// SPDX-License-Identifier: Apache-2.0

// Package scout finds what a path leads to, step by step, and connects to that: nothing that is looked at can be exchanged
// before it is used.
//
//	scout.go      what is asked: a connected socket, which file it is, what it says
//	walk.go       one step after the other, and whom each of them trusts
//	local.go      which file systems answer for certain
//	companion.go  the process that asks the others, and can be left behind
//
// It knows nothing of sinks, of who owns a socket, or of what is sent.
//
// The package makes no compatibility promise.
package scout
