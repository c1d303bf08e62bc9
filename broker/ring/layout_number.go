// SPDX-License-Identifier: Apache-2.0

//go:build !msgmux_next_layout

package ring

// layout is the number of everything behind the header pages. It is raised when any of that changes; this program then
// also reads the layout before.
const layout = 3
