// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	msgmux "github.com/msgmux/msgmux/client"
)

// take is given one message after the other; the slice is valid during the call. tooLarge stands for a message that is, of
// which nothing is left.
type take func(message []byte, tooLarge bool) error

// input is how what pub reads is taken apart.
type input struct {
	io.Reader
	limit     int // the largest message, in bytes
	keepEmpty bool
}

// inputs are the values of pub --input. Each reads what the output of sub with that name has written, byte by byte.
var inputs = map[string]func(input, take) error{
	"line":   func(in input, f take) error { return split(in, '\n', in.limit, in.keepEmpty, f) },
	"nul":    func(in input, f take) error { return split(in, 0, in.limit, in.keepEmpty, f) },
	"json":   splitJSON,
	"hex":    splitHex,
	"frames": splitFrames,
}

// inputNames are the keys of inputs in the order in which they are explained.
func inputNames() []string { return []string{"line", "nul", "json", "hex", "frames"} }

// split reads messages that end with delimiter, or with the end of the input, and gives each to f without it. Empty ones
// are left out unless keepEmpty. Of one that has more than limit bytes the rest is read and thrown away, so a line without
// end takes no memory.
func split(input io.Reader, delimiter byte, limit int, keepEmpty bool, f take) error {
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
			return err
		}
	}
}

// splitJSON reads the lines of sub -o json: of each the text, or what base64 stands for. Lines that tell of a gap are no
// messages, and what else an object has does not matter.
func splitJSON(in input, f take) error {
	const escaped, around = 6, 4096 // a byte as \u00xx, and all that is not the message
	n := 0
	return split(in, '\n', escaped*in.limit+around, false, func(line []byte, tooLarge bool) error {
		n++
		if tooLarge {
			return f(nil, true)
		}
		var m struct {
			Text, Base64 *string
			Gap          json.RawMessage
		}
		if err := json.Unmarshal(line, &m); err != nil {
			return fmt.Errorf("cannot read line %d as JSON: %w", n, err)
		}
		switch {
		case m.Text != nil && m.Base64 == nil:
			return f([]byte(*m.Text), len(*m.Text) > in.limit)
		case m.Base64 != nil && m.Text == nil:
			message, err := base64.StdEncoding.DecodeString(*m.Base64)
			if err != nil {
				return fmt.Errorf("cannot read the base64 of line %d: %w", n, err)
			}
			return f(message, len(message) > in.limit)
		case m.Text == nil && m.Gap != nil:
			return nil
		}
		return fmt.Errorf("line %d has not one of text and base64, as sub -o json writes it", n)
	})
}

// splitHex reads the lines of sub -o hex. An empty line is an empty message.
func splitHex(in input, f take) error {
	n := 0
	return split(in, '\n', 2*in.limit, true, func(line []byte, tooLarge bool) error {
		n++
		message, err := hex.DecodeString(string(line))
		if err != nil && !tooLarge {
			return fmt.Errorf("cannot read line %d as hexadecimal: %w", n, err)
		}
		return f(message, tooLarge)
	})
}

// splitFrames reads what sub -o frames writes: a length in four bytes, little-endian, and so many bytes of message.
func splitFrames(in input, f take) error {
	reader := bufio.NewReaderSize(in, 64<<10)
	var message []byte
	for n := 1; ; n++ {
		var head [4]byte
		if _, err := io.ReadFull(reader, head[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return cutOff(n, err)
		}
		size := binary.LittleEndian.Uint32(head[:])
		if size > msgmux.MaxMessage {
			return fmt.Errorf("frame %d is to have %d bytes, and no message has more than %d: this is not what sub -o frames writes",
				n, size, msgmux.MaxMessage)
		}
		if int(size) > len(message) {
			message = make([]byte, size)
		}
		if _, err := io.ReadFull(reader, message[:size]); err != nil {
			return cutOff(n, err)
		}
		if err := f(message[:size], int(size) > in.limit); err != nil {
			return err
		}
	}
}

// cutOff is the error for an input that ends in the middle of a frame, or cannot be read.
func cutOff(frame int, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the input ends in the middle of frame %d", frame)
	}
	return err
}

// splitChunks gives messages of size bytes each, the last one of what is left.
func splitChunks(in input, size int, f take) error {
	chunk := make([]byte, size)
	for {
		n, err := io.ReadFull(in, chunk)
		if n > 0 {
			if err := f(chunk[:n], n > in.limit); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}
