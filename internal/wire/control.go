// SPDX-License-Identifier: Apache-2.0

package wire

// The control socket speaks JSON over SOCK_SEQPACKET: a client connects, sends one Request as one packet, and reads
// packets until the end of the connection; their concatenation is one Answer. (An answer about 4,000 sinks is larger
// than any packet, hence the end of the connection and not the packet ends it.)

// MaxRequest is the largest control request that is read, in bytes; a longer one is answered with an error.
const MaxRequest = 64 << 10

// The operations of a Request.
const (
	OpStatus = "status" // Answer.Status
	OpList   = "list"   // Answer.Status and Answer.Sinks
	OpDrop   = "drop"   // removes the sink that Request.Sink names
	OpSet    = "set"    // changes the sink that Request.Sink names: Patience
)

// Request is what a control client asks. Reading (status, list) is for whoever may connect; changing (drop, set) is
// for root, the broker's own user and the owner of the sink.
type Request struct {
	Op       string `json:"op"`
	Sink     string `json:"sink,omitempty"`     // a label, or an id as "#12"
	Patience string `json:"patience,omitempty"` // set: a duration as in "1.5s", or "forever"
}

// Answer is what the broker says to a Request: OK, or the reason why not.
type Answer struct {
	OK     bool    `json:"ok"`
	Error  *Error  `json:"error,omitempty"`
	Status *Status `json:"status,omitempty"`
	Sinks  []Sink  `json:"sinks,omitempty"`
}

// Status is the state of one channel. Counts are messages, positions and lags are bytes of the ring's record format.
type Status struct {
	Version    string `json:"version"`
	Channel    string `json:"channel"` // "" is the default channel
	PID        int    `json:"pid"`
	RuntimeDir string `json:"runtime_dir"`
	Generation uint64 `json:"generation"`      // of the ring; changes when a new pair of memfds is made
	Starts     uint64 `json:"starts"`          // brokers that have used this ring, this one included
	SinceUnix  int64  `json:"since_unix"`      // when this broker process began, seconds
	RingSince  int64  `json:"ring_since_unix"` // when the ring was made, seconds

	Buffer     uint64 `json:"buffer_bytes"`      // the ring's size
	Used       uint64 `json:"used_bytes"`        // head - tail
	MaxMessage uint64 `json:"max_message_bytes"` // the largest message taken
	MaxSinks   uint64 `json:"max_sinks"`
	SinksRoom  uint64 `json:"sinks_room"` // how many of these there is memory for, should none of them read
	MaxClients uint64 `json:"max_clients"`

	Received     uint64            `json:"received"`      // = Entered + the sum of Refused
	Entered      uint64            `json:"entered"`       // messages in the one total order so far
	EnteredBytes uint64            `json:"entered_bytes"` // their size in the ring's record format
	Landed       uint64            `json:"landed"`        // taken from a source, waiting for room in the ring
	Refused      map[string]uint64 `json:"refused"`       // by reason
	Accepted     uint64            `json:"accepted"`      // deliveries over all sinks, past ones included
	Lost         uint64            `json:"lost"`          // over all sinks, past ones included
	LeftOut      uint64            `json:"left_out"`      // over all sinks: what they did not want, by their options
	Abandoned    uint64            `json:"abandoned"`     // what sinks that went away had not been sent
	Unread       uint64            `json:"unread"`        // of Accepted: what lay unread in sockets that went, at most
	Delivered    uint64            `json:"delivered"`     // the sequence number up to which some sink has accepted
	Tail         uint64            `json:"tail"`          // the sequence number of the oldest record kept
	Uncertain    uint64            `json:"uncertain"`     // message queues only: may be lost or repeated by a kill
	AsOwn        uint64            `json:"as_own"`        // what sinks with credentials=pass got with the broker's own

	Sinks   SinkCounts `json:"sinks"`
	Sources Sources    `json:"sources"`

	// Rates are averages up to now, over so many seconds: one or two where a service manager is told of the channel,
	// and otherwise since an earlier look at it; 0: nobody has looked in the last ten, and no rate is known.
	RateSeconds  float64 `json:"rate_seconds"`
	ReceivedRate float64 `json:"received_rate"` // messages a second

	Registrations map[string]uint64 `json:"registrations"` // by outcome: "ok", or the code of the refusal
	LogDropped    uint64            `json:"log_dropped"`   // log lines that found the queue full
}

