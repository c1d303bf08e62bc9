// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// picture is the channel in at most rows lines of at most columns columns: what it is doing, and as many sinks as there is
// room for, in the order that was asked for, from the one that was scrolled to.
func picture(v *view, columns, rows int, s style) []string {
	lines := headLines(v, s)
	switch {
	case v.help:
		lines = append(lines[:1], helpLines...)
	case v.trouble != nil:
		lines = append(lines[:min(len(lines), max(rows-1, 1))],
			paint(s, red, "no answer for "+roughly(time.Since(v.troubled))+": "+visible(v.trouble.Error())))
	case len(v.sinks) > 0:
		// A small terminal shows sinks before it shows the channel in full; whether sources wait it shows always.
		const sinksFirst = 4
		switch room := rows - sinksFirst; {
		case room >= len(lines)+1:
			lines = append(lines, "")
		case room >= len(lines):
		case room >= 2:
			lines = lines[1:3]
		default:
			lines = lines[1:2]
		}
		lines = append(lines, sinkLines(v, columns, max(rows-len(lines), 1), s)...)
	}
	for i, line := range lines {
		lines[i] = cut(line, columns, s)
	}
	return lines[:min(len(lines), max(rows, 1))]
}

// helpLines explain the keys.
var helpLines = []string{
	"",
	"q            leave                      Ctrl-Z   stop; fg goes on",
	"s            sort by the next of: trouble, name, rate, lag, lost",
	"j k, arrows  scroll the sinks           Home     to the first",
	"space        stand still, or go on      Ctrl-L   draw anew",
	"?            this page, and away",
	"",
	"! lagging: left behind, and losing      ? absent: nobody is there",
	"* stalled: its queue is full, it is waited for",
}

// headLines are about the channel as a whole. What matters most stands first in each: the rest may be cut off.
func headLines(v *view, s style) []string {
	st := v.status
	name := st.RuntimeDir
	if st.Channel != "" {
		name = st.Channel
	}
	sources := "sources go on"
	if st.Sources.Blocked {
		sources = paint(s, red, fmt.Sprintf("SOURCES WAIT %s: %s", roughly(seconds(st.Sources.ForSeconds)), visible(st.Sources.Why)))
	}
	lost := fmt.Sprintf("lost %s, %s/s", commas(st.Lost), commas(uint64(v.lost.last())))
	if v.lost.last() > 0 {
		lost = paint(s, red, lost)
	}
	still := ""
	if v.still {
		still = "  STANDS STILL"
	}
	behind := fmt.Sprintf("no sink is behind; the ring has %s", byteCount(st.Buffer))
	if far := furthest(v.ordered()); far != nil {
		behind = fmt.Sprintf("%.0f%% of the ring: %s", percent(far.LagBytes, st.Buffer), visible(far.Label))
	}
	const width = 20
	return []string{
		fmt.Sprintf("%s  %s%s  up %s  sinks %s  (q: leave, ?: help)", visible(name), v.at.Format(time.TimeOnly), still,
			roughly(v.at.Sub(time.Unix(st.SinceUnix, 0))), sinkCounts(st.Sinks)),
		fmt.Sprintf("in  %8s/s %s  %s", commas(uint64(v.in.last())), spark(v.in, width, 0, s), sources),
		fmt.Sprintf("out %8s/s %s  %s", commas(uint64(v.out.last())), spark(v.out, width, 0, s), lost),
		fmt.Sprintf("lag %10s %s  %s", byteCount(uint64(v.lag.last())), spark(v.lag, width, float64(st.Buffer), s), behind),
	}
}

// furthest is the sink that is furthest behind, nil if none is.
func furthest(sinks []wire.Sink) (far *wire.Sink) {
	for i, s := range sinks {
		if s.LagBytes > 0 && (far == nil || s.LagBytes > far.LagBytes) {
			far = &sinks[i]
		}
	}
	return far
}

// columnsByWorth are those of the table of sinks, the most important ones first: as many are shown as fit. The spark lines
// are two of them, and take what room is left. For the eye it is what a sink is doing beside its name, numbers, pictures.
var columnsByWorth = []string{
	"SINK", "STATE", "rate/s", "lag", "lost", rateSpark, lagSpark, "waiting", "left", niceToKnow, "USER", "KIND", "since", "ADDRESS",
}

const (
	rateSpark, lagSpark = "RATE", "LAG"
	sparkMin, sparkMax  = 6, 60
	// sparkGood is how wide they are to be before there is room for what is only nice to know.
	sparkGood  = 16
	niceToKnow = "accepted" // and what stands behind it
	// labelMax is how much of a label is shown where that leaves room for other columns.
	labelMax = 24
)

