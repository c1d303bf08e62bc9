// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/msgmux/msgmux/units/rig/load/tally"
)

// entrySize is the size of an entry in a log: source and number of a message, little-endian.
const entrySize = 4 + 8

// spoiled is the entry of a message that is not whole.
var spoiled = [entrySize]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// messageLog is what a sink has written down of the messages it got, for a successor. A message is written down, with one
// write(2), while it is still in the socket, and taken from the socket after that: a kill in between loses nothing, and the
// successor finds as the first message in its socket the one that the log ends with.
type messageLog struct {
	file *os.File
	last *[entrySize]byte // the newest entry of the predecessor, until the first message has been looked at
}

// openLog opens a log, made if need be, and counts what is in it.
func openLog(name string, t *tally.Tally) (*messageLog, error) {
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot open log: %w", err)
	}
	text, err := io.ReadAll(file)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot read log: %w", err)
	}
	l := &messageLog{file: file}
	for ; len(text) >= entrySize; text = text[entrySize:] {
		e := [entrySize]byte(text)
		l.last = &e
		count(t, e)
	}
	return l, nil
}

// note writes down and counts a message that is still in its socket, unless the predecessor has.
func (l *messageLog) note(t *tally.Tally, message []byte) error {
	e := spoiled
	if source, number, ok := tally.Get(message); ok {
		binary.LittleEndian.PutUint32(e[:], source)
		binary.LittleEndian.PutUint64(e[4:], number)
	}
	last := l.last
	l.last = nil
	if last != nil && *last == e {
		return nil
	}
	if _, err := l.file.Write(e[:]); err != nil {
		return fmt.Errorf("cannot write log: %w", err)
	}
	count(t, e)
	return nil
}

// count counts an entry.
func count(t *tally.Tally, e [entrySize]byte) {
	if e == spoiled {
		t.Add(nil)
		return
	}
	t.Note(binary.LittleEndian.Uint32(e[:]), binary.LittleEndian.Uint64(e[4:]))
}

// replay is the command that reports what a log holds.
func replay(arguments []string, _ <-chan struct{}) (any, error) {
	flags := flag.NewFlagSet("replay", flag.ContinueOnError)
	name := flags.String("log", "", "`FILE` of a sink with --log")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	var t tally.Tally
	l, err := openLog(*name, &t)
	if err != nil {
		return nil, err
	}
	l.file.Close()
	return []tally.Sink{t.Report(*name)}, nil
}
