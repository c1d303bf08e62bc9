// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/msgmux/msgmux/internal/wire"
)

// wantCode fails unless err is a *wire.Error with that code, or nil for "".
func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if code == "" {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	refusal, ok := errors.AsType[*wire.Error](err)
	if !ok || refusal.Code != code {
		t.Errorf("got the error %v, want one with the code %s", err, code)
	}
}

func TestAddress(t *testing.T) {
	long := strings.Repeat("n", 107)
	for text, want := range map[string]struct {
		address wire.Address
		code    string
	}{
		"":             {address: wire.Address{}},
		"@tap":         {address: wire.Address{Abstract: true, Name: "tap"}},
		"@/run/x":      {address: wire.Address{Abstract: true, Name: "/run/x"}},
		"@@":           {address: wire.Address{Abstract: true, Name: "@"}},
		"@zwölf, oder": {address: wire.Address{Abstract: true, Name: "zwölf, oder"}},
		"@" + long:     {address: wire.Address{Abstract: true, Name: long}},
		"/run/x y":     {address: wire.Address{Name: "/run/x y"}},
		"/" + long[1:]: {address: wire.Address{Name: "/" + long[1:]}},

		"tap":            {code: wire.CodeBadAddress},
		"./tap":          {code: wire.CodeBadAddress},
		" @tap":          {code: wire.CodeBadAddress},
		"@":              {code: wire.CodeBadAddress},
		"@\x00":          {code: wire.CodeBadAddress},
		"@" + long + "n": {code: wire.CodeBadAddress},
		"/" + long:       {code: wire.CodeBadAddress},
		"@tap\x00\x00":   {code: wire.CodeBadAddress},
		"@a\x00b":        {code: wire.CodeBadAddress},
		"/tmp/\x00":      {code: wire.CodeBadAddress},
		"/tmp/a\nb":      {code: wire.CodeBadAddress},
		"@\x1b[2J":       {code: wire.CodeBadAddress},
		"@a\u0085b":      {code: wire.CodeBadAddress}, // a C1 control, next line
		"@a\u202eb":      {code: wire.CodeBadAddress}, // right-to-left override
		"@a\u2028b":      {code: wire.CodeBadAddress}, // line separator
		"@\xff":          {code: wire.CodeBadAddress},
	} {
		got, err := wire.ParseAddress(text)
		wantCode(t, err, want.code)
		if got != want.address {
			t.Errorf("ParseAddress(%q) = %+v, want %+v", text, got, want.address)
		}
		if want.code == "" && got.String() != text {
			t.Errorf("%q is printed as %q", text, got)
		}
		if got.IsZero() != (text == "" || want.code != "") {
			t.Errorf("IsZero of %q is %v", text, got.IsZero())
		}
	}
}

// TestAddressWithTrailingNULsIsExplained: the mistake is made in C and hard to see, so the refusal says what to write.
func TestAddressWithTrailingNULsIsExplained(t *testing.T) {
	_, err := wire.ParseAddress("@tap" + strings.Repeat("\x00", 104))
	const advice = "pass offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name) as the address length, not sizeof"
	if err == nil || !strings.Contains(err.Error(), advice) || !strings.Contains(err.Error(), `"tap"`) {
		t.Errorf("the refusal %v does not name the address and the remedy", err)
	}
}

// TestRefusalsAreShortAndPrintable: what strangers send is quoted in answers and logs.
func TestRefusalsAreShortAndPrintable(t *testing.T) {
	for _, text := range []string{
		strings.Repeat("\x1b", 4000), "@" + strings.Repeat("é", 2000), "@x\n" + strings.Repeat("\x07", 4000), "@x\nlabel=\x1b]0;owned\x07",
	} {
		_, err := wire.ParseRegistration([]byte(text))
		if err == nil {
			t.Errorf("%.20q... is accepted", text)
		} else if len(err.Error()) > wire.MaxReply || strings.ContainsAny(err.Error(), "\x1b\x07\n") {
			t.Errorf("a refusal is long or not printable: %q", err)
		}
	}
}
