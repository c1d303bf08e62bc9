// SPDX-License-Identifier: Apache-2.0

// Package writer is the program that wrote rings of layout 2, kept for the tests of package layout2: what it stores, and in
// which order, is what brokers in the field have stored. What stores nothing, or decides only when to store, was left out.
// Its own tests kill it after every store and have package layout2 read what it leaves.
//
// Nothing but tests imports it. It is not changed any more.
//
// The package makes no compatibility promise.
package writer
