// SPDX-License-Identifier: Apache-2.0

// Tailer has each line of a growing file in the channel once, however often it is killed: it tells the channel, with the lines, how
// far it has come, and asks for that when it starts. It knows of no rotation: `msgmux pub --follow` does.
//
//	tailer LABEL FILE
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: tailer LABEL FILE")
		os.Exit(2)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	if err := tail(ctx, os.Args[1], os.Args[2]); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "tailer:", err)
		os.Exit(1)
	}
}

func tail(ctx context.Context, label, path string) error {
	channel, err := msgmux.Default()
	if err != nil {
		return err
	}
	source, err := channel.Dial(ctx, msgmux.SourceOptions{Label: label, Marks: true, Keep: 10 * time.Minute})
	if err != nil {
		return err
	}
	defer source.Close()
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()

	offset := source.Mark() // bytes of the file that are in the channel
	input, batch := bufio.NewReader(nil), source.Batch()
	for ctx.Err() == nil {
		// From the end of the last whole line: what was read of one that had no end yet is read again.
		input.Reset(io.NewSectionReader(file, int64(offset), 1<<62))
		for {
			line, err := input.ReadBytes('\n')
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			if err := batch.Add(ctx, line[:len(line)-1]); err != nil {
				return err
			}
			offset += uint64(len(line))
			if err := batch.Mark(offset); err != nil {
				return err
			}
		}
		if err := batch.Flush(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	return ctx.Err()
}
