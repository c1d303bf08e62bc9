// SPDX-License-Identifier: Apache-2.0

//go:build race

package msgmux

// overwriteLent: see lent.go.
const overwriteLent = true
