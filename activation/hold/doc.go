// SPDX-License-Identifier: Apache-2.0

// Package hold plays the service manager's part for a broker where there is none, as in a container: it holds the channel's
// sockets and all that a broker gives it to keep, starts a broker with copies of them, and the next one when that has ended.
// So a killed broker costs as little as under systemd. It may be the first process of a pid namespace.
//
//	hold.go    the broker's lives, signals, the watchdog
//	store.go   what brokers say and give to keep (sd_notify(3), FDSTORE=1)
//	handed.go  the broker's side: that it was started by a holder
//
// It knows nothing of the ring, of sinks, or of messages, and holds whatever it is given, under whatever name.
//
// The package makes no compatibility promise.
package hold
