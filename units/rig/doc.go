// SPDX-License-Identifier: Apache-2.0

// Package rig boots a real systemd for tests: Debian 12 (systemd 252) or Debian 13 (systemd 257) in a container of its
// own, in which a test runs commands, installs what the build made, and reads the journal. Every boot begins with the
// same files and leaves nothing behind. It is not a container runtime: no network but loopback, no images, no daemon.
//
// It needs root, apt-get, and a Debian archive among the apt sources of the host; debootstrap and systemd-nspawn it
// installs itself. Elsewhere [Boot] skips the test and says why, or fails it where MSGMUX_REQUIRE wants it run.
//
// A prepared root file system per suite lies in /var/cache/msgmux-rig (MSGMUX_RIG_CACHE names another folder) and is made
// anew when its recipe, prepare.sh, changes: the first test takes a minute longer.
//
// The package makes no compatibility promise.
package rig
