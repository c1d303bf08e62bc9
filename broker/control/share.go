// SPDX-License-Identifier: Apache-2.0

package control

import "time"

// shares says which of the messages that come from a bus are waited for, and which are passed over. Any user of the host
// may send, as fast as the bus takes it, and what we leave unread the bus keeps in its own memory: a flood that we only
// rested from would hold up everybody's calls for as long as it takes to rest from each of its messages. So in each window
// of time there is so much rest for one sender, and so much for all; whatever comes when that is used up is passed over,
// which takes a microsecond or two. The zero value is ready. One goroutine uses it.
type shares struct {
	window  time.Time
	rested  time.Duration
	senders map[string]time.Duration
	refused int // answers that said so
}

const (
	shareWindow = time.Second
	// allRest leaves half of each window for passing over.
	allRest = shareWindow / 2
	// oneRest is what one connection may take of it: some 200 small calls.
	oneRest = allRest / 2
	// maxSenders bounds the map; a bus has fewer connections. Who comes when it is full has no share.
	maxSenders = 4096
	// maxRefusals is how many of those who are passed over are told, in a window.
	maxRefusals = 20
)

// take says whether a message of that sender may be handed on after a rest of d; that is counted then.
func (s *shares) take(now time.Time, sender string, d time.Duration) bool {
	if now.Sub(s.window) >= shareWindow || now.Before(s.window) {
		s.window, s.rested, s.refused = now, 0, 0
		clear(s.senders)
	}
	if s.senders == nil {
		s.senders = make(map[string]time.Duration)
	}
	used, known := s.senders[sender]
	if s.rested >= allRest || used >= oneRest || !known && len(s.senders) >= maxSenders {
		return false
	}
	// Nothing is without cost, even where there is no rest to take.
	s.senders[sender] = used + max(d, callCost)
	s.rested += d
	return true
}

// refuse says whether one that is passed over is to be told.
func (s *shares) refuse() bool {
	s.refused++
	return s.refused <= maxRefusals
}
