// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// Status is the state of one channel. Counts are of messages. Sizes are in bytes; those in the ring, the channel's memory,
// have a few more for each message than its payload has.
type Status struct {
	Version    string    // of the broker
	Channel    string    // its name; "" is the default channel
	RuntimeDir string    // the folder of its sockets
	PID        int       // of the broker
	Since      time.Time // when the broker's process began, to the second
	RingSince  time.Time // when the channel's memory was made, to the second
	Starts     uint64    // how many brokers have used that memory, this one included
	Generation uint64    // another one when the memory was moved, as after a change of its size

	Buffer     uint64 // the size of the ring
	Used       uint64 // what of it holds messages: they stay until the room is needed, so this is no measure of a lag
	MaxMessage int    // the largest message that is taken
	MaxSinks   uint64 // how many sinks there may be
	MaxClients uint64 // how many connected sources

	Received     uint64            // = Entered + the sum of Refused
	Entered      uint64            // in the one order so far
	EnteredBytes uint64            // in the ring
	Landed       uint64            // taken from a source, and waiting for room
	Refused      map[string]uint64 // by reason
	Accepted     uint64            // deliveries to all sinks, past ones included
	Lost         uint64            // by all sinks, past ones included
	LeftOut      uint64            // what sinks did not want, by their options
	Abandoned    uint64            // what sinks that went away had not been sent
	Unread       uint64            // of Accepted: what lay unread in sockets that went, at most
	Uncertain    uint64            // of message queues only: may be lost or repeated by a kill
	AsOwn        uint64            // what sinks that want their senders' credentials got with the broker's own
	Delivered    uint64            // every message with a lower number was accepted by some sink
	Tail         uint64            // the number of the oldest message kept

	Sinks   SinkCounts
	Sources SourcesStatus

	ReceivedRate float64       // messages a second
	RateOver     time.Duration // what rates are the averages of, up to now; 0: none is known, nobody has looked lately

	Registrations map[string]uint64 // by outcome: "ok", or the code of the refusal
	LogDropped    uint64            // log lines that found the queue full
}

// SinkCounts says how many sinks there are, by kind and by state.
type SinkCounts struct {
	Total                   int
	Static, Dynamic, Framed int // by kind
	Taps                    int
	Stalled, Lagging        int // by state
	Absent                  int
}

// SourcesStatus says whether sources wait.
type SourcesStatus struct {
	Blocked      bool
	Why          string        // "no sink", or "sink LABEL"
	Sink         string        // the label of the sink that is waited for
	For          time.Duration // how long they have waited
	BlockedTotal time.Duration // since the channel's memory was made

	Sockets []SourceSocket
}

// SourceSocket is a socket or message queue that sources send to. What waits is known while sources are blocked, and else 0.
type SourceSocket struct {
	Number       uint32 // tells it from the others, also in what an earlier broker of the channel has received; 0: connections
	Path         string // "@NAME" for an abstract one
	Kind         string // "datagrams", "connections", "queue"; later versions may have more
	Waiting      uint64 // messages
	WaitingBytes uint64 // their size, or that of the packets in connections; of a message queue not known
	Blocked      uint64 // connections in which something waits
}

// SinkKind is how a sink is reached.
type SinkKind string

// The kinds of sinks; later versions may have more.
const (
	KindDynamic SinkKind = "dynamic" // a datagram socket that was registered
	KindStatic  SinkKind = "static"  // a datagram socket that was declared
	KindFramed  SinkKind = "framed"  // a connection
	KindQueue   SinkKind = "queue"   // a POSIX message queue
)

// SinkState is how a sink is.
type SinkState string

// The states of sinks; later versions may have more.
const (
	StateReady   SinkState = "ready"
	StateStalled SinkState = "stalled" // its socket is full
	StateLagging SinkState = "lagging" // its patience is spent: it is waited for no more, and loses messages when room is needed
	StateAbsent  SinkState = "absent"  // nobody has its socket open
)

