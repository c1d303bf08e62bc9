// SPDX-License-Identifier: Apache-2.0

// Command nats is the benchmark's source and sink for nats-server: core publish
// and subscribe with the client library's defaults, over the loopback device.
// It is of no use outside the benchmark and makes no compatibility promise.
package main
