// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

func TestRegistration(t *testing.T) {
	tap := wire.Address{Abstract: true, Name: "tap"}
	full := strings.Repeat("#", wire.MaxRegistration-len("@tap\n"))
	for _, test := range []struct {
		text string
		want wire.Registration
		code string
	}{
		{text: ""},
		{text: "\n"},
		{text: "\r\n"},
		{text: "@tap", want: wire.Registration{Address: tap}},
		{text: "@tap\n", want: wire.Registration{Address: tap}},
		{text: "@tap\r\n", want: wire.Registration{Address: tap}},
		{text: "@tap\n\n# a comment\n", want: wire.Registration{Address: tap}},
		{text: "@tap\n" + full, want: wire.Registration{Address: tap}},
		{text: "/run/x\nlabel=x", want: wire.Registration{Address: wire.Address{Name: "/run/x"}, Options: wire.Options{Label: "x"}}},
		{text: "\nlabel=x\nreply=yes\n", want: wire.Registration{Options: wire.Options{Label: "x", Reply: true}}},
		{text: "@tap\nremove", want: wire.Registration{Address: tap, Remove: true}},
		{text: "@tap\nreply=yes\nremove\n", want: wire.Registration{Address: tap, Remove: true, Options: wire.Options{Reply: true}}},
		{text: "\nremove\n", want: wire.Registration{Remove: true}},

		{text: "@tap\n" + full + "#", code: wire.CodeTooLarge},
		{text: "tap\n", code: wire.CodeBadAddress},
		{text: "remove\n", code: wire.CodeBadAddress},
		{text: "label=x\n", code: wire.CodeBadAddress},
		{text: "@tap\x00", code: wire.CodeBadAddress},
		{text: "@tap\nlabel=x\x00", code: wire.CodeBadOption},
		{text: "@tap\nremove\nremove\n", code: wire.CodeBadOption},
		{text: "@tap\nremove\nlabel=x\n", code: wire.CodeBadOption},
		{text: "@tap\npatience=0\nremove\n", code: wire.CodeBadOption},
		{text: "@tap\nremove=yes\n", code: wire.CodeUnknownOption},
		{text: "@tap\nrelabel\n", code: wire.CodeBadText},
		{text: "@tap\n\xff\n", code: wire.CodeBadText},
		{text: "\x80\x81", code: wire.CodeBadText},
	} {
		got, err := wire.ParseRegistration([]byte(test.text))
		wantCode(t, err, test.code)
		if err == nil && got != test.want {
			t.Errorf("%.40q is read as %+v, want %+v", test.text, got, test.want)
		}
	}
}

// TestRefusedRegistrationSaysWhereToAnswer: whoever asked for an answer waits for it, all the more when it is no.
func TestRefusedRegistrationSaysWhereToAnswer(t *testing.T) {
	tap := wire.Address{Abstract: true, Name: "tap"}
	reply := wire.Options{Reply: true}
	for text, want := range map[string]wire.Registration{
		"@tap\nlabel=a b\nreply=yes\n":         {Address: tap, Options: reply},
		"@tap\r\nreply=yes\r\ncolour=red\r\n":  {Address: tap, Options: reply},
		"@tap\nremove\nlabel=x\nreply=yes":     {Address: tap, Options: reply},
		"@tap\nlabel=a b\nreply=no\n":          {Address: tap},
		"@tap\nlabel=a b\n#reply=yes\n":        {Address: tap},
		"tap\nlabel=x\nreply=yes\n":            {Options: reply},
		"reply=yes\n":                          {},
		"\nlabel=a b\nreply=yes\n":             {},
		"@tap\nreply=yes\n\xff":                {},
		"\r\nlabel=a b\nreply=yes\n":           {},
		"@tap\nlabel=x\nlabel=y\nreply=yes\n#": {Address: tap, Options: reply},
	} {
		got, err := wire.ParseRegistration([]byte(text))
		if err == nil || got != want {
			t.Errorf("%q is read as %+v, %v; want %+v and an error", text, got, err, want)
		}
	}
}

