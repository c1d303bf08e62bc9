// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// isTerminal tells whether a file is a terminal. The usual way is an ioctl, which this program has no access to; the
// kernel also lists the device numbers of all its terminals, in /proc/tty/drivers.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	device, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	major, minor := splitDevice(device.Rdev)
	drivers, err := os.Open("/proc/tty/drivers")
	if err != nil {
		return major >= 136 && major <= 143 // without /proc: the pseudo-terminals, which have these since devpts is there
	}
	defer drivers.Close()
	// A line is: name, device, major, minor or range of minors, type.
	for lines := bufio.NewScanner(drivers); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		first, last, ranged := strings.Cut(fields[3], "-")
		if !ranged {
			last = first
		}
		low, err1 := strconv.ParseUint(first, 10, 32)
		high, err2 := strconv.ParseUint(last, 10, 32)
		if err1 == nil && err2 == nil && fields[2] == strconv.FormatUint(major, 10) && minor >= low && minor <= high {
			return true
		}
	}
	return false
}

// splitDevice takes a device number apart as gnu_dev_major and gnu_dev_minor do (makedev(3)).
func splitDevice(device uint64) (major, minor uint64) {
	return device>>8&0xfff | device>>32&^uint64(0xfff), device&0xff | device>>12&^uint64(0xff)
}

// appendVisible appends text so that it can do nothing to a terminal: control bytes but tab and newline, bytes that are
// no UTF-8, and the marks that turn the direction of writing become \xNN or \u{NNNN}. A backslash stays as it is; this
// is for reading, not for reading back.
func appendVisible(dst, text []byte) []byte {
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && size == 1, r < utf8.RuneSelf && r != '\t' && r != '\n' && unicode.IsControl(r):
			dst = fmt.Appendf(dst, `\x%02x`, text[0])
		case r >= utf8.RuneSelf && isActive(r):
			dst = fmt.Appendf(dst, `\u{%x}`, r)
		default:
			dst = append(dst, text[:size]...)
		}
		text = text[size:]
	}
	return dst
}

// isActive tells whether a character does something instead of standing for itself: the C1 controls, which some
// terminals take for escape sequences, and the marks of direction, which make text look like what it is not.
func isActive(r rune) bool {
	return unicode.IsControl(r) || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

// controls are the two that appendVisible leaves as they are.
var controls = strings.NewReplacer("\n", `\n`, "\t", `\t`)

// visible is appendVisible for strings in tables, where a newline has no place either. Most have nothing to hide.
func visible(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return s
	}
	return controls.Replace(string(appendVisible(nil, []byte(s))))
}
