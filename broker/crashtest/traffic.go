// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"
)

// Traffic is what sources send. Message index of a source follows from both numbers and the seed, so that whoever
// receives it can tell whether each byte is right without having seen it sent. The layout, little-endian:
//
//	| u32 source | u32 size | u64 index | noise ... |
//
// One message in seven has no bytes. It is nobody's, but how many there are is known, and between which others.
type Traffic struct {
	Seed     uint64
	Began    time.Time
	Second   map[int]bool // the sources that send to the second socket for them
	Largest  int          // bytes of the largest message that the channel takes
	TooLarge int          // bytes of one that it refuses; 0: none is sent
}

// Polite is the first of the sources that never send too large a message: a connection would not survive it.
const Polite = 100

// messageHeader is the size in bytes of the part of a message that is not noise.
const messageHeader = 16

// noise is what messages are filled with, from different places. Longer than any message.
var noise = func() []byte {
	b := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}()

// Key tells a message from all others: source and index, or Nobody for one without bytes.
type Key uint64

// Nobody is the key of every message of no bytes.
const Nobody = ^Key(0)

func keyOf(source int, index uint64) Key { return Key(uint64(source)<<40 | index) }

// Source is who sent the message, and Index as its how-manieth.
func (k Key) Source() int { return int(k >> 40) }

// Index counts from 0.
func (k Key) Index() uint64 { return uint64(k) & (1<<40 - 1) }

// String is the key for people.
func (k Key) String() string {
	if k == Nobody {
		return "empty"
	}
	return fmt.Sprintf("%d/%d", k.Source(), k.Index())
}

// mix is the finalizer of SplitMix64: a number that has nothing to do with the one before.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Size is the size of a message in bytes.
func (t *Traffic) Size(source int, index uint64) int {
	r := mix(t.Seed ^ mix(uint64(keyOf(source, index))))
	pick, r := r%1000, r/1000
	switch {
	case r%7 == 0:
		return 0
	case pick < 3 && t.TooLarge > 0 && source < Polite:
		return t.TooLarge
	case pick < 20:
		return messageHeader + int(r/7%uint64(t.Largest-messageHeader+1))
	case pick < 120:
		return messageHeader + int(r/7%4000)
	}
	return messageHeader + int(r/7%300)
}

// Append appends the message to dst.
func (t *Traffic) Append(dst []byte, source int, index uint64) []byte {
	n := t.Size(source, index)
	if n == 0 {
		return dst
	}
	dst = binary.LittleEndian.AppendUint32(dst, uint32(source))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(n))
	dst = binary.LittleEndian.AppendUint64(dst, index)
	return append(dst, noiseFor(source, index, n)...)
}

func noiseFor(source int, index uint64, n int) []byte {
	n -= messageHeader
	at := mix(uint64(keyOf(source, index))) % uint64(len(noise)-n)
	return noise[at:][:n]
}

// Read says which message b is. The error is that b is none that was ever sent.
func (t *Traffic) Read(b []byte) (Key, error) {
	if len(b) == 0 {
		return Nobody, nil
	}
	if len(b) < messageHeader {
		return Nobody, fmt.Errorf("a message of %d bytes", len(b))
	}
	source, size := int(binary.LittleEndian.Uint32(b)), int(binary.LittleEndian.Uint32(b[4:]))
	index := binary.LittleEndian.Uint64(b[8:])
	key := keyOf(source, index)
	if size != len(b) || source >= 1<<20 || index >= 1<<40 || size != t.Size(source, index) {
		return Nobody, fmt.Errorf("a message of %d bytes says that it has %d and is %s", len(b), size, key)
	}
	if !bytes.Equal(b[messageHeader:], noiseFor(source, index, size)) {
		return Nobody, fmt.Errorf("message %s of %d bytes is not what was sent", key, size)
	}
	return key, nil
}
