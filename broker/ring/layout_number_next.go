// SPDX-License-Identifier: Apache-2.0

//go:build msgmux_next_layout

package ring

// layout is raised by a build tag, for the test of an upgrade across layouts.
const layout = 4
