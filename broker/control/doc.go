// SPDX-License-Identifier: Apache-2.0

// Package control is how a channel is seen and steered: the control socket. It knows the channel only through
// [Commands], and nothing of the data path, which it can neither delay nor stop.
//
// The package makes no compatibility promise.
package control
