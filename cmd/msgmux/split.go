// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// split reads messages that end with delimiter, or with the end of the input, and gives each to f without it; the slice
// is valid during the call. Empty ones are left out unless keepEmpty. Of one that has more than limit bytes f gets the
// first ones and true; the rest is read and thrown away, so a line without end takes no memory.
func split(input io.Reader, delimiter byte, limit int, keepEmpty bool, f func(message []byte, tooLarge bool) error) error {
	reader := bufio.NewReaderSize(input, 64<<10)
	var long []byte // what was read of a message that does not fit into the reader's buffer
	for {
		part, err := reader.ReadSlice(delimiter)
		if errors.Is(err, bufio.ErrBufferFull) {
			// One byte over the limit is enough to know that it is over.
			long = append(long, part[:min(len(part), limit+1-len(long))]...)
			continue
		}
		ended := err == nil
		if ended {
			part = part[:len(part)-1]
		}
		message := part
		if len(long) > 0 {
			message = append(long, part[:min(len(part), limit+1-len(long))]...)
		}
		long = long[:0]
		// Nothing after the last delimiter is no message, not even an empty one.
		if len(message) > 0 || ended && keepEmpty {
			if err := f(message[:min(len(message), limit)], len(message) > limit); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("cannot read standard input: %w", err)
		}
	}
}
