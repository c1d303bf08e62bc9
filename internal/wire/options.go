// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"math"
	"path"
	"slices"
	"strconv"
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
func ParsePatience(s string) (time.Duration, error) { return parseDuration("patience", s) }

// ParseKeep is ParsePatience for how long a place is kept for somebody who is away.
func ParseKeep(s string) (time.Duration, error) { return parseDuration("keep", s) }

func parseDuration(key, s string) (time.Duration, error) {
	if s == "forever" {
		return Forever, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, Refuse(CodeBadOption, "cannot use %s as %s: want a duration as in 1.5s, or forever", quote(s), key)
	}
	return d, nil
}

// FormatPatience writes what ParsePatience and ParseKeep read; d must not be negative.
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
	Meta        bool   // packets tell the origins of their messages; only with frames
	Reply       bool   // answer the registration
	Prove       bool   // of a registration: who asks holds the socket, and can prove that; only with Reply

	// Of sinks without frames: see onlyPlain.
	NoEmpty bool   // leave messages of no bytes out
	End     End    // what each message ends in
	MaxSize uint32 // leave messages of more bytes out; 0: none
	// Credentials has each message carry its sender's credentials (SCM_CREDENTIALS, unix(7)), and not the broker's.
	Credentials bool

	// Of connections alone: see onlyConnected.
	Ack     bool          // the sink says how far it is done
	Keep    time.Duration // how long its place is kept when its connection goes; 0: not
	From    Position      // where its own books say that it goes on; zero: it does not say
	Replace bool          // in place of a connection that has the same name
	Batch   uint32        // how many messages a member of a share with Ack gets at once; 0: as many as a packet holds
	Mark    bool          // of a source: its packets begin with its mark
	View    bool          // of a sink: it reads the ring itself
	Stage   bool          // of a source: it writes its records to memory that it shares with the broker
}

// onlyConnected is the first option that is set and that only a connection may have, "" if there is none.
func (o *Options) onlyConnected() string {
	for _, c := range []struct {
		key string
		set bool
	}{{"ack", o.Ack}, {"keep", o.Keep != 0}, {"from", o.From != Position{}}, {"replace", o.Replace}, {"batch", o.Batch != 0}, {"mark", o.Mark}, {"view", o.View}, {"stage", o.Stage}} {
		if c.set {
			return c.key
		}
	}
	return ""
}

// onlyPlain is the first option that is set and that only a sink without frames may have, "" if there is none. With frames
// a message of no bytes is seen, and each has its length.
func (o *Options) onlyPlain() string {
	switch {
	case o.NoEmpty:
		return "empty"
	case o.End != EndAsIs:
		return "end"
	case o.MaxSize != 0:
		return "max-size"
	case o.Credentials:
		return "credentials"
	}
	return ""
}

