// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"sync/atomic"
	"time"
)

// SourceStats are what a source counts.
type SourceStats struct {
	Messages   uint64        // sent
	Bytes      uint64        // in their payloads
	Reconnects uint64        // how often the source was connected again
	Blocked    time.Duration // how long sending has waited for the channel, in all and up to now
	Stage      bool          // it writes to memory that it shares with the broker: SourceOptions.Stage
}

// sourceCounts are the stats as they are kept.
type sourceCounts struct {
	messages, bytes, reconnects atomic.Uint64
	blocked                     atomic.Int64 // ns of the waits that are over
	stage                       atomic.Bool
	since                       atomic.Int64 // when the present wait began, as of counting; 0: nobody waits
}

// counting is what the moments of sourceCounts are counted from.
var counting = time.Now()

func (c *sourceCounts) wait() { c.since.Store(int64(time.Since(counting))) }

func (c *sourceCounts) waited() { c.blocked.Add(int64(time.Since(counting)) - c.since.Swap(0)) }

// Stats returns the counts of this moment. It never waits.
func (s *Source) Stats() SourceStats {
	c := &s.counts
	blocked := c.blocked.Load()
	if since := c.since.Load(); since != 0 {
		blocked += int64(time.Since(counting)) - since
	}
	return SourceStats{Messages: c.messages.Load(), Bytes: c.bytes.Load(), Reconnects: c.reconnects.Load(),
		Blocked: time.Duration(blocked), Stage: c.stage.Load()}
}

// SinkStats are what a sink counts.
type SinkStats struct {
	Messages uint64 // that came; those of a packet come together
	Bytes    uint64 // in their payloads

	// Lost is how many messages were lost, as far as packets have told; in a share, those of all since this sink joined; on an
	// inherited socket, those since the first packet, and without frames 0. SinkStatus.Lost is the whole.
	Lost uint64

	Gaps       uint64 // how often messages were missing: how often OnGap is called
	Reconnects uint64 // how often the sink was connected again
	View       bool   // it reads the channel's memory itself: SinkOptions.View
}

// sinkCounts are the stats as they are kept.
type sinkCounts struct {
	messages, bytes, lost, gaps, reconnects atomic.Uint64
	view                                    atomic.Bool
}

// Stats returns the counts of this moment. It never waits.
func (s *Sink) Stats() SinkStats {
	c := &s.counts
	return SinkStats{Messages: c.messages.Load(), Bytes: c.bytes.Load(), Lost: c.lost.Load(), Gaps: c.gaps.Load(),
		Reconnects: c.reconnects.Load(), View: c.view.Load()}
}
