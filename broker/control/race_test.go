// SPDX-License-Identifier: Apache-2.0

//go:build race

package control_test

// slow is how much longer things may take under the race detector.
const slow = 5
