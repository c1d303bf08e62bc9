// SPDX-License-Identifier: Apache-2.0

package view

import "sync/atomic"

// What a ring publishes, from PublishedAt on in its data file. All are little-endian u64. Head and tail have cache lines of their
// own.
const (
	PublishedAt = 4096

	MagicAt      = 0  // Magic
	RingAt       = 8  // where in the file the ring begins
	SizeAt       = 16 // of the ring: a power of two
	GenerationAt = 24 // of the file: another one, another number
	EpochAt      = 32 // which life of the channel's numbers

	HeadAt      = 64 // the position behind the last record
	TailAt      = 128
	TailSeqAt   = 136 // the number of the record at the tail
	TailAgainAt = 144 // Tail once more, stored after TailSeq
)

// Magic is the first word of what is published: "muxview1".
const Magic = 0x31_77_65_69_76_78_75_6d

// PageSize is the size of the page of a sink, in bytes.
const PageSize = 4096

// The words of a page.
const (
	DoneAt  = 0 // of the sink: everything numbered below is done
	SleepAt = 8 // of the sink: 0 while it reads; before it waits a number that it has not used before

	AskAt      = 64 // of the broker: a number that the sink answers when it has stored Done
	GivenAt    = 72 // of the broker: the generation of the ring that the sink has been sent
	StartAt    = 80 // of the broker: the position at which the sink begins
	StartSeqAt = 88 // and the number of the record there
	OverAt     = 96 // of the broker: not 0 once it has ended the connection, where the sink finds why
)

// publish stores v in a word that the other end looks at. No load behind it comes before it, which is what "I store, then I look" of both
// ends rests on: an atomic Store is that everywhere but under the race detector, whose stores are only releases. A Swap is that there too,
// and on x86 the same instruction.
func publish(word *atomic.Uint64, v uint64) { word.Swap(v) }
