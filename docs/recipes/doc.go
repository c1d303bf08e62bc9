// SPDX-License-Identifier: Apache-2.0

// Package recipes holds the tests of the recipes in this folder: each runs the real program, from Debian's package, with
// the configuration that its page shows, against a real broker. There is no code to import here.
//
// The package makes no compatibility promise.
package recipes
