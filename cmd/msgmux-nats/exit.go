// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"slices"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/cmd/msgmux-nats/stream"
)

// The exit statuses. They are a part of the interface; msgmux-nats(8) says what to do about each.
const (
	exitFailure  = 1
	exitUsage    = 2 // the command line, or the settings
	exitGone     = 3 // there is no such stream
	exitFull     = 4 // the stream has no room
	exitUnfit    = 5 // the stream is sealed, or set up so that it cannot hold a position
	exitAnew     = 6 // the stream is not the one it was: made anew, emptied, set back
	exitForeign  = 7 // somebody else has written there
	exitInUse    = 8 // another bridge has this one's place in the channel
	exitRefused  = 9 // a server or the channel does not let it in
	exitTooLarge = 10
)

// errAnew is what only a person can decide about, beside the classes of the rooms below: the stream is not the one that the channel was
// joined to.
var errAnew = errors.New("the stream is not the one it was")

// usageError is a mistake in the command line or the settings.
type usageError struct{ error }

// classes are the statuses of errors that do not pass. Everything else is tried again.
var classes = []struct {
	err    error
	status int
}{
	{stream.ErrGone, exitGone}, {stream.ErrFull, exitFull}, {stream.ErrSealed, exitUnfit}, {stream.ErrUnfit, exitUnfit}, {errAnew, exitAnew},
	{stream.ErrForeign, exitForeign}, {msgmux.ErrInUse, exitInUse}, {stream.ErrRefused, exitRefused}, {msgmux.ErrRefused, exitRefused},
	{msgmux.ErrBadOption, exitRefused}, {stream.ErrTooLarge, exitTooLarge}, {msgmux.ErrTooLarge, exitTooLarge},
}

// passing are the codes of refusals by a channel for which the protocol says that the same may succeed later.
var passing = []string{"busy", "quota", "timeout", "internal"}

// statusOf is the status for an error; passes says whether it may be over in a moment.
func statusOf(err error) (status int, passes bool) {
	if errors.As(err, new(usageError)) {
		return exitUsage, false
	}
	if failed, ok := errors.AsType[*msgmux.OpError](err); ok && slices.Contains(passing, failed.Code) {
		return exitFailure, true
	}
	for _, class := range classes {
		if errors.Is(err, class.err) {
			return class.status, false
		}
	}
	return exitFailure, true
}
