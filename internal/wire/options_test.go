// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

func TestPatience(t *testing.T) {
	for text, want := range map[string]struct {
		patience time.Duration
		printed  string
	}{
		"0":       {0, "0s"},
		"0s":      {0, "0s"},
		"1s":      {time.Second, "1s"},
		"1.5s":    {1500 * time.Millisecond, "1.5s"},
		"2m30s":   {150 * time.Second, "2m30s"},
		"250ms":   {250 * time.Millisecond, "250ms"},
		"forever": {wire.Forever, "forever"},
	} {
		got, err := wire.ParsePatience(text)
		if err != nil || got != want.patience {
			t.Errorf("ParsePatience(%q) = %v, %v; want %v", text, got, err, want.patience)
		}
		if printed := wire.FormatPatience(got); printed != want.printed {
			t.Errorf("the patience %q is printed as %q, want %q", text, printed, want.printed)
		}
	}
	for _, text := range []string{"", "1", "-1s", "never", "Forever", "1d", " 1s", "1s ", "1e9s", "300000000h", "\xff"} {
		if got, err := wire.ParsePatience(text); err == nil {
			t.Errorf("the patience %q is accepted as %v", text, got)
		} else {
			wantCode(t, err, wire.CodeBadOption)
		}
	}
}

func TestOptionLines(t *testing.T) {
	full := wire.Options{Label: "a.B_c-9", Patience: 2 * time.Second, PatienceSet: true, Start: wire.StartOldest, Share: "s",
		Frames: true, Reply: true}
	label := strings.Repeat("x", 64)
	for _, test := range []struct {
		text    string
		options wire.Options
		code    string
	}{
		{text: ""},
		{text: "\n\n"},
		{text: "# nothing\n#\n\n"},
		{text: "label=x", options: wire.Options{Label: "x"}},
		{text: "label=" + label + "\n", options: wire.Options{Label: label}},
		{text: "label=a.B_c-9\npatience=2s\nstart=oldest\nshare=s\nframes=yes\nreply=yes\n", options: full},
		{text: "reply=yes\r\nframes=yes\r\n\r\n# CR LF, other order\r\nshare=s\r\nstart=oldest\r\npatience=2s\r\nlabel=a.B_c-9\r\n", options: full},
		{text: "patience=0\n", options: wire.Options{PatienceSet: true}},
		{text: "patience=forever\n", options: wire.Options{PatienceSet: true, Patience: wire.Forever}},
		{text: "start=now\ntap=no\nframes=no\nreply=no\n"},
		{text: "tap=yes\npatience=0\n", options: wire.Options{Tap: true, PatienceSet: true}},
		{text: "tap=no\nshare=s\n", options: wire.Options{Share: "s"}},

		{text: "label=\n", code: wire.CodeBadOption},
		{text: "label=" + label + "x\n", code: wire.CodeBadOption},
		{text: "label=a b\n", code: wire.CodeBadOption},
		{text: "label=ä\n", code: wire.CodeBadOption},
		{text: "label=a\x1b[1m\n", code: wire.CodeBadOption},
		{text: "label=a\nlabel=a\n", code: wire.CodeBadOption},
		{text: "tap=no\ntap=yes\n", code: wire.CodeBadOption},
		{text: "share=\n", code: wire.CodeBadOption},
		{text: "share=a/b\n", code: wire.CodeBadOption},
		{text: "patience=-1s\n", code: wire.CodeBadOption},
		{text: "start=0\n", options: wire.Options{Start: wire.StartAt(0, 0)}},
		{text: "start=18446744073709551615\n", options: wire.Options{Start: wire.StartAt(0, 1<<64-1)}},
		{text: "start=9f3c:1000\n", options: wire.Options{Start: wire.StartAt(0x9f3c, 1000)}},
		{text: "start=-10\n", options: wire.Options{Start: wire.StartLast(10)}},
		{text: "start=-0\n", options: wire.Options{Start: wire.StartLast(0)}},
		{text: "start=yesterday\n", code: wire.CodeBadOption},
		{text: "credentials=pass\nshare=s\n", options: wire.Options{Credentials: true, Share: "s"}},
		{text: "credentials=own\nframes=yes\n", options: wire.Options{Frames: true}},
		{text: "credentials=yes\n", code: wire.CodeBadOption},
		{text: "credentials=\n", code: wire.CodeBadOption},
		{text: "credentials=pass\nframes=yes\n", code: wire.CodeBadOption},
		{text: "frames=yes\nmeta=yes\ncredentials=pass\n", code: wire.CodeBadOption},
		{text: "start=\n", code: wire.CodeBadOption},
		{text: "start=-\n", code: wire.CodeBadOption},
		{text: "start=--1\n", code: wire.CodeBadOption},
		{text: "start=+1\n", code: wire.CodeBadOption},
		{text: "start=1.5\n", code: wire.CodeBadOption},
		{text: "start=18446744073709551616\n", code: wire.CodeBadOption},
		{text: "start=0:5\n", code: wire.CodeBadOption},
		{text: "start=:5\n", code: wire.CodeBadOption},
		{text: "start=x:5\n", code: wire.CodeBadOption},
		{text: "start=a:-5\n", code: wire.CodeBadOption},
		{text: "tap=true\n", code: wire.CodeBadOption},
		{text: "frames=1\n", code: wire.CodeBadOption},
		{text: "reply=\n", code: wire.CodeBadOption},
		{text: "tap=yes\nshare=s\n", code: wire.CodeBadOption},
		{text: "share=s\ntap=yes\n", code: wire.CodeBadOption},
		{text: "tap=yes\npatience=1s\n", code: wire.CodeBadOption},
		{text: "patience=forever\ntap=yes\n", code: wire.CodeBadOption},
		{text: "colour=red\n", code: wire.CodeUnknownOption},
		{text: "Label=x\n", code: wire.CodeUnknownOption},
		{text: "label =x\n", code: wire.CodeUnknownOption},
		{text: " # indented\n", code: wire.CodeBadText},
		{text: "tap\n", code: wire.CodeBadText},
		{text: "remove\n", code: wire.CodeBadText},
		{text: "=\n", code: wire.CodeUnknownOption},
		{text: "label=x\xff\n", code: wire.CodeBadText},
	} {
		got, err := wire.ParseOptionLines([]byte(test.text))
		wantCode(t, err, test.code)
		if got != test.options {
			t.Errorf("%q is read as %+v, want %+v", test.text, got, test.options)
		}
	}
}