// unconnected refuses what a sink that is no connection cannot ask for, once all options are set.
func (o *Options) unconnected() error {
	if key := o.onlyConnected(); key != "" {
		return Refuse(CodeBadOption, "the option %s is for connections to publish and subscribe only", key)
	}
	if o.Prove && !o.Reply {
		return Refuse(CodeBadOption, "prove=yes goes with reply=yes only: how to prove it is told in the answer")
	}
	if o.Meta && !o.Frames {
		return Refuse(CodeBadOption, "meta=yes goes with frames=yes only: without, a datagram is the message and has no room for it")
	}
	return nil
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
	case "meta":
		next.Meta, err = parseYes(key, value)
	case "reply":
		next.Reply, err = parseYes(key, value)
	case "prove":
		next.Prove, err = parseYes(key, value)
	case "ack":
		next.Ack, err = parseYes(key, value)
	case "keep":
		next.Keep, err = ParseKeep(value)
	case "from":
		next.From, err = ParsePosition(value)
	case "replace":
		next.Replace, err = parseYes(key, value)
	case "batch":
		next.Batch, err = parseBatch(value)
	case "mark":
		next.Mark, err = parseYes(key, value)
	case "view":
		next.View, err = parseYes(key, value)
	case "stage":
		next.Stage, err = parseYes(key, value)
	case "empty":
		var yes bool
		yes, err = parseYes(key, value)
		next.NoEmpty = !yes
	case "end":
		next.End, err = parseEnd(value)
	case "max-size":
		next.MaxSize, err = parseMaxSize(value)
	case "credentials":
		next.Credentials, err = parseCredentials(value)
	default:
		return Refuse(CodeUnknownOption,
			"there is no option %s; there are label, patience, start, share, tap, frames, meta, reply, prove, empty, end, max-size, credentials, ack, keep, from, replace, batch, mark, view, stage", quote(key))
	}
	switch {
	case err != nil:
		return err
	case next.Tap && next.Share != "":
		return Refuse(CodeBadOption, "tap=yes does not go with share: a member of a share takes messages from the others")
	case next.Tap && next.Patience != 0:
		return Refuse(CodeBadOption, "tap=yes does not go with patience: a tap is never waited for")
	case next.Frames && next.onlyPlain() != "":
		return Refuse(CodeBadOption, "the option %s does not go with frames", next.onlyPlain())
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
	if o.Meta {
		line("meta", "yes")
	}
	if o.Reply {
		line("reply", "yes")
	}
	if o.Prove {
		line("prove", "yes")
	}
	if o.NoEmpty {
		line("empty", "no")
	}
	if o.End != EndAsIs {
		line("end", o.End.String())
	}
	if o.MaxSize != 0 {
		line("max-size", strconv.FormatUint(uint64(o.MaxSize), 10))
	}
	if o.Credentials {
		line("credentials", "pass")
	}
	if o.Ack {
		line("ack", "yes")
	}
	if o.Keep != 0 {
		line("keep", FormatPatience(o.Keep))
	}
	if o.From != (Position{}) {
		line("from", o.From.String())
	}
	if o.Replace {
		line("replace", "yes")
	}
	if o.Batch != 0 {
		line("batch", strconv.FormatUint(uint64(o.Batch), 10))
	}
	if o.Mark {
		line("mark", "yes")
	}
	if o.View {
		line("view", "yes")
	}
	if o.Stage {
		line("stage", "yes")
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
	o, err := parseOptions(string(text), nil)
	if err == nil {
		err = o.unconnected()
	}
	if err != nil {
		return Options{}, err
	}
	return o, nil
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
	if err := o.unconnected(); err != nil {
		return Address{}, Options{}, err
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

// parseBatch reads the value of batch.
func parseBatch(value string) (uint32, error) {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil || n == 0 {
		return 0, Refuse(CodeBadOption, "cannot use %s as batch: want a number of messages, at least 1", quote(value))
	}
	return uint32(n), nil
}

// End is what the messages end in that a sink gets.
type End uint8

// The ends. Their numbers are part of what brokers leave to their successors.
const (
	EndAsIs    End = iota // as they were sent
	EndNewline            // one newline, in place of the newlines and NULs that there may be
	EndNone               // no newline and no NUL
)

var endNames = [...]string{EndAsIs: "as-is", EndNewline: "newline", EndNone: "none"}

// String is the value of the option.
func (e End) String() string {
	if int(e) >= len(endNames) {
		return "unknown"
	}
	return endNames[e]
}

func parseEnd(value string) (End, error) {
	if i := slices.Index(endNames[:], value); i >= 0 {
		return End(i), nil
	}
	return 0, Refuse(CodeBadOption, "cannot use %s as end: want newline, none or as-is", quote(value))
}

// parseMaxSize reads the value of max-size.
func parseMaxSize(value string) (uint32, error) {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil || n == 0 {
		return 0, Refuse(CodeBadOption, "cannot use %s as max-size: want a number of bytes, at least 1", quote(value))
	}
	return uint32(n), nil
}

// parseCredentials reads the value of credentials.
func parseCredentials(value string) (pass bool, err error) {
	switch value {
	case "pass":
		return true, nil
	case "own":
		return false, nil
	}
	return false, Refuse(CodeBadOption, "cannot use %s as credentials: want pass or own", quote(value))
}