// SinkStatus is one sink as its channel sees it: Accepted + Lost + LeftOut + Waiting = what entered since it began.
type SinkStatus struct {
	ID          uint64
	Label       string
	Kind        SinkKind
	State       SinkState
	Address     string // "@NAME" or "/PATH"; "" for a connection
	UID         uint32 // its owner
	Share       string // "" for none
	Tap         bool
	Frames      bool   // many messages come in one packet
	Credentials string // "pass": each message carries its sender's; "": the broker's

	Patience     time.Duration // Forever, or how long the channel waits for it
	PatienceLeft time.Duration // of that; Forever: without end

	Start        uint64 // the number of the message it began with
	Next         uint64 // the number of the message it gets next
	Accepted     uint64 // of a member of a share, what it took itself
	Lost         uint64
	LeftOut      uint64 // what it did not want, by its options
	Unread       uint64 // of what it accepted, or its share: what lay unread in sockets that went, at most
	Waiting      uint64
	LagBytes     uint64    // what waits for it, in the ring
	Rate         float64   // messages a second that it accepted, over Status.RateOver
	Since        time.Time // to the second
	LaggingSince time.Time // to the second; zero: it does not lag, or did when this broker began

	Ack            bool          // it says how far it is done: Accepted, Waiting and Next are by that
	View           bool          // it reads the channel's memory itself: see SinkOptions.View
	Unacknowledged uint64        // messages that it was sent and has not done
	Keep           time.Duration // how long it stays when its connection has gone; Forever: without end; 0: it does not
	AbsentSince    time.Time     // of a kept one: when its connection went; zero: it is there
	KeptUntil      time.Time     // when it goes, if nobody comes back for it; zero: it is there, or does not
}

// status is w in this package's terms.
func status(w *wire.Status) Status {
	return Status{
		Version: w.Version, Channel: w.Channel, RuntimeDir: w.RuntimeDir, PID: w.PID, Since: unixTime(w.SinceUnix),
		RingSince: unixTime(w.RingSince), Starts: w.Starts, Generation: w.Generation,
		Buffer: w.Buffer, Used: w.Used, MaxMessage: int(min(w.MaxMessage, MaxMessage)), MaxSinks: w.MaxSinks, MaxClients: w.MaxClients,
		Received: w.Received, Entered: w.Entered, EnteredBytes: w.EnteredBytes, Landed: w.Landed, Refused: w.Refused,
		Accepted: w.Accepted, Lost: w.Lost, LeftOut: w.LeftOut, Abandoned: w.Abandoned, Unread: w.Unread, Uncertain: w.Uncertain, AsOwn: w.AsOwn,
		Delivered: w.Delivered, Tail: w.Tail,
		Sinks: SinkCounts(w.Sinks),
		Sources: SourcesStatus{Blocked: w.Sources.Blocked, Why: w.Sources.Why, Sink: w.Sources.Sink,
			For: seconds(w.Sources.ForSeconds), BlockedTotal: seconds(w.Sources.BlockedSecs), Sockets: sourceSockets(w.Sources.Sockets)},
		ReceivedRate: w.ReceivedRate, RateOver: seconds(w.RateSeconds), Registrations: w.Registrations, LogDropped: w.LogDropped,
	}
}

func sourceSockets(all []wire.SourceSocket) (sockets []SourceSocket) {
	for _, s := range all {
		sockets = append(sockets, SourceSocket(s))
	}
	return sockets
}

// sinkStatus is w in this package's terms. A patience that cannot be read is one of a later version, and 0.
func sinkStatus(w wire.Sink) SinkStatus {
	patience, _ := wire.ParsePatience(w.Patience)
	keep, _ := wire.ParseKeep(w.Keep)
	left := seconds(w.PatienceLeft)
	if w.PatienceLeft < 0 {
		left = Forever
	}
	return SinkStatus{
		ID: w.ID, Label: w.Label, Kind: SinkKind(w.Kind), State: SinkState(w.State), Address: w.Address, UID: w.UID,
		Share: w.Share, Tap: w.Tap, Frames: w.Frames, Credentials: w.Credentials, Patience: patience, PatienceLeft: left,
		Start: w.Start, Next: w.Next, Accepted: w.Accepted, Lost: w.Lost, LeftOut: w.LeftOut, Unread: w.Unread, Waiting: w.Waiting, LagBytes: w.LagBytes, Rate: w.Rate,
		Since: unixTime(w.SinceUnix), LaggingSince: unixTime(w.LaggingSince),
		Ack: w.Ack, View: w.View, Unacknowledged: w.Unacknowledged, Keep: keep, AbsentSince: unixTime(w.AbsentSince), KeptUntil: unixTime(w.KeptUntil),
	}
}

// unixTime is the zero time for 0.
func unixTime(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// seconds turns the control socket's seconds into a duration.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