// TestOptionsArePrintedInFixedOrder: two clients that ask for the same send the same bytes.
func TestOptionsArePrintedInFixedOrder(t *testing.T) {
	o := wire.Options{Label: "l", Patience: wire.Forever, PatienceSet: true, Start: wire.StartOldest, Share: "s", Frames: true, Reply: true}
	const want = "before label=l\npatience=forever\nstart=oldest\nshare=s\nframes=yes\nreply=yes\n"
	if got := string(o.AppendLines([]byte("before "))); got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
	if got := string((wire.Options{Tap: true}).AppendLines(nil)); got != "tap=yes\n" {
		t.Errorf("a tap is printed as %q", got)
	}
	if got := (wire.Options{}).AppendLines(nil); len(got) != 0 {
		t.Errorf("no options are printed as %q", got)
	}
	// Without PatienceSet the number means nothing.
	if got := (wire.Options{Patience: time.Hour}).AppendLines(nil); len(got) != 0 {
		t.Errorf("a patience that is not set is printed as %q", got)
	}
}

// TestSetLeavesNothingBehind: what Set refuses must not be half done.
func TestSetLeavesNothingBehind(t *testing.T) {
	o := wire.Options{Share: "s"}
	refused := map[string]string{"tap": "yes", "label": "a b", "patience": "x", "start": "x", "frames": "x", "other": "yes"}
	for key, value := range refused {
		if err := o.Set(key, value); err == nil {
			t.Errorf("%s=%s is accepted", key, value)
		}
	}
	if o != (wire.Options{Share: "s"}) {
		t.Errorf("refused values left %+v", o)
	}
}

func TestSinkFlag(t *testing.T) {
	foo := wire.Address{Name: "/run/foo"}
	for _, test := range []struct {
		text    string
		address wire.Address
		options wire.Options
		code    string
	}{
		{text: "/run/foo", address: foo},
		{text: "/run/foo,label=x", address: foo, options: wire.Options{Label: "x"}},
		{text: "/run/foo,patience=0,tap=yes", address: foo, options: wire.Options{PatienceSet: true, Tap: true}},
		{text: "", code: wire.CodeBadAddress},
		{text: "@foo", code: wire.CodeBadAddress},
		{text: "foo", code: wire.CodeBadAddress},
		{text: ",label=x", code: wire.CodeBadAddress},
		{text: "/run/\x07", code: wire.CodeBadAddress},
		{text: "/run/foo,", code: wire.CodeBadText},
		{text: "/run/foo,tap", code: wire.CodeBadText},
		{text: "/run/foo,label=x,", code: wire.CodeBadText},
		{text: "/run/foo,label=x,label=y", code: wire.CodeBadOption},
		{text: "/run/foo,colour=red", code: wire.CodeUnknownOption},
	} {
		address, options, err := wire.ParseSinkFlag(test.text)
		wantCode(t, err, test.code)
		if address != test.address || options != test.options {
			t.Errorf("%q is read as %+v %+v, want %+v %+v", test.text, address, options, test.address, test.options)
		}
	}
}
