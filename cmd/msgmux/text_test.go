// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"
)

// TestSplitKeepsEveryByte takes inputs apart, in one piece and byte by byte, around the limit and around the buffer.
func TestSplitKeepsEveryByte(t *testing.T) {
	long := strings.Repeat("x", 70_000)
	for _, test := range []struct {
		input string
		limit int
		keep  bool
		want  []string // what is too large is marked with a "!" in front
	}{
		{input: "", limit: 10},
		{input: "a\nb\n", limit: 10, want: []string{"a", "b"}},
		{input: "a\nb", limit: 10, want: []string{"a", "b"}},
		{input: "a\r\n", limit: 10, want: []string{"a\r"}},
		{input: "\n\na\n\n", limit: 10, want: []string{"a"}},
		{input: "\n\na\n\n", limit: 10, keep: true, want: []string{"", "", "a", ""}},
		{input: "a\n", limit: 10, keep: true, want: []string{"a"}},
		{input: "\n", limit: 10, keep: true, want: []string{""}},
		{input: "12345\n123456\n1", limit: 5, want: []string{"12345", "!12345", "1"}},
		{input: "123456", limit: 5, want: []string{"!12345"}},
		{input: long + "\nb", limit: 70_000, want: []string{long, "b"}},
		{input: long + "y\nb", limit: 70_000, want: []string{"!" + long, "b"}},
		{input: long + long + "\nb\n", limit: 5, want: []string{"!xxxxx", "b"}},
		{input: long + long + long, limit: 65536, want: []string{"!" + long[:65536]}},
		{input: "\xff\x00\n", limit: 10, want: []string{"\xff\x00"}},
	} {
		for _, delimiter := range []byte{'\n', 0} {
			swap := strings.NewReplacer().Replace
			if delimiter == 0 {
				swap = strings.NewReplacer("\n", "\x00", "\x00", "\n").Replace
			}
			for name, reader := range map[string]io.Reader{
				"whole":   strings.NewReader(swap(test.input)),
				"bytes":   iotest.OneByteReader(strings.NewReader(swap(test.input))),
				"dataEOF": iotest.DataErrReader(strings.NewReader(swap(test.input))),
			} {
				var got []string
				err := split(reader, delimiter, test.limit, test.keep, func(message []byte, tooLarge bool) error {
					text := string(message)
					if tooLarge {
						text = "!" + text
					}
					got = append(got, text)
					return nil
				})
				var want []string
				for _, w := range test.want {
					want = append(want, swap(w))
				}
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("%.30q by %q, %s: got %.60q and %v", test.input, delimiter, name, got, err)
				}
			}
		}
	}
}

// TestSplitEndsAtErrors of the input and of the receiver.
func TestSplitEndsAtErrors(t *testing.T) {
	broken, enough := errors.New("broken"), errors.New("enough")
	got := 0
	count := func([]byte, bool) error { got++; return nil }
	input := io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(broken))
	if err := split(input, '\n', 10, false, count); !errors.Is(err, broken) || got != 2 {
		t.Errorf("got %d and %v", got, err)
	}
	if err := split(strings.NewReader("a\nb\n"), '\n', 10, false, func([]byte, bool) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
}

// TestVisibleDisarmsTerminals keeps text and shows what would act.
func TestVisibleDisarmsTerminals(t *testing.T) {
	for text, want := range map[string]string{
		"plain text\twith tab\nand line": "plain text\twith tab\nand line",
		"héllo wörld 日本 🙂":               "héllo wörld 日本 🙂",
		"\x1b[31mred\x07\x00\r":          `\x1b[31mred\x07\x00\x0d`,
		"\x7f":                           `\x7f`,
		"\u009b31m":                      `\u{9b}31m`,
		"a\u202egnp.exe":                 `a\u{202e}gnp.exe`,
		"\xff\xfe ok \xc3":               `\xff\xfe ok \xc3`,
		"\ufffd":                         "\ufffd",
		`back\slash`:                     `back\slash`,
	} {
		if got := string(appendVisible(nil, []byte(text))); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	random := make([]byte, 100_000)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	got := appendVisible(nil, random)
	if !utf8.Valid(got) || strings.ContainsFunc(string(got), func(r rune) bool { return r != '\n' && r != '\t' && isActive(r) }) {
		t.Error("random bytes got through")
	}
}

// TestPeopleReadNumbers in the forms of the tables.
func TestPeopleReadNumbers(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", 1<<64 - 1: "18,446,744,073,709,551,615"} {
		if got := commas(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
	for n, want := range map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.00 KiB", 10239: "10.0 KiB", 102399: "100 KiB", 1<<20 - 1: "1.00 MiB",
		16 << 20: "16.0 MiB", 1 << 60: "1024 PiB",
	} {
		if got := byteCount(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
	for d, want := range map[time.Duration]string{
		-time.Second: "0 s", 0: "0 ms", 1500 * time.Millisecond: "1.5 s", 90 * time.Second: "1 min 30 s",
		3*time.Hour + 5*time.Minute: "3 h 5 min", 49 * time.Hour: "2 days",
	} {
		if got := roughly(d); got != want {
			t.Errorf("%v: %s", d, got)
		}
	}
}

// TestDurationsOfFlags in Go's form and as seconds.
func TestDurationsOfFlags(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1.5s": 1500 * time.Millisecond, "5": 5 * time.Second, "0.25": 250 * time.Millisecond, "2m": 2 * time.Minute,
		"": 0, "0": 0, "-1": 0, "x": 0, "Inf": 0, "NaN": 0, "1e300": 0,
	} {
		var s span
		if err := s.Set(text); (err != nil) != (want == 0) || time.Duration(s) != want {
			t.Errorf("%q: %v and %v", text, time.Duration(s), err)
		}
	}
	var p patience
	for text, want := range map[string]string{"0": "0s", "2": "2s", "1m30s": "1m30s", "forever": "forever"} {
		if err := p.Set(text); err != nil || p.String() != want {
			t.Errorf("patience %q: %s and %v", text, p.String(), err)
		}
	}
}

// TestLatenciesHaveThreeDigits and the unit that fits.
func TestLatenciesHaveThreeDigits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.00 us", 3456: "3.46 us", 121_400: "121 us", 9_996 * time.Microsecond: "10.0 ms", 8654 * time.Microsecond: "8.65 ms",
		231 * time.Millisecond: "231 ms", 12_345 * time.Millisecond: "12.3 s", 20 * time.Minute: "1200 s",
	} {
		if got := threeDigits(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

// TestTablesLineUp texts on the left, numbers on the right.
func TestTablesLineUp(t *testing.T) {
	got := string(table{{"NAME", "count"}, {"a", "1,234"}, {"wörld", "5"}}.append(nil))
	if want := "NAME   count\na      1,234\nwörld      5\n"; got != want {
		t.Errorf("got %q", got)
	}
}
