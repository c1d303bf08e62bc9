// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/wire"
)

// look asks the channel for its status (wire.OpStatus), or for that and the sinks (wire.OpList), in the form in which
// --json prints them.
func look(ctx context.Context, channel msgmux.Channel, op string) (wire.Status, []wire.Sink, error) {
	request, err := json.Marshal(wire.Request{Op: op})
	if err != nil {
		return wire.Status{}, nil, err
	}
	text, err := channel.Control(ctx, request)
	if err != nil {
		return wire.Status{}, nil, err
	}
	var answer wire.Answer
	if err := json.Unmarshal(text, &answer); err != nil {
		return wire.Status{}, nil, err
	}
	if answer.Status == nil {
		return wire.Status{}, nil, errors.New("the broker's answer is empty")
	}
	return *answer.Status, answer.Sinks, nil
}
