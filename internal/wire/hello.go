// SPDX-License-Identifier: Apache-2.0

package wire

import "strings"

// Protocol is the first line of a Hello: the name and the version of the framed protocol.
const Protocol = "msgmux/1"

// MaxHello is the longest Hello in bytes.
const MaxHello = 4096

// Hello is the first packet of a client on publish or subscribe. A source has no use for other options than Label, Mark, Keep,
// Replace and Stage.
type Hello struct{ Options }

// CheckSink says what is wrong with the hello of a sink, or nil. The error is an *Error with CodeBadOption.
func (h *Hello) CheckSink() error {
	acks := h.Ack || h.View
	switch {
	case h.Mark, h.Stage:
		return Refuse(CodeBadOption, "mark and stage are for sources")
	case h.View && (h.Share != "" || h.Tap || h.Meta):
		return Refuse(CodeBadOption, "view=yes goes with neither share nor tap nor meta: see docs/protocol.md")
	case !acks && h.Keep != 0:
		return Refuse(CodeBadOption, "keep goes with ack=yes only: of others it is not known what they have done")
	case !acks && h.From != Position{}:
		return Refuse(CodeBadOption, "from goes with ack=yes only: it is an acknowledgement; without it there is start")
	case h.Ack && h.Tap:
		return Refuse(CodeBadOption, "ack=yes does not go with tap=yes: nothing is kept for a tap")
	case h.From != Position{} && h.Share != "":
		return Refuse(CodeBadOption, "from does not go with share: a share has one place for all of its members")
	case h.Batch != 0 && (!h.Ack || h.Share == ""):
		return Refuse(CodeBadOption, "batch goes with ack=yes and share only")
	}
	return h.checkKept()
}

// CheckSource is CheckSink for a source.
func (h *Hello) CheckSource() error {
	switch {
	case h.Ack || h.View || h.From != Position{} || h.Batch != 0:
		return Refuse(CodeBadOption, "ack, view, from and batch are for sinks")
	case !h.Mark && h.Keep != 0:
		return Refuse(CodeBadOption, "keep goes with mark=yes only: without a mark there is nothing to keep")
	case h.Mark && h.Label == "":
		return Refuse(CodeBadOption, "mark=yes needs a label: what is kept is kept under a name")
	}
	return h.checkKept()
}

func (h *Hello) checkKept() error {
	switch {
	case h.Keep != 0 && h.Label == "" && h.Share == "":
		return Refuse(CodeBadOption, "keep needs a label: what is kept is kept under a name")
	case h.Replace && h.Keep == 0 && !h.Mark:
		return Refuse(CodeBadOption, "replace goes with keep or mark only: nobody else has such a name for good")
	}
	return nil
}

// ParseHello reads a hello: Protocol on the first line, then options. The options frames and reply are refused: on a
// connection both go without saying. The error is an *Error, with CodeUnsupported when the client speaks another version.
func ParseHello(b []byte) (Hello, error) {
	if err := checkText(b, MaxHello); err != nil {
		return Hello{}, err
	}
	first, rest := cutLine(string(b))
	switch name, _, _ := strings.Cut(Protocol, "/"); {
	case first == Protocol:
	case strings.HasPrefix(first, name+"/"):
		return Hello{}, Refuse(CodeUnsupported, "cannot speak %s: this broker speaks %s", quote(first), Protocol)
	default:
		return Hello{}, Refuse(CodeBadText, "cannot read %s: the first line must be %s", quote(first), Protocol)
	}
	options, err := parseOptions(rest, func(line string) (bool, error) {
		key, _, _ := strings.Cut(line, "=")
		if key == "frames" || key == "reply" || key == "prove" {
			return false, Refuse(CodeBadOption, "the option %s has no place here: a connection has frames, a reply, and an owner", key)
		}
		return false, nil
	})
	if err == nil && options.onlyPlain() != "" {
		err = Refuse(CodeBadOption, "the option %s has no place here: a connection has frames", options.onlyPlain())
	}
	if err != nil {
		return Hello{}, err
	}
	return Hello{options}, nil
}

// Append appends the text that ParseHello reads; Frames, Reply and Prove are left out.
func (h Hello) Append(dst []byte) []byte {
	h.Frames, h.Reply, h.Prove = false, false, false
	return h.AppendLines(append(dst, Protocol+"\n"...))
}
