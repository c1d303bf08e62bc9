// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
)

// The codes of an Error. A client branches on the code, a person reads the text. Codes are never renamed; new ones may
// come, so a client treats one that it does not know like CodeInternal. docs/protocol.md says what to do about each.
const (
	CodeBadText       = "bad-text"        // not the text that belongs here: not UTF-8, a line that is no option
	CodeBadAddress    = "bad-address"     // the address of a sink cannot be one
	CodeBadOption     = "bad-option"      // an option has a bad value, stands twice, or does not go with another
	CodeUnknownOption = "unknown-option"  // this broker does not know the option
	CodeNotOwner      = "not-owner"       // the socket belongs to another user
	CodeProve         = "prove"           // the socket is not the asker's, who may prove that he holds it: the text begins with a number
	CodeNoPeer        = "no-peer"         // nobody has the socket open
	CodeLoop          = "loop"            // the socket is one of the broker's own
	CodeNamespace     = "other-namespace" // the socket lives in another network namespace
	CodeAccess        = "access"          // the broker may not write to the socket
	CodeWrongType     = "wrong-type"      // the address is not a datagram socket
	CodeQuota         = "quota"           // no room for another sink or client, of this user or at all
	CodeTooLarge      = "too-large"       // a text, a packet or a message is longer than allowed
	CodePoison        = "poison"          // the broker died of this text before and will not look at it again
	CodeNoCredentials = "no-credentials"  // the kernel did not say who sent this
	CodeNotFound      = "not-found"       // there is no such sink
	CodeDenied        = "denied"          // the user may not do this
	CodeInternal      = "internal"        // the broker failed
	CodeBusy          = "busy"            // not now; try again
	CodeUnsupported   = "unsupported"     // another version of the protocol, or not in this place
	CodeBadPacket     = "bad-packet"      // a packet is not made of whole records
	CodeTimeout       = "timeout"         // the client or the kernel took too long
	CodeInUse         = "in-use"          // another connection has this name
	CodeBadAck        = "bad-ack"         // an acknowledgement of what was not sent, or none at all
)

// Error is a refusal as it crosses a socket.
type Error struct {
	Code string `json:"code"`
	Text string `json:"text"` // for people; one line
}

// Error is "CODE: TEXT".
func (e *Error) Error() string { return e.Code + ": " + e.Text }

// Refuse makes an Error; the format is fmt's. What a stranger sent belongs in it as %q or not at all.
func Refuse(code, format string, args ...any) *Error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// AsRefusal is err itself if it is a refusal, and otherwise one with that code and the text of err.
func AsRefusal(err error, code string) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return Refuse(code, "%v", err)
}