// SinkCounts says how many sinks there are, by kind and by state.
type SinkCounts struct {
	Total   int `json:"total"`
	Static  int `json:"static"`
	Dynamic int `json:"dynamic"`
	Framed  int `json:"framed"`
	Taps    int `json:"taps"`
	Stalled int `json:"stalled"`
	Lagging int `json:"lagging"`
	Absent  int `json:"absent"`
}

// Sources says whether the sources wait, why, and since when.
type Sources struct {
	Blocked     bool    `json:"blocked"`
	Why         string  `json:"why,omitempty"`  // "no sink", or "sink LABEL"
	Sink        string  `json:"sink,omitempty"` // the label of the sink that is waited for
	ForSeconds  float64 `json:"for_seconds,omitempty"`
	BlockedSecs float64 `json:"blocked_seconds_total"`

	Sockets []SourceSocket `json:"sockets"`
}

// What a SourceSocket is.
const (
	KindDatagrams   = "datagrams"
	KindConnections = "connections"
	KindQueue       = "queue"
)

// SourceSocket is one of the sockets and message queues that sources send to. What waits is known while the sources are blocked;
// otherwise it is received at once, and shown as 0.
type SourceSocket struct {
	Number       uint32 `json:"number"`            // as in the origin of a message; 0: connections have one each
	Path         string `json:"path"`              // as it was bound, "@NAME" for an abstract one
	Kind         string `json:"kind"`              // datagrams, connections, queue
	Waiting      uint64 `json:"waiting"`           // messages that are not received; of connections see Blocked
	WaitingBytes uint64 `json:"waiting_bytes"`     // of them; of a queue not known
	Blocked      uint64 `json:"blocked,omitempty"` // connections with packets that are not received
}

// Sink is one receiver as the control socket shows it: Accepted + Lost + LeftOut + Waiting = what entered since it began.
type Sink struct {
	ID      uint64 `json:"id"`
	Label   string `json:"label"`
	Kind    string `json:"kind"`  // dynamic, static, framed, queue
	State   string `json:"state"` // ready, stalled, lagging, absent
	Address string `json:"address"`
	UID     uint32 `json:"uid"`
	Share   string `json:"share,omitempty"`
	Tap     bool   `json:"tap,omitempty"`
	Frames  bool   `json:"frames,omitempty"`

	Credentials string `json:"credentials,omitempty"` // "pass": it gets those of the senders

	Patience     string  `json:"patience"`      // a duration, or "forever"
	PatienceLeft float64 `json:"patience_left"` // seconds left before it is left behind; -1 is forever

	Start     uint64  `json:"start"`    // the sequence number it began at
	Next      uint64  `json:"next"`     // the sequence number of the message it gets next
	Accepted  uint64  `json:"accepted"` // for a member of a share: what it took itself
	Lost      uint64  `json:"lost"`
	LeftOut   uint64  `json:"left_out,omitempty"` // what it did not want, by its options
	Unread    uint64  `json:"unread,omitempty"`   // of what it accepted, or its share: what lay unread in sockets that went, at most
	Waiting   uint64  `json:"waiting"`
	LagBytes  uint64  `json:"lag_bytes"`
	Rate      float64 `json:"rate"`       // messages a second that it accepted, over the status's RateSeconds
	SinceUnix int64   `json:"since_unix"` // seconds

	LaggingSince int64 `json:"lagging_since_unix,omitempty"` // seconds; 0: it is not lagging, or was when this broker began

	Ack            bool   `json:"ack,omitempty"`               // it says how far it is done
	View           bool   `json:"view,omitempty"`              // it reads the ring itself
	Unacknowledged uint64 `json:"unacknowledged,omitempty"`    // messages that it was sent and has not done
	Keep           string `json:"keep,omitempty"`              // how long it stays when its connection has gone: a duration, or "forever"
	AbsentSince    int64  `json:"absent_since_unix,omitempty"` // of a kept one: when its connection went, in seconds
	KeptUntil      int64  `json:"kept_until_unix,omitempty"`   // of one that is absent: when it goes, in seconds; 0: it does not
}
