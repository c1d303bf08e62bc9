// SPDX-License-Identifier: Apache-2.0

// Package crashtest kills brokers. A parent plays the service manager of one channel: it keeps the memfds, the sockets
// and every sink, starts a real broker as a child, lets real sources and sinks load it, kills it at a random moment or
// at a named seam of the code, and starts the next one. Afterwards the books must balance: each message exactly once,
// in one order, and every loss counted.
//
// It is a tool for tests and knows nothing of how a broker works inside, but for the names of its seams. It does not
// use systemd; the tests that do are in units/rig.
//
// The package makes no compatibility promise.
package crashtest
