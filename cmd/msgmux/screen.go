// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/internal/sys"
)

// screen is a terminal that shows one picture after the other, and afterwards what it showed before.
type screen struct {
	out     *os.File
	style   style
	restore func() // the settings of the keyboard; nil: it has none
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
	s := &screen{out: out, style: styleOf(os.Getenv)}
	return s, s.take()
}

// take shows the other screen, without a cursor (console_codes(4), and xterm's "alternate screen buffer").
func (s *screen) take() error {
	if restore, err := sys.KeyByKey(int(s.out.Fd())); err == nil && s.restore == nil {
		s.restore = restore
	}
	_, err := s.out.WriteString("\x1b[?1049h\x1b[?25l")
	return err
}

// close gives the terminal back as it was.
func (s *screen) close() {
	s.out.WriteString("\x1b[?25h\x1b[?1049l")
	if s.restore != nil {
		s.restore()
		s.restore = nil
	}
}

// suspend gives the terminal back and stops this process, as Ctrl-Z does with a program that catches nothing. It returns
// when the process goes on, which resumed tells. Where nobody would wake it the kernel does not stop it (setpgid(2),
// orphaned process groups): then it goes on at once.
func (s *screen) suspend(resumed <-chan os.Signal) error {
	const soon = 200 * time.Millisecond
	s.close()
	restore, err := sys.DefaultAction(syscall.SIGTSTP)
	if err == nil {
		_ = syscall.Kill(os.Getpid(), syscall.SIGTSTP) // oneself can always be told
		select {
		case <-resumed:
		case <-time.After(soon):
		}
		restore()
	}
	return s.take()
}

// keys gives what is typed, until the terminal is closed: a letter as itself, and what has no letter by a name. Where the
// terminal cannot be read there are none.
func (s *screen) keys() <-chan string {
	typed := make(chan string)
	go func() {
		buffer := make([]byte, 64)
		for {
			n, err := s.out.Read(buffer)
			if err != nil || n == 0 {
				return
			}
			for _, key := range splitKeys(string(buffer[:n])) {
				typed <- key
			}
		}
	}()
	return typed
}

// The names of keys that send more than a letter (xterm's "ctlseqs", in both modes of the cursor keys).
var keyNames = map[string]string{
	"\x1b[A": "up", "\x1bOA": "up", "\x1b[B": "down", "\x1bOB": "down", "\x1b[5~": "page up", "\x1b[6~": "page down",
	"\x1b[H": "home", "\x1bOH": "home", "\x1b[1~": "home",
}

// splitKeys takes apart what one read has given. An escape sequence without a name is no key.
func splitKeys(text string) (keys []string) {
	for text != "" {
		if text[0] != '\x1b' {
			keys, text = append(keys, text[:1]), text[1:]
			continue
		}
		// ESC, [ or O, parameters, and a final byte (ECMA-48, 5.4).
		end := 1
		if end < len(text) && (text[end] == '[' || text[end] == 'O') {
			end++
			for end < len(text) && (text[end] < '@' || text[end] > '~') {
				end++
			}
			end = min(end+1, len(text))
		}
		if name := keyNames[text[:end]]; name != "" {
			keys = append(keys, name)
		}
		text = text[end:]
	}
	return keys
}

// show replaces the picture. It is written by one call, and over the old one, so that nothing flickers.
func (s *screen) show(v *view) error {
	columns, rows := terminalSize(s.out)
	var text strings.Builder
	text.WriteString("\x1b[H")
	for i, line := range picture(v, columns, rows, s.style) {
		if i > 0 {
			text.WriteString("\r\n")
		}
		text.WriteString(line)
		// Behind the last column the cursor stands on the last character, which would be erased.
		if textWidth(line) < columns {
			text.WriteString("\x1b[K")
		}
	}
	text.WriteString("\x1b[J")
	_, err := s.out.WriteString(text.String())
	return err
}

// isTerminal tells whether a file is a terminal.
func isTerminal(f *os.File) bool { return sys.IsTerminal(int(f.Fd())) }

// terminalSize is how many columns and rows a terminal has; one that does not tell has what the environment says.
func terminalSize(f *os.File) (columns, rows int) {
	if columns, rows = sys.TerminalSize(int(f.Fd())); columns > 0 && rows > 0 {
		return columns, rows
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