func TestRemovalIsPrintedWithoutOptions(t *testing.T) {
	r := wire.Registration{Address: wire.Address{Name: "/x"}, Remove: true, Options: wire.Options{Label: "x", Reply: true}}
	if got := string(r.Append(nil)); got != "/x\nremove\nreply=yes\n" {
		t.Errorf("printed %q", got)
	}
}

func TestHello(t *testing.T) {
	for _, test := range []struct {
		text string
		want wire.Options
		code string
	}{
		{text: "msgmux/1"},
		{text: "msgmux/1\n"},
		{text: "msgmux/1\r\n"},
		{text: "msgmux/1\nlabel=x\npatience=1m\n", want: wire.Options{Label: "x", Patience: time.Minute, PatienceSet: true}},
		{text: "msgmux/1\n" + strings.Repeat("\n", wire.MaxHello-9)},

		{text: "msgmux/1\n" + strings.Repeat("\n", wire.MaxHello-8), code: wire.CodeTooLarge},
		{text: "", code: wire.CodeBadText},
		{text: "\nmsgmux/1\n", code: wire.CodeBadText},
		{text: "msgmux\n", code: wire.CodeBadText},
		{text: "GET / HTTP/1.1\r\n\r\n", code: wire.CodeBadText},
		{text: "msgmux/2\n", code: wire.CodeUnsupported},
		{text: "msgmux/1.1\n", code: wire.CodeUnsupported},
		{text: "msgmux/1 label=x\n", code: wire.CodeUnsupported},
		{text: "msgmux/1\nframes=yes\n", code: wire.CodeBadOption},
		{text: "msgmux/1\nframes=no\n", code: wire.CodeBadOption},
		{text: "msgmux/1\nreply=yes\n", code: wire.CodeBadOption},
		{text: "msgmux/1\ncredentials=pass\n", code: wire.CodeBadOption},
		{text: "msgmux/1\nremove\n", code: wire.CodeBadText},
		{text: "msgmux/1\ncolour=red\n", code: wire.CodeUnknownOption},
		{text: "msgmux/1\n\x05\x00\x00\x00", code: wire.CodeBadText},
		{text: "msgmux/1\n\xff", code: wire.CodeBadText},
	} {
		got, err := wire.ParseHello([]byte(test.text))
		wantCode(t, err, test.code)
		if got.Options != test.want {
			t.Errorf("%.40q is read as %+v, want %+v", test.text, got.Options, test.want)
		}
	}
	// Options that a connection has no use for are not sent, so that one set of options serves both ways in.
	h := wire.Hello{Options: wire.Options{Label: "x", Frames: true, Reply: true}}
	if got := string(h.Append(nil)); got != "msgmux/1\nlabel=x\n" {
		t.Errorf("a hello is printed as %q", got)
	}
	if !h.Frames || !h.Reply {
		t.Error("printing changed the hello")
	}
}

