// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// What this program prints as JSON is a promise of its own, whatever the control socket or the client change: each form is
// a type with the word JSON or a line in its comment, has a golden file in testdata, and is described in msgmux-formats(5).
// Times are moments, durations are seconds.

// moment is a time as all JSON and all lines have it: RFC 3339 in UTC with nine digits, so that texts sort as times do.
type moment struct{ time.Time }

// timeForm has a Z that stands for itself: the time is in UTC.
const timeForm = "2006-01-02T15:04:05.000000000Z"

func formatTime(t time.Time) string { return t.UTC().Format(timeForm) }

func (m moment) MarshalJSON() ([]byte, error) { return []byte(`"` + formatTime(m.Time) + `"`), nil }

// unixMoment is the moment so many seconds after 1970; nil for 0, which stands for none.
func unixMoment(seconds int64) *moment {
	if seconds == 0 {
		return nil
	}
	return &moment{time.Unix(seconds, 0)}
}

// statusJSON is what status --json prints, and one line of status --watch --json.
type statusJSON struct {
	Time    moment      `json:"time"` // when the broker was asked
	Status  channelJSON `json:"status"`
	Sinks   []sinkJSON  `json:"sinks"`
	Senders []sender    `json:"senders,omitempty"` // those that --senders asks for
	Readers []sinkEnd   `json:"readers,omitempty"` // and --readers
}

// channelJSON is a channel.
type channelJSON struct {
	Version    string  `json:"version"`
	Channel    string  `json:"channel"`
	PID        int     `json:"pid"`
	RuntimeDir string  `json:"runtime_dir"`
	Generation uint64  `json:"generation"`
	Starts     uint64  `json:"starts"`
	Since      *moment `json:"since"`
	RingSince  *moment `json:"ring_since"`

	Buffer     uint64 `json:"buffer_bytes"`
	Used       uint64 `json:"used_bytes"`
	MaxMessage uint64 `json:"max_message_bytes"`
	MaxSinks   uint64 `json:"max_sinks"`
	SinksRoom  uint64 `json:"sinks_room"`
	MaxClients uint64 `json:"max_clients"`

	Received     uint64            `json:"received"`
	Entered      uint64            `json:"entered"`
	EnteredBytes uint64            `json:"entered_bytes"`
	Landed       uint64            `json:"landed"`
	Refused      map[string]uint64 `json:"refused"`
	Accepted     uint64            `json:"accepted"`
	Lost         uint64            `json:"lost"`
	LeftOut      uint64            `json:"left_out"`
	Abandoned    uint64            `json:"abandoned"`
	Unread       uint64            `json:"unread"`
	Delivered    uint64            `json:"delivered"`
	Tail         uint64            `json:"tail"`
	Uncertain    uint64            `json:"uncertain"`
	AsOwn        uint64            `json:"as_own"`

	Sinks   sinkCountsJSON `json:"sinks"`
	Sources sourcesJSON    `json:"sources"`

	RateSeconds  float64 `json:"rate_seconds"`
	ReceivedRate float64 `json:"received_rate"`

	Registrations map[string]uint64 `json:"registrations"`
	LogDropped    uint64            `json:"log_dropped"`
}

// sinkCountsJSON is how many sinks there are, by kind and by state.
type sinkCountsJSON struct {
	Total   int `json:"total"`
	Static  int `json:"static"`
	Dynamic int `json:"dynamic"`
	Framed  int `json:"framed"`
	Taps    int `json:"taps"`
	Stalled int `json:"stalled"`
	Lagging int `json:"lagging"`
	Absent  int `json:"absent"`
}

// sourcesJSON is whether the sources wait.
type sourcesJSON struct {
	Blocked     bool    `json:"blocked"`
	Why         string  `json:"why,omitempty"`
	Sink        string  `json:"sink,omitempty"`
	ForSeconds  float64 `json:"for_seconds,omitempty"`
	BlockedSecs float64 `json:"blocked_seconds_total"`

	Sockets []sourceSocketJSON `json:"sockets"`
}

// sourceSocketJSON is one of the sockets and message queues for sources.
type sourceSocketJSON struct {
	Number       uint32 `json:"number"`
	Path         string `json:"path"`
	Kind         string `json:"kind"`
	Waiting      uint64 `json:"waiting"`
	WaitingBytes uint64 `json:"waiting_bytes"`
	Blocked      uint64 `json:"blocked,omitempty"`
}

func sourcesAsJSON(s wire.Sources) sourcesJSON {
	sockets := make([]sourceSocketJSON, 0, len(s.Sockets)) // "[]", not "null"
	for _, k := range s.Sockets {
		sockets = append(sockets, sourceSocketJSON(k))
	}
	return sourcesJSON{Blocked: s.Blocked, Why: s.Why, Sink: s.Sink, ForSeconds: s.ForSeconds, BlockedSecs: s.BlockedSecs, Sockets: sockets}
}

