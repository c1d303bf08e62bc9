// SPDX-License-Identifier: Apache-2.0

// Package meter is what the benchmark's processes share: the board, a memfd in
// which the driver says what to do and every client counts what it did, and the
// loop of a Go client. Its C twin is ../c/meter.h; the layouts are the same.
//
// It measures nothing by itself, knows no transport, and makes no compatibility
// promise.
package meter