func TestReply(t *testing.T) {
	refused := func(code, text string) wire.Reply { return wire.Reply{Err: &wire.Error{Code: code, Text: text}} }
	for _, test := range []struct {
		text string
		want wire.Reply
		code string
	}{
		{text: "ok\n"},
		{text: "ok"},
		{text: "ok id=12\n", want: wire.Reply{ID: 12}},
		{text: "ok id=18446744073709551615", want: wire.Reply{ID: 1<<64 - 1}},
		{text: "ok colour=red id=12 start=5 hurray\n", want: wire.Reply{ID: 12}},
		{text: "ok id=7 max-message=1000\n", want: wire.Reply{ID: 7, MaxMessage: 1000}},
		{text: "ok id=7 label=db-2 epoch=9f3c next=1000 max-message=1000\n",
			want: wire.Reply{ID: 7, Label: "db-2", Epoch: 0x9f3c, Next: 1000, MaxMessage: 1000}},
		{text: "ok id=7 next=5\n", want: wire.Reply{ID: 7}},
		{text: "ok label=\n", code: wire.CodeBadText},
		{text: "ok epoch=x\n", code: wire.CodeBadText},
		{text: "ok max-message=4194304 id=7", want: wire.Reply{ID: 7, MaxMessage: 4 << 20}},
		{text: "error busy\n", want: refused("busy", "")},
		{text: "error loop not into myself\n", want: refused("loop", "not into myself")},
		{text: "error not-known-yet  two spaces", want: refused("not-known-yet", " two spaces")},
		{text: "error x " + strings.Repeat("y", wire.MaxReply-9) + "\n", want: refused("x", strings.Repeat("y", wire.MaxReply-9))},

		{text: "", code: wire.CodeBadText},
		{text: "\n", code: wire.CodeBadText},
		{text: "okay\n", code: wire.CodeBadText},
		{text: "OK\n", code: wire.CodeBadText},
		{text: "ok id=\n", code: wire.CodeBadText},
		{text: "ok id=1 max-message=\n", code: wire.CodeBadText},
		{text: "ok max-message=all\n", code: wire.CodeBadText},
		{text: "ok id=-1\n", code: wire.CodeBadText},
		{text: "ok id=18446744073709551616\n", code: wire.CodeBadText},
		{text: "ok\nok\n", code: wire.CodeBadText},
		{text: "error\n", code: wire.CodeBadText},
		{text: "error  no code\n", code: wire.CodeBadText},
		{text: "error BUSY x\n", code: wire.CodeBadText},
		{text: "error busy\x1b[2J\n", code: wire.CodeBadText},
		{text: "error busy \xff\n", code: wire.CodeBadText},
		{text: "error busy two\nlines\n", code: wire.CodeBadText},
		{text: "error busy \x1b[2J\n", code: wire.CodeBadText},
		{text: "ok id=1 \u202e\n", code: wire.CodeBadText},
		{text: "\xe8\x03\x00\x00", code: wire.CodeBadText},
		{text: "error x " + strings.Repeat("y", wire.MaxReply-8), code: wire.CodeTooLarge},
	} {
		got, err := wire.ParseReply([]byte(test.text))
		wantCode(t, err, test.code)
		if got.ID != test.want.ID || got.MaxMessage != test.want.MaxMessage || (got.Err == nil) != (test.want.Err == nil) || got.Err != nil && *got.Err != *test.want.Err {
			t.Errorf("%.40q is read as %v %v, want %v %v", test.text, got.ID, got.Err, test.want.ID, test.want.Err)
		}
	}
}

// TestReplyIsOneLineWhateverItSays prints errors with texts that must not reach a client as they are.
func TestReplyIsOneLineWhateverItSays(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "error internal\n",
		"a\nb\x1b[1m\u202ec":            "error internal a b [1m c\n",
		"\xff":                          "error internal \uFFFD\n",
		strings.Repeat("a", 2000):       "error internal " + strings.Repeat("a", wire.MaxReply-16) + "\n",
		"a" + strings.Repeat("€", 2000): "error internal a" + strings.Repeat("€", (wire.MaxReply-17)/3) + "\n",
		strings.Repeat("\n", 2000):      "error internal " + strings.Repeat(" ", wire.MaxReply-16) + "\n",
	} {
		got := string(wire.Reply{Err: wire.Refuse(wire.CodeInternal, "%s", text)}.Append(nil))
		if got != want {
			t.Errorf("%.20q is printed as %q, want %q", text, got, want)
		}
		if _, err := wire.ParseReply([]byte(got)); err != nil {
			t.Errorf("%.40q does not parse: %v", got, err)
		}
	}
	if got := string(wire.Reply{}.Append([]byte("x"))); got != "xok\n" {
		t.Errorf("a bare ok is printed as %q", got)
	}
}

func TestErrorText(t *testing.T) {
	if got := wire.Refuse(wire.CodeLoop, "%q is mine", "x").Error(); got != `loop: "x" is mine` {
		t.Errorf("got %s", got)
	}
}
