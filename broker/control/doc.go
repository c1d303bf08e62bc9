// SPDX-License-Identifier: Apache-2.0

// Package control is how a channel is seen and steered: the control socket, metrics, an object on D-Bus, entries of the
// journal. It knows the channel only through [Commands] and what it reads there, and nothing of the data path, which it
// can neither delay nor stop.
//
//	server.go       the control socket: a JSON request, a JSON answer
//	crowd.go        how many may come at a time, and who goes for a newcomer
//	turns.go        whose turn it is to have an answer made
//	metrics.go      the metrics socket: HTTP, or nothing at all
//	openmetrics.go  the text of the metrics
//	bus.go          the connection to a bus, made again when it breaks
//	buslink.go      what is let through from there, and how fast
//	share.go        who of many that call may be heard
//	object.go       methods, properties and signals
//	introspect.go   how the object describes itself
//	entry.go        native entries of the journal
//	events.go       the identity of each event of the journal
//
// The package makes no compatibility promise.
package control