// sinkJSON is a sink: an element of what sinks --json prints.
type sinkJSON struct {
	ID      uint64 `json:"id"`
	Label   string `json:"label"`
	Kind    string `json:"kind"`
	State   string `json:"state"`
	Address string `json:"address"`
	UID     uint32 `json:"uid"`
	Share   string `json:"share,omitempty"`
	Tap     bool   `json:"tap,omitempty"`
	Frames  bool   `json:"frames,omitempty"`

	Credentials string `json:"credentials,omitempty"`

	Patience     string  `json:"patience"`
	PatienceLeft float64 `json:"patience_left"`

	Start    uint64  `json:"start"`
	Next     uint64  `json:"next"`
	Accepted uint64  `json:"accepted"`
	Lost     uint64  `json:"lost"`
	LeftOut  uint64  `json:"left_out,omitempty"`
	Unread   uint64  `json:"unread,omitempty"`
	Waiting  uint64  `json:"waiting"`
	LagBytes uint64  `json:"lag_bytes"`
	Rate     float64 `json:"rate"`
	Since    *moment `json:"since"`

	LaggingSince *moment `json:"lagging_since,omitempty"`

	Ack            bool    `json:"ack,omitempty"`
	View           bool    `json:"view,omitempty"`
	Unacknowledged uint64  `json:"unacknowledged,omitempty"`
	Keep           string  `json:"keep,omitempty"`
	AbsentSince    *moment `json:"absent_since,omitempty"`
	KeptUntil      *moment `json:"kept_until,omitempty"`
}

// asJSON is what a channel has answered, in the form of this program.
func (l listing) asJSON(at time.Time) statusJSON {
	return statusJSON{Time: moment{at}, Status: channelAsJSON(l.Status), Sinks: sinksAsJSON(l.Sinks), Senders: l.Senders, Readers: l.Readers}
}

func channelAsJSON(s wire.Status) channelJSON {
	return channelJSON{
		Version: s.Version, Channel: s.Channel, PID: s.PID, RuntimeDir: s.RuntimeDir, Generation: s.Generation, Starts: s.Starts,
		Since: unixMoment(s.SinceUnix), RingSince: unixMoment(s.RingSince), Buffer: s.Buffer, Used: s.Used,
		MaxMessage: s.MaxMessage, MaxSinks: s.MaxSinks, SinksRoom: s.SinksRoom, MaxClients: s.MaxClients, Received: s.Received, Entered: s.Entered,
		EnteredBytes: s.EnteredBytes, Landed: s.Landed, Refused: s.Refused, Accepted: s.Accepted, Lost: s.Lost, LeftOut: s.LeftOut,
		Abandoned: s.Abandoned, Unread: s.Unread, Delivered: s.Delivered, Tail: s.Tail, Uncertain: s.Uncertain, AsOwn: s.AsOwn,
		Sinks: sinkCountsJSON(s.Sinks), Sources: sourcesAsJSON(s.Sources), RateSeconds: s.RateSeconds,
		ReceivedRate: s.ReceivedRate, Registrations: s.Registrations, LogDropped: s.LogDropped,
	}
}

func sinksAsJSON(sinks []wire.Sink) []sinkJSON {
	list := make([]sinkJSON, 0, len(sinks)) // "[]", not "null"
	for _, s := range sinks {
		list = append(list, sinkJSON{
			ID: s.ID, Label: s.Label, Kind: s.Kind, State: s.State, Address: s.Address, UID: s.UID, Share: s.Share, Tap: s.Tap,
			Frames: s.Frames, Credentials: s.Credentials, Patience: s.Patience, PatienceLeft: s.PatienceLeft, Start: s.Start, Next: s.Next,
			Accepted: s.Accepted, Lost: s.Lost, LeftOut: s.LeftOut, Unread: s.Unread, Waiting: s.Waiting, LagBytes: s.LagBytes, Rate: s.Rate,
			Since: unixMoment(s.SinceUnix), LaggingSince: unixMoment(s.LaggingSince), Ack: s.Ack, View: s.View, Unacknowledged: s.Unacknowledged,
			Keep: s.Keep, AbsentSince: unixMoment(s.AbsentSince), KeptUntil: unixMoment(s.KeptUntil),
		})
	}
	return list
}

// encodeJSON is a value as JSON that can be shown on any terminal, indented or on one line, with a newline.
func encodeJSON(value any, indent bool) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if indent {
		encoder.SetIndent("", "  ")
	}
	if err := encoder.Encode(value); err != nil {
		return nil, fmt.Errorf("cannot write JSON: %w", err)
	}
	return appendEscaped(nil, text.Bytes()), nil
}

// printJSON writes a value on standard output.
func printJSON(value any, indent bool) error {
	text, err := encodeJSON(value, indent)
	if err != nil {
		return err
	}
	return printText(text)
}
