// SPDX-License-Identifier: Apache-2.0

//go:build !race

package control_test

// slow is how many seconds a message may take where nothing delays it: other tests may be running.
const slow = 4
