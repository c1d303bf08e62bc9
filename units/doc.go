// SPDX-License-Identifier: Apache-2.0

// Package units has no code: it is the unit files, and the tests that boot a real systemd with them.
//
// system and user hold what a package installs for the system's systemd and for the users' own, examples what an
// administrator may copy.
//
// The package makes no compatibility promise; the names of the units and of the sockets do not change.
package units
