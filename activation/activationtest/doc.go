// SPDX-License-Identifier: Apache-2.0

// Package activationtest plays systemd for tests: it holds the descriptors of socket units and the descriptor store of
// one service, reads the service's notifications, and starts the service again and again with what it holds. It is an
// imitation of what systemd does with a service of Type=notify, surprises included; it supervises nothing: whoever
// starts a process waits for it.
//
// It shares no code with the package that it tests, so that a mistake is not made twice.
//
// The package makes no compatibility promise.
package activationtest
