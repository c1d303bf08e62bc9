// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// ParseRequest reads a control request: one JSON object with a known op and the fields that it needs. A field that is not
// known is refused, because to leave out what was asked for may do harm. The error is an *Error.
func ParseRequest(b []byte) (Request, error) {
	if err := checkText(b, MaxRequest); err != nil {
		return Request{}, err
	}
	var r Request
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		// It may quote a name from the request, of any length.
		return Request{}, Refuse(CodeBadText, "cannot read the request: %s", cut(err.Error(), maxQuote))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Request{}, Refuse(CodeBadText, "cannot read the request: something follows it")
	}
	switch r.Op {
	case OpStatus, OpList:
		if r != (Request{Op: r.Op}) {
			return Request{}, Refuse(CodeBadOption, "the operation %s takes no other fields", r.Op)
		}
		return r, nil
	case OpDrop, OpSet:
	default:
		return Request{}, Refuse(CodeUnsupported, "there is no operation %s; there are status, list, drop, set", quote(r.Op))
	}
	if r.Sink == "" {
		return Request{}, Refuse(CodeBadOption, "the operation %s wants the field sink", r.Op)
	}
	if r.Op == OpDrop {
		if r.Patience != "" {
			return Request{}, Refuse(CodeBadOption, "the operation drop takes no patience")
		}
		return r, nil
	}
	if _, err := ParsePatience(r.Patience); err != nil {
		return Request{}, err
	}
	return r, nil
}
