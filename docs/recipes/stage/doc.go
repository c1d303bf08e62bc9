// SPDX-License-Identifier: Apache-2.0

// Package stage is what the tests of the recipes stand on: a broker in a temporary folder, programs in the foreground that
// end with the test, Debian packages unpacked and not installed, and the text of the pages. It starts and ends what it
// started, by process id, and touches no service of the system. It does not know any of the programs.
//
// The package makes no compatibility promise.
package stage
