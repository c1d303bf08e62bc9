// SPDX-License-Identifier: Apache-2.0

// Package statsd holds the test of the recipe for StatsD, in a module of its own, so that the client and the exporter that
// it runs are nobody's dependencies. There is no code to import here.
//
// The package makes no compatibility promise.
package statsd
