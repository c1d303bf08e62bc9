// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// screen is a terminal that shows one picture after the other, and afterwards what it showed before.
type screen struct {
	out   *os.File
	style style
}

// style is what a terminal can show.
type style struct {
	colour bool
	bars   []rune // from nothing to full
	more   string // stands for what was cut off
}

// What a spark line is made of, where letters have more than 7 bits and where not.
var (
	unicodeBars = []rune("▁▂▃▄▅▆▇█")
	asciiBars   = []rune("_.-=+*#@")
)

// styleOf finds out from the environment what a terminal can show (locale(7), https://no-color.org).
func styleOf(getenv func(string) string) style {
	s := style{colour: getenv("NO_COLOR") == "", bars: asciiBars, more: "~"}
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if value := getenv(name); value != "" {
			if v := strings.ToUpper(value); strings.Contains(v, "UTF-8") || strings.Contains(v, "UTF8") {
				s.bars, s.more = unicodeBars, "…"
			}
			break
		}
	}
	return s
}

// openScreen takes the terminal.
func openScreen(out *os.File) (*screen, error) {
	// The other screen, without a cursor (console_codes(4), and xterm's "alternate screen buffer").
	if _, err := out.WriteString("\x1b[?1049h\x1b[?25l"); err != nil {
		return nil, err
	}
	return &screen{out: out, style: styleOf(os.Getenv)}, nil
}

// close gives the terminal back.
func (s *screen) close() { s.out.WriteString("\x1b[?25h\x1b[?1049l") }

// show replaces the picture. It is written by one call, and over the old one, so that nothing flickers.
func (s *screen) show(v *view) error {
	columns, rows := terminalSize(s.out)
	var text strings.Builder
	text.WriteString("\x1b[H")
	for i, line := range picture(v, columns, rows, s.style) {
		if i > 0 {
			text.WriteByte('\n')
		}
		text.WriteString(line)
		// Behind the last column the cursor stands on the last character, which would be erased.
		if visibleLength(line) < columns {
			text.WriteString("\x1b[K")
		}
	}
	text.WriteString("\x1b[J")
	_, err := s.out.WriteString(text.String())
	return err
}

// terminalSize is how many columns and rows a terminal has. There is a system call for it, which this program has no
// access to, and a tool that every system has: stty(1).
func terminalSize(f *os.File) (columns, rows int) {
	cmd := exec.Command("stty", "size")
	cmd.Stdin = f
	if out, err := cmd.Output(); err == nil {
		if _, err := fmt.Sscan(string(out), &rows, &columns); err == nil && columns > 0 && rows > 0 {
			return columns, rows
		}
	}
	columns, rows = 80, 24
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		columns = n
	}
	if n, err := strconv.Atoi(os.Getenv("LINES")); err == nil && n > 0 {
		rows = n
	}
	return columns, rows
}
