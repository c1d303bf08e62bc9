// SPDX-License-Identifier: Apache-2.0

// Package wire is what msgmux says on its sockets: the text of a registration, the first packet of a framed client, the
// answers, the packets of records, and the JSON of the control socket. It prints and parses, in pure functions: it holds
// no descriptors, keeps no state, never blocks, and trusts nothing that it is given.
//
// The same bytes are described for other languages in docs/protocol.md; a test holds the two together.
//
// The package makes no compatibility promise. The bytes do: they change only in ways that the document foresees.
package wire
