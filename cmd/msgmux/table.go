// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// table is rows of text in columns; the first row has the headings. Headings in lower case mark columns of numbers,
// which stand on the right.
type table [][]string

// append appends the table as text, columns two spaces apart.
func (t table) append(dst []byte) []byte {
	widths, numbers := make([]int, len(t[0])), make([]bool, len(t[0]))
	for i, heading := range t[0] {
		numbers[i] = heading == strings.ToLower(heading)
	}
	for _, row := range t {
		for i, cell := range row {
			widths[i] = max(widths[i], textWidth(cell))
		}
	}
	for _, row := range t {
		for i, cell := range row {
			if i > 0 {
				dst = append(dst, "  "...)
			}
			dst = append(dst, pad(cell, widths[i], numbers[i])...)
		}
		dst = append(bytes.TrimRight(dst, " "), '\n')
	}
	return dst
}

// rateColumn is where the rate stands in the table of sinks.
const rateColumn = 5

// sinkTable has a row for each sink, in the given order. rate, unless it is nil, tells how many messages a second a sink
// accepts.
func sinkTable(sinks []wire.Sink, now time.Time, rate func(*wire.Sink) string) table {
	t := table{{"id", "SINK", "KIND", "USER", "STATE", "rate/s", "waiting", "lag", "patience", "left", "accepted", "lost", "since", "ADDRESS"}}
	users := map[uint32]string{}
	for _, s := range sinks {
		if _, known := users[s.UID]; !known {
			users[s.UID] = userName(s.UID)
		}
		t = append(t, []string{
			strconv.FormatUint(s.ID, 10), visible(s.Label), kind(s), users[s.UID], stateWord(s, now), "",
			commas(s.Waiting), byteCount(s.LagBytes), visible(s.Patience), patienceLeft(s),
			commas(s.Accepted), commas(s.Lost), roughly(now.Sub(time.Unix(s.SinceUnix, 0))), visible(s.Address),
		})
		if rate != nil {
			t[len(t)-1][rateColumn] = rate(&s)
		}
	}
	if rate == nil {
		for i := range t {
			t[i] = slices.Delete(t[i], rateColumn, rateColumn+1)
		}
	}
	return t
}

// kind is a sink's kind with what sets it apart.
func kind(s wire.Sink) string {
	text := visible(s.Kind)
	if s.Tap {
		text += ",tap"
	}
	if s.Share != "" {
		text += ",share=" + visible(s.Share)
	}
	return text
}

// patienceLeft is how long the sink would still be waited for.
func patienceLeft(s wire.Sink) string {
	if s.PatienceLeft < 0 {
		return "-" // forever
	}
	return seconds(s.PatienceLeft).Round(time.Millisecond).String()
}

// userName is the name of a user, or the number of one without.
func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return visible(u.Username)
	}
	return id
}
