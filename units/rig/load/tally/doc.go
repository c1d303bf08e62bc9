// SPDX-License-Identifier: Apache-2.0

// Package tally numbers messages and counts how they arrive: once or twice, in order or not, whole or not. The program load
// sends and receives by it, and tests read its reports. It knows nothing of sockets.
//
// The package makes no compatibility promise.
package tally
