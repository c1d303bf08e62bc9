// SPDX-License-Identifier: Apache-2.0

// Package status says how the channel is: what the control socket shows, the line for the service manager, and a log line
// when the sources are blocked for long or messages are left behind. It looks, and changes nothing: none of it makes the data
// thread wait.
//
// It knows nothing of how sinks come and go, or of what its answers are written as.
//
// The package makes no compatibility promise.
package status
