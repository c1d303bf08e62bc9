// SPDX-License-Identifier: Apache-2.0

// Package activation is what msgmux and the service manager give each other: inherited descriptors, told apart by name;
// the descriptor store and its barrier; readiness, status, watchdog. Where there is no service manager it binds the
// same sockets itself. It is not a general socket activation library, and it knows nothing of the ring or of messages.
//
// The protocols are those of sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3).
//
// The package makes no compatibility promise.
package activation
