// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"strings"
	"testing"

	"github.com/msgmux/msgmux/internal/wire"
)

func TestRequest(t *testing.T) {
	for _, test := range []struct {
		text string
		want wire.Request
		code string
	}{
		{text: `{"op":"status"}`, want: wire.Request{Op: wire.OpStatus}},
		{text: " {\"op\" : \"list\"}\n", want: wire.Request{Op: wire.OpList}},
		{text: `{"op":"drop","sink":"#12"}`, want: wire.Request{Op: wire.OpDrop, Sink: "#12"}},
		{text: `{"sink":"db","patience":"0","op":"set"}`, want: wire.Request{Op: wire.OpSet, Sink: "db", Patience: "0"}},
		{text: `{"op":"set","sink":"db","patience":"forever"}`, want: wire.Request{Op: wire.OpSet, Sink: "db", Patience: "forever"}},

		{text: "", code: wire.CodeBadText},
		{text: "status", code: wire.CodeBadText},
		{text: `{"op":"status"`, code: wire.CodeBadText},
		{text: `{"op":"status"}{"op":"status"}`, code: wire.CodeBadText},
		{text: `{"op":"status"} x`, code: wire.CodeBadText},
		{text: `["status"]`, code: wire.CodeBadText},
		{text: `{"op":5}`, code: wire.CodeBadText},
		{text: `{"op":"drop","sink":"db","force":true}`, code: wire.CodeBadText},
		{text: "{\"op\":\"drop\",\"sink\":\"\xff\"}", code: wire.CodeBadText},
		{text: "null", code: wire.CodeUnsupported},
		{text: "{}", code: wire.CodeUnsupported},
		{text: `{"op":"reboot"}`, code: wire.CodeUnsupported},
		{text: `{"op":"status","sink":"db"}`, code: wire.CodeBadOption},
		{text: `{"op":"drop"}`, code: wire.CodeBadOption},
		{text: `{"op":"drop","sink":"db","patience":"1s"}`, code: wire.CodeBadOption},
		{text: `{"op":"set","sink":"db"}`, code: wire.CodeBadOption},
		{text: `{"op":"set","patience":"1s"}`, code: wire.CodeBadOption},
		{text: `{"op":"set","sink":"db","patience":"soon"}`, code: wire.CodeBadOption},
		{text: `{"op":"status"}` + strings.Repeat(" ", wire.MaxRequest), code: wire.CodeTooLarge},
		{text: `{"op":"` + strings.Repeat("[", wire.MaxRequest-20) + `"}`, code: wire.CodeUnsupported},
	} {
		got, err := wire.ParseRequest([]byte(test.text))
		wantCode(t, err, test.code)
		if got != test.want {
			t.Errorf("%.60q is read as %+v, want %+v", test.text, got, test.want)
		}
	}
}