// sinkLines is the table of the sinks, fitted into so many columns and rows.
func sinkLines(v *view, columns, rows int, s style) []string {
	sinks := v.ordered()
	above := min(v.scrolled, max(len(sinks)-max(rows-2, 1), 0))
	sinks = sinks[above:]
	left := 0
	if len(sinks) > rows-1 {
		left = len(sinks) - max(rows-2, 1)
		sinks = sinks[:len(sinks)-left]
	}
	t := sinkTable(columnsByWorth, sinks, v.at, func(k *wire.Sink) string { return commas(uint64(v.sinks[k.ID].rate.last())) })
	var most float64 // all rates are drawn to one scale, so that the slower sink shows
	for n, k := range sinks {
		t[n+1][0] = cut(mark(k)+t[n+1][0], max(min(labelMax, columns), 1), s)
		most = max(most, slices.Max(append(slices.Clip(v.sinks[k.ID].rate), 0)))
	}
	chosen, width := chooseColumns(t, columns)
	for n, k := range sinks {
		w := v.sinks[k.ID]
		t[n+1][slices.Index(columnsByWorth, rateSpark)] = spark(w.rate, width, most, s)
		t[n+1][slices.Index(columnsByWorth, lagSpark)] = spark(w.lag, width, float64(v.status.Buffer), s)
	}
	for n := range t {
		t[n] = t[n][:chosen]
	}
	lines := t.lines()
	for n, k := range sinks {
		lines[n+1] = paint(s, colourOf(k), lines[n+1])
	}
	switch {
	case left > 0 && above > 0:
		lines = append(lines, fmt.Sprintf("%s %d above, and %s more", s.more, above, plural(uint64(left), "sink")))
	case left > 0:
		lines = append(lines, fmt.Sprintf("%s and %s more", s.more, plural(uint64(left), "sink")))
	}
	return lines
}

// chooseColumns says how many columns of the table fit, and how wide its spark lines are, which are not in it yet.
func chooseColumns(t table, columns int) (chosen, width int) {
	used, sparks, nice := 0, 0, false
	for i, need := range t.widths() {
		name, better := t[0][i], 0
		isSpark := name == rateSpark || name == lagSpark
		if isSpark {
			need = sparkMin
		}
		if i > 0 {
			need += len(between)
		}
		if nice = nice || name == niceToKnow; nice {
			better = sparks * (sparkGood - sparkMin)
		}
		if used+need+better > columns && i > 0 {
			break
		}
		used, chosen = used+need, i+1
		if isSpark {
			sparks++
		}
	}
	return chosen, min(sparkMax, sparkMin+(columns-used)/max(sparks, 1))
}

// byTrouble orders sinks for who looks for the cause of something: those that are left behind, those that are not there,
// and the others by how many eighths of the ring they are behind. A finer measure would have the lines jump about.
func byTrouble(buffer uint64) func(a, b wire.Sink) int {
	trouble := func(s wire.Sink) uint64 {
		switch s.State {
		case "lagging":
			return 11
		case "absent":
			return 10
		}
		return min(8*s.LagBytes/max(buffer, 1), 8)
	}
	return func(a, b wire.Sink) int {
		return cmp.Or(cmp.Compare(trouble(b), trouble(a)), cmp.Compare(a.Label, b.Label), cmp.Compare(a.ID, b.ID))
	}
}

// mark tells the state of a sink without colours and in one character.
func mark(s wire.Sink) string {
	switch s.State {
	case "lagging":
		return "!"
	case "absent":
		return "?"
	case "stalled":
		return "*"
	}
	return " "
}

// stateWord is the state, and since when if it is a bad one.
func stateWord(s wire.Sink, now time.Time) string {
	if s.LaggingSince > 0 {
		return visible(s.State) + " " + roughly(now.Sub(time.Unix(s.LaggingSince, 0)))
	}
	if s.KeptUntil > 0 {
		return visible(s.State) + ", kept " + roughly(time.Unix(s.KeptUntil, 0).Sub(now))
	}
	return visible(s.State)
}

// Colours (console_codes(4), "Select Graphic Rendition").
const (
	red     = "31"
	yellow  = "33"
	magenta = "35"
)

func colourOf(s wire.Sink) string {
	switch s.State {
	case "lagging":
		return red
	case "absent":
		return magenta
	case "stalled":
		return yellow
	}
	return ""
}

// paint gives text a colour, if there are any.
func paint(s style, colour, text string) string {
	if !s.colour || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// spark is the end of a history as a line of bars, so many characters wide, to a scale that ends at most; 0: at the
// highest that is shown. Bars grow from the right.
func spark(h history, width int, most float64, s style) string {
	h = h[max(0, len(h)-width):]
	if most == 0 && len(h) > 0 {
		most = slices.Max(h)
	}
	line := []rune(strings.Repeat(" ", width-len(h)))
	for _, v := range h {
		bar := 0
		if most > 0 && v > 0 {
			bar = min(len(s.bars)-1, int(v/most*float64(len(s.bars))))
		}
		line = append(line, s.bars[bar])
	}
	return string(line)
}
