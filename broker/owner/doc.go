// SPDX-License-Identifier: Apache-2.0

// Package owner finds out who owns a socket. Neither a name nor the address that a datagram came from proves anything: the
// same path can lead elsewhere in another mount namespace, the same abstract name exists in every network namespace, and a symbolic link
// needs no namespace at all. So the broker connects a socket of its own first, which decides what it would send to,
// and then asks the kernel who created what is at the other end:
//
//	own descriptor --inode, cookie--> own socket --peer inode--> peer --> uid
//
// A connected datagram socket stays connected to that very socket. The name may go to somebody else afterwards, and
// the association does not follow.
//
// The step over the peer's inode is the weak one: the kernel counts inodes in 32 bits, so who makes four thousand
// million sockets can own one with the inode of somebody else's, in whose place it might be looked at. Hence two
// checks: the own socket is found by its cookie, which never repeats, and the peer that was looked up must be a datagram
// socket with the name of the one that is connected. In a network namespace an abstract name exists once for each type
// of socket, so that settles the matter; for a path, an attacker needs the 32 bits and a mount namespace.
//
// It knows nothing of the ring, of sinks, or of what is done with the answer.
//
// The package makes no compatibility promise.
package owner
