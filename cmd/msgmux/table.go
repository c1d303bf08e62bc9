// SPDX-License-Identifier: Apache-2.0

package main

import (
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

// between stands between two columns.
const between = "  "

// widths are those that the columns need.
func (t table) widths() []int {
	widths := make([]int, len(t[0]))
	for _, row := range t {
		for i, cell := range row {
			widths[i] = max(widths[i], textWidth(cell))
		}
	}
	return widths
}

// lines are the rows as text.
func (t table) lines() []string {
	lines, widths := make([]string, 0, len(t)), t.widths()
	for _, row := range t {
		cells := slices.Clone(row)
		for i, heading := range t[0] {
			cells[i] = pad(row[i], widths[i], heading == strings.ToLower(heading))
		}
		lines = append(lines, strings.TrimRight(strings.Join(cells, between), " "))
	}
	return lines
}

// append appends the table as text.
func (t table) append(dst []byte) []byte {
	for _, line := range t.lines() {
		dst = append(append(dst, line...), '\n')
	}
	return dst
}

// sinkColumns are those that commands show once. The rate is known to who has looked before.
var (
	sinkColumns     = []string{"id", "SINK", "KIND", "USER", "STATE", "waiting", "lag", "patience", "left", "accepted", "lost", "since", "ADDRESS"}
	sinkRateColumns = slices.Insert(slices.Clone(sinkColumns), 5, "rate/s")
)

// sinkTable has a row for each sink, in the given order, with those columns that are about a sink as it is; others are empty.
// rate tells how many messages a second a sink accepts, if there is a column for it.
func sinkTable(columns []string, sinks []wire.Sink, now time.Time, rate func(*wire.Sink) string) table {
	t, users := table{columns}, map[uint32]string{}
	for _, s := range sinks {
		if _, known := users[s.UID]; !known {
			users[s.UID] = userName(s.UID)
		}
		cells := map[string]string{
			"id": strconv.FormatUint(s.ID, 10), "SINK": visible(s.Label), "KIND": kind(s), "USER": users[s.UID], "STATE": stateWord(s, now),
			"waiting": commas(s.Waiting), "lag": byteCount(s.LagBytes), "patience": visible(s.Patience), "left": patienceLeft(s),
			"accepted": commas(s.Accepted), "lost": commas(s.Lost), "since": roughly(now.Sub(time.Unix(s.SinceUnix, 0))), "ADDRESS": visible(s.Address),
		}
		if rate != nil {
			cells["rate/s"] = rate(&s)
		}
		row := make([]string, 0, len(columns))
		for _, name := range columns {
			row = append(row, cells[name])
		}
		t = append(t, row)
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
