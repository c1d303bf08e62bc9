// SPDX-License-Identifier: Apache-2.0

package tally

import "encoding/binary"

// A message, in bytes:
//
//	 0        4          8              16          20
//	+--------+----------+--------------+-----------+-------------+
//	| magic  | source   | number       | length    | pattern ... |
//	+--------+----------+--------------+-----------+-------------+
//
// Little-endian. The length is that of the whole message; the pattern follows from source and number. So a message that
// was cut, joined to another or filled with another's bytes is seen.
const (
	magic = 0x6c6d6d31 // "1mml"

	// MinMessage is the size of the smallest message, in bytes.
	MinMessage = 20
)

// Put makes b, of at least [MinMessage] bytes, message number of source, in full length.
func Put(b []byte, source uint32, number uint64) {
	binary.LittleEndian.PutUint32(b, magic)
	binary.LittleEndian.PutUint32(b[4:], source)
	binary.LittleEndian.PutUint64(b[8:], number)
	binary.LittleEndian.PutUint32(b[16:], uint32(len(b)))
	for i := MinMessage; i < len(b); i++ {
		b[i] = pattern(source, number, i)
	}
}

// Get tells which message b is; ok is false if it is none, or not whole.
func Get(b []byte) (source uint32, number uint64, ok bool) {
	if len(b) < MinMessage || binary.LittleEndian.Uint32(b) != magic || binary.LittleEndian.Uint32(b[16:]) != uint32(len(b)) {
		return 0, 0, false
	}
	source, number = binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint64(b[8:])
	for i := MinMessage; i < len(b); i++ {
		if b[i] != pattern(source, number, i) {
			return 0, 0, false
		}
	}
	return source, number, true
}

// pattern is byte i of a message.
func pattern(source uint32, number uint64, i int) byte {
	return byte(uint64(source)*31 + number + uint64(i))
}

// Size is the length of message number where lengths vary between min and min+spread: the same for every run, and not in
// step with the numbers.
func Size(number uint64, min, spread int) int {
	if spread <= 0 {
		return min
	}
	return min + int(number*7919%uint64(spread+1))
}
