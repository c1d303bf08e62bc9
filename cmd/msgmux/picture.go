// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/msgmux/msgmux/internal/wire"
)

// picture is the channel in at most rows lines of at most columns characters: what it is doing, and as many sinks as
// there is room for, those in trouble first.
func picture(v *view, columns, rows int, s style) []string {
	lines := headLines(v, s)
	if v.trouble != nil {
		lines = append(lines, paint(s, red, "no answer for "+roughly(time.Since(v.troubled))+": "+v.trouble.Error()))
	} else if len(v.sinks) > 0 {
		lines = append(lines, "")
		room := max(rows-len(lines), 1)
		lines = append(lines, sinkLines(v, columns, room, s)...)
	}
	for i, line := range lines {
		lines[i] = cut(line, columns, s)
	}
	return lines[:min(len(lines), max(rows, 1))]
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
	const width = 20
	return []string{
		fmt.Sprintf("%s  %s  up %s", visible(name), v.at.Format(time.TimeOnly), roughly(v.at.Sub(time.Unix(st.SinceUnix, 0)))),
		fmt.Sprintf("in  %8s/s %s  %s", commas(uint64(v.in.last())), spark(v.in, width, 0, s), sources),
		fmt.Sprintf("out %8s/s %s  %s", commas(uint64(v.out.last())), spark(v.out, width, 0, s), lost),
		fmt.Sprintf("ring %3.0f%% of %s  sinks %s", percent(st.Used, st.Buffer), byteCount(st.Buffer), sinkCounts(st.Sinks)),
	}
}

// column is one that the table of sinks may have.
type column struct {
	name  string
	right bool // numbers stand on the right
	cell  func(*watched) string
}

// columnsByWorth are the columns, the most important ones first: as many are shown as fit. The spark lines are two of
// them, and take what room is left.
func columnsByWorth(now time.Time) []column {
	users := map[uint32]string{}
	return []column{
		{"SINK", false, func(w *watched) string { return mark(w.Sink) + visible(w.Label) }},
		{"STATE", false, func(w *watched) string { return stateWord(w.Sink, now) }},
		{"rate/s", true, func(w *watched) string { return commas(uint64(w.rate.last())) }},
		{"lag", true, func(w *watched) string { return byteCount(w.LagBytes) }},
		{"lost", true, func(w *watched) string { return commas(w.Lost) }},
		{rateSpark, false, nil},
		{lagSpark, false, nil},
		{"waiting", true, func(w *watched) string { return commas(w.Waiting) }},
		{"left", true, func(w *watched) string { return patienceLeft(w.Sink) }},
		{"accepted", true, func(w *watched) string { return commas(w.Accepted) }},
		{"USER", false, func(w *watched) string {
			if _, known := users[w.UID]; !known {
				users[w.UID] = userName(w.UID)
			}
			return users[w.UID]
		}},
		{"KIND", false, func(w *watched) string { return kind(w.Sink) }},
		{"since", true, func(w *watched) string { return roughly(now.Sub(time.Unix(w.SinceUnix, 0))) }},
		{"ADDRESS", false, func(w *watched) string { return visible(w.Address) }},
	}
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
	sinks := make([]*watched, 0, len(v.sinks))
	for _, w := range v.sinks {
		sinks = append(sinks, w)
	}
	order := byTrouble(v.status.Buffer)
	slices.SortFunc(sinks, func(a, b *watched) int { return order(a.Sink, b.Sink) })
	left := 0
	if len(sinks) > rows-1 {
		left = len(sinks) - max(rows-2, 1)
		sinks = sinks[:len(sinks)-left]
	}
	all := columnsByWorth(v.at)
	cells := make([][]string, len(all))
	widths := make([]int, len(all))
	var chosen []int
	used, sparks, nice := 0, 0, false
	for i, c := range all {
		widths[i] = utf8.RuneCountInString(c.name)
		if c.cell == nil {
			widths[i] = sparkMin
		} else {
			for _, w := range sinks {
				text := c.cell(w)
				if i == 0 {
					text = cut(text, max(min(labelMax, columns), 1), s)
				}
				cells[i] = append(cells[i], text)
				widths[i] = max(widths[i], utf8.RuneCountInString(text))
			}
		}
		need := widths[i]
		if len(chosen) > 0 {
			need += 2
		}
		nice = nice || c.name == niceToKnow
		if nice {
			need += sparks * (sparkGood - sparkMin)
		}
		if used+need > columns && len(chosen) > 0 {
			break
		}
		if nice {
			need -= sparks * (sparkGood - sparkMin)
		}
		used += need
		chosen = append(chosen, i)
		if c.cell == nil {
			sparks++
		}
	}
	var most float64 // all rates are drawn to one scale, so that the slower sink shows
	for _, w := range sinks {
		most = max(most, slices.Max(append(slices.Clip(w.rate), 0)))
	}
	for _, i := range chosen {
		if all[i].cell != nil {
			continue
		}
		widths[i] = min(sparkMax, sparkMin+(columns-used)/sparks)
		for _, w := range sinks {
			if all[i].name == rateSpark {
				cells[i] = append(cells[i], spark(w.rate, widths[i], most, s))
			} else {
				cells[i] = append(cells[i], spark(w.lag, widths[i], float64(v.status.Buffer), s))
			}
		}
	}
	// For the eye: what a sink is doing beside its name, numbers, pictures. That is their order already.
	lines := make([]string, 0, len(sinks)+2)
	heading := func(i int) string { return all[i].name }
	lines = append(lines, row(all, chosen, widths, heading))
	for n, w := range sinks {
		text := row(all, chosen, widths, func(i int) string { return cells[i][n] })
		lines = append(lines, paint(s, colourOf(w.Sink), text))
	}
	if left > 0 {
		lines = append(lines, fmt.Sprintf("%s and %s more", s.more, plural(uint64(left), "sink")))
	}
	return lines
}

// row is one line of the table.
func row(all []column, chosen, widths []int, cell func(i int) string) string {
	var line strings.Builder
	for k, i := range chosen {
		text := cell(i)
		space := strings.Repeat(" ", max(0, widths[i]-utf8.RuneCountInString(text)))
		if k > 0 {
			line.WriteString("  ")
		}
		if all[i].right {
			line.WriteString(space + text)
		} else {
			line.WriteString(text + space)
		}
	}
	return strings.TrimRight(line.String(), " ")
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

// cut makes text fit into a width, and shows where something is missing. Colours take no room.
func cut(text string, width int, s style) string {
	var out strings.Builder
	n, coloured := 0, false
	for i := 0; i < len(text); {
		if strings.HasPrefix(text[i:], "\x1b[") {
			end := i + strings.IndexByte(text[i:], 'm') + 1
			out.WriteString(text[i:end])
			coloured = text[i:end] != "\x1b[0m"
			i = end
			continue
		}
		if n == width-1 && visibleLength(text[i:]) > 1 {
			out.WriteString(s.more)
			break
		}
		r, size := utf8.DecodeRuneInString(text[i:])
		out.WriteRune(r)
		n++
		i += size
	}
	if coloured {
		out.WriteString("\x1b[0m")
	}
	return out.String()
}

// visibleLength is how many characters of text take room.
func visibleLength(text string) (n int) {
	for i := 0; i < len(text); {
		if strings.HasPrefix(text[i:], "\x1b[") {
			i += strings.IndexByte(text[i:], 'm') + 1
			continue
		}
		_, size := utf8.DecodeRuneInString(text[i:])
		i += size
		n++
	}
	return n
}
