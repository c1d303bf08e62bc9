// SPDX-License-Identifier: Apache-2.0

//go:build ignore

// A source: each line of standard input becomes a message. Waits while the channel takes none.
package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log"
	"os"

	msgmux "github.com/msgmux/msgmux/client"
)

func main() {
	channel, err := msgmux.Default()
	if err != nil {
		log.Fatal(err)
	}
	source, err := channel.Dial(context.Background(), msgmux.SourceOptions{})
	for input, end := bufio.NewReader(os.Stdin), error(nil); err == nil && end == nil; {
		var line []byte
		line, end = input.ReadBytes('\n') // of any length
		if len(line) > 0 {
			err = source.Send(context.Background(), bytes.TrimSuffix(line, []byte("\n")))
		}
		if end != nil && end != io.EOF {
			err = end
		}
	}
	if err != nil {
		log.Fatal(err)
	}
}
