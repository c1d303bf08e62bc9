// SPDX-License-Identifier: Apache-2.0

// Command goclient is the benchmark's source and sink for msgmux by way of the
// Go client, as a program in Go would use it. It is of no use outside the
// benchmark and makes no compatibility promise.
package main
