// SPDX-License-Identifier: Apache-2.0

//go:build race

package msgmux_test

import (
	"errors"
	"testing"

	msgmux "github.com/msgmux/msgmux/client"
)

// TestLentMessagesAreOverwritten as soon as the callback returns, each of them, where tests look for mistakes.
func TestLentMessagesAreOverwritten(t *testing.T) {
	channel := folder(t)
	sink, broker := subscribed(t, channel, listen(t, channel, "subscribe"), msgmux.SinkOptions{})
	broker.deliver(t, 0, 0, "one", "two")
	enough := errors.New("enough")
	var kept []byte
	if err := each(inTime(t), sink, func(m msgmux.Message) error {
		if m.Seq == 1 {
			if string(kept) != "\x00\x00\x00" || string(m.Payload) != "two" {
				t.Errorf("kept %q, got %q", kept, m.Payload)
			}
			return enough
		}
		kept = m.Payload
		return nil
	}); !errors.Is(err, enough) {
		t.Error(err)
	}
}
