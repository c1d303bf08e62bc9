// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"math"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// maxLabel is the longest label and the longest name of a share, in bytes.
const maxLabel = 64

// Forever is the patience of a sink that must have everything.
const Forever time.Duration = math.MaxInt64

// ParsePatience reads a duration as Go writes it ("0", "1.5s", "2m30s"), not negative, or "forever". The error is an
// *Error with CodeBadOption.
func ParsePatience(s string) (time.Duration, error) {
	if s == "forever" {
		return Forever, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, Refuse(CodeBadOption, "cannot use %s as patience: want a duration as in 1.5s, or forever", quote(s))
	}
	return d, nil
}

// FormatPatience writes what ParsePatience reads; d must not be negative.
func FormatPatience(d time.Duration) string {
	if d == Forever {
		return "forever"
	}
	return d.String()
}

// Options are what a sink may ask for. The zero value is a sink that asks for nothing.
type Options struct {
	Label       string        // [A-Za-z0-9_.-]{1,64}, or "": the broker makes one up
	Patience    time.Duration // valid when PatienceSet; 0 is never waited for
	PatienceSet bool          // false: the broker's default holds
	Start       Start
	Share       string // the name of the share to join, the alphabet of Label, or ""
	Tap         bool   // only look on; not together with Share, nor with patience
	Frames      bool   // a datagram sink that wants packets of records; goes without saying on subscribe
	Reply       bool   // answer the registration
}

// Set sets the option of that name, as a line "key=value" does. On an error nothing is set; it is an *Error with
// CodeBadOption or CodeUnknownOption.
func (o *Options) Set(key, value string) error {
	var (
		next = *o
		err  error
	)
	switch key {
	case "label":
		next.Label, err = parseLabel(key, value)
	case "patience":
		next.Patience, err = ParsePatience(value)
		next.PatienceSet = true
	case "start":
		next.Start, err = parseStart(value)
	case "share":
		next.Share, err = parseLabel(key, value)
	case "tap":
		next.Tap, err = parseYes(key, value)
	case "frames":
		next.Frames, err = parseYes(key, value)
	case "reply":
		next.Reply, err = parseYes(key, value)
	default:
		return Refuse(CodeUnknownOption,
			"there is no option %s; there are label, patience, start, share, tap, frames, reply", quote(key))
	}
	switch {
	case err != nil:
		return err
	case next.Tap && next.Share != "":
		return Refuse(CodeBadOption, "tap=yes does not go with share: a member of a share takes messages from the others")
	case next.Tap && next.Patience != 0:
		return Refuse(CodeBadOption, "tap=yes does not go with patience: a tap is never waited for")
	}
	*o = next
	return nil
}

// AppendLines appends the options that differ from the zero value, each as "key=value\n", in a fixed order.
// ParseOptionLines reads them back, provided that the values are ones that Set takes.
func (o Options) AppendLines(dst []byte) []byte {
	line := func(key, value string) {
		dst = append(append(append(append(dst, key...), '='), value...), '\n')
	}
	if o.Label != "" {
		line("label", o.Label)
	}
	if o.PatienceSet {
		line("patience", FormatPatience(o.Patience))
	}
	if o.Start != StartNow {
		line("start", o.Start.String())
	}
	if o.Share != "" {
		line("share", o.Share)
	}
	if o.Tap {
		line("tap", "yes")
	}
	if o.Frames {
		line("frames", "yes")
	}
	if o.Reply {
		line("reply", "yes")
	}
	return dst
}

// ParseOptionLines reads options, one "key=value" a line: the file of a static sink. Empty lines and lines that begin
// with '#' are skipped and lines may end in CR LF, here and wherever else options stand in lines. Of any length, which is
// for who reads the file to bound. The error is an *Error.
func ParseOptionLines(text []byte) (Options, error) {
	if err := checkText(text, math.MaxInt); err != nil {
		return Options{}, err
	}
	return parseOptions(string(text), nil)
}

// ParseSinkFlag reads a static sink from the command line: "/absolute/path" or "/absolute/path,option=value,...". The
// path ends at the first comma. The error is an *Error.
func ParseSinkFlag(s string) (Address, Options, error) {
	name, rest, some := strings.Cut(s, ",")
	if !path.IsAbs(name) {
		return Address{}, Options{}, Refuse(CodeBadAddress, "cannot use %s as a static sink: want an absolute path", quote(name))
	}
	addr, err := ParseAddress(name)
	if err != nil || !some {
		return addr, Options{}, err
	}
	var seen keys
	var o Options
	for option := range strings.SplitSeq(rest, ",") {
		if err := seen.set(&o, option); err != nil {
			return Address{}, Options{}, err
		}
	}
	return addr, o, nil
}

// keys are the options that were given so far: of two that contradict each other neither is obeyed.
type keys []string

// set sets one "key=value" in o.
func (k *keys) set(o *Options, option string) error {
	key, value, ok := strings.Cut(option, "=")
	if slices.Contains(*k, key) {
		return Refuse(CodeBadOption, "the option %s stands there twice", quote(key))
	}
	if !ok {
		return Refuse(CodeBadText, "cannot read %s: want option=value", quote(option))
	}
	*k = append(*k, key)
	return o.Set(key, value)
}

// parseOptions reads option lines from text that checkText has seen. If word is not nil it is asked first about every
// line; it returns true for one that it has dealt with.
func parseOptions(text string, word func(line string) (bool, error)) (Options, error) {
	var seen keys
	var o Options
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSuffix(line, "\r")
		if line == "" || line[0] == '#' {
			continue
		}
		if word != nil {
			if done, err := word(line); err != nil {
				return Options{}, err
			} else if done {
				continue
			}
		}
		if err := seen.set(&o, line); err != nil {
			return Options{}, err
		}
	}
	return o, nil
}

// checkText judges a text as a whole.
func checkText(text []byte, limit int) error {
	switch {
	case len(text) > limit:
		return Refuse(CodeTooLarge, "the text has %d bytes, at most %d are read", len(text), limit)
	case !utf8.Valid(text):
		return Refuse(CodeBadText, "the text is not UTF-8")
	}
	return nil
}

// cutLine takes the first line off a text.
func cutLine(text string) (line, rest string) {
	line, rest, _ = strings.Cut(text, "\n")
	return strings.TrimSuffix(line, "\r"), rest
}

// parseLabel reads the value of label or share, whichever key says.
func parseLabel(key, value string) (string, error) {
	odd := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_.-", r)
	}
	if value == "" || len(value) > maxLabel || strings.ContainsFunc(value, odd) {
		return "", Refuse(CodeBadOption, "cannot use %s as %s: want 1 to %d of A-Z a-z 0-9 _ . -", quote(value), key, maxLabel)
	}
	return value, nil
}

// parseYes reads the value of an option that is on or off.
func parseYes(key, value string) (bool, error) {
	switch value {
	case "yes":
		return true, nil
	case "no":
		return false, nil
	}
	return false, Refuse(CodeBadOption, "cannot use %s as %s: want yes or no", quote(value), key)
}
