// SPDX-License-Identifier: Apache-2.0

//go:build !race

package msgmux

// overwriteLent has Messages overwrite each message after its turn. It is on in tests that look for races: who keeps a
// slice that was lent finds it changed at once, and not only when the next packet comes.
const overwriteLent = false
