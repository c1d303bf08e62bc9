// SPDX-License-Identifier: Apache-2.0

// Package view is the memory that clients and the broker share, as both ends see it: what a ring publishes and the page of a sink in
// view, and the stage of a source. docs/protocol.md has the drawings, docs/decisions/0015 and 0016 the reasons and the order of loads
// and stores.
//
//	layout.go  where everything is
//	page.go    the page of a sink: its words have one writer each
//	reader.go  the sink's end: reading what is published, and knowing whether that was a message
//	stage.go   the stage of a source: both ends
//
// It knows nothing of connections, of cursors, or of what the broker makes of a page.
//
// The package makes no compatibility promise.
package view
