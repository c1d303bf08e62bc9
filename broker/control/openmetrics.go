// SPDX-License-Identifier: Apache-2.0

package control

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/msgmux/msgmux/internal/wire"
)

// The text of the metrics, by https://prometheus.io/docs/specs/om/open_metrics_spec/ and, in the older format, by
// https://prometheus.io/docs/instrumenting/exposition_formats/. All that tells the two apart here is that OpenMetrics
// calls a counter without _total in its comments.

// family is a metric of one value, or of one for each sink.
type family[T any] struct {
	name    string // without _total
	unit    string // the name ends with it; "" for a mere number
	counter bool
	help    string
	value   func(T) float64
}

// ofChannel are the metrics of the channel that have no label.
var ofChannel = []family[*wire.Status]{
	{"msgmux_start_time_seconds", "seconds", false, "When this broker process began, in seconds since 1970.",
		func(s *wire.Status) float64 { return float64(s.SinceUnix) }},
	{"msgmux_restarts", "", true, "Brokers that have gone on with this ring after another.",
		func(s *wire.Status) float64 { return float64(max(s.Starts, 1) - 1) }},
	{"msgmux_messages_received", "", true, "Messages taken from sources: those that entered the ring and those that were refused.",
		func(s *wire.Status) float64 { return float64(s.Received) }},
	{"msgmux_messages_entered", "", true, "Messages that entered the ring.",
		func(s *wire.Status) float64 { return float64(s.Entered) }},
	{"msgmux_entered_bytes", "bytes", true, "Bytes that entered the ring: payload, 4 bytes for each message, padding to 4.",
		func(s *wire.Status) float64 { return float64(s.EnteredBytes) }},
	{"msgmux_messages_accepted", "", true, "Deliveries: messages accepted by sinks, those that are gone included.",
		func(s *wire.Status) float64 { return float64(s.Accepted) }},
	{"msgmux_messages_lost", "", true, "Messages lost by sinks, those that are gone included.",
		func(s *wire.Status) float64 { return float64(s.Lost) }},
	{"msgmux_messages_left_out", "", true, "Messages that sinks did not want, by their options, those of sinks that are gone included.",
		func(s *wire.Status) float64 { return float64(s.LeftOut) }},
	{"msgmux_messages_abandoned", "", true, "Messages that sinks had not been sent when they went away.",
		func(s *wire.Status) float64 { return float64(s.Abandoned) }},
	{"msgmux_messages_unread", "", true, "Messages that sinks had accepted and that lay unread in sockets that went, at most.",
		func(s *wire.Status) float64 { return float64(s.Unread) }},
	{"msgmux_messages_uncertain", "", true, "Messages of message queues that a kill of the broker may have lost or repeated.",
		func(s *wire.Status) float64 { return float64(s.Uncertain) }},
	{"msgmux_messages_as_own", "", true, "Messages that sinks with credentials=pass got with the broker's own, for want of their senders'.",
		func(s *wire.Status) float64 { return float64(s.AsOwn) }},
	{"msgmux_landed_messages", "", false, "Messages or packets that were taken from a source and wait for room in the ring.",
		func(s *wire.Status) float64 { return float64(s.Landed) }},
	{"msgmux_ring_size_bytes", "bytes", false, "Size of the ring.",
		func(s *wire.Status) float64 { return float64(s.Buffer) }},
	{"msgmux_ring_used_bytes", "bytes", false, "How much of the ring holds messages.",
		func(s *wire.Status) float64 { return float64(s.Used) }},
	{"msgmux_sinks_limit", "", false, "How many sinks there may be, by --max-sinks and by the memory for their queues.",
		func(s *wire.Status) float64 { return float64(s.SinksRoom) }},
	{"msgmux_sinks_stalled", "", false, "Sinks whose queue is full.",
		func(s *wire.Status) float64 { return float64(s.Sinks.Stalled) }},
	{"msgmux_sinks_lagging", "", false, "Sinks that are no longer waited for.",
		func(s *wire.Status) float64 { return float64(s.Sinks.Lagging) }},
	{"msgmux_sinks_absent", "", false, "Declared and kept sinks that nobody is behind.",
		func(s *wire.Status) float64 { return float64(s.Sinks.Absent) }},
	{"msgmux_sources_blocked", "", false, "1 while somebody has sent what is not received, for want of room in the ring or of a sink.",
		func(s *wire.Status) float64 { return number(s.Sources.Blocked) }},
	{"msgmux_sources_blocked_seconds", "seconds", true, "How long the sources have waited in all, by this broker process.",
		func(s *wire.Status) float64 { return s.Sources.BlockedSecs }},
	{"msgmux_log_lines_dropped", "", true, "Log lines that found no room.",
		func(s *wire.Status) float64 { return float64(s.LogDropped) }},
}

// ofSink are the metrics of each sink.
var ofSink = []family[*wire.Sink]{
	{"msgmux_sink_messages_accepted", "", true, "Messages that the sink has accepted.",
		func(s *wire.Sink) float64 { return float64(s.Accepted) }},
	{"msgmux_sink_messages_lost", "", true, "Messages that the sink has lost; of a share, what the share has.",
		func(s *wire.Sink) float64 { return float64(s.Lost) }},
	{"msgmux_sink_messages_left_out", "", true, "Messages that the sink did not want, by its options; of a share, what the share did not.",
		func(s *wire.Sink) float64 { return float64(s.LeftOut) }},
	{"msgmux_sink_messages_unread", "", true, "Messages that lay unread in sockets of the sink that went, at most; of a share, in those of its sinks.",
		func(s *wire.Sink) float64 { return float64(s.Unread) }},
	{"msgmux_sink_lag_messages", "", false, "Messages between the sink's cursor and the head.",
		func(s *wire.Sink) float64 { return float64(s.Waiting) }},
	{"msgmux_sink_lag_bytes", "bytes", false, "Bytes of the ring between the sink's cursor and the head.",
		func(s *wire.Sink) float64 { return float64(s.LagBytes) }},
	{"msgmux_sink_stalled", "", false, "1 while the sink's queue is full.",
		func(s *wire.Sink) float64 { return number(s.State == "stalled") }},
	{"msgmux_sink_lagging", "", false, "1 while the sink is no longer waited for.",
		func(s *wire.Sink) float64 { return number(s.State == "lagging") }},
	{"msgmux_sink_absent", "", false, "1 while the sink cannot be reached.",
		func(s *wire.Sink) float64 { return number(s.State == "absent") }},
	{"msgmux_sink_unacknowledged_messages", "", false, "Messages that the sink was sent and has not said to be done with; 0 of one that says nothing.",
		func(s *wire.Sink) float64 { return float64(s.Unacknowledged) }},
	{"msgmux_sink_kept_until_time_seconds", "seconds", false, "When a kept sink that is away goes, in seconds since 1970; 0: it is there, or stays.",
		func(s *wire.Sink) float64 { return float64(s.KeptUntil) }},
	{"msgmux_sink_patience_seconds", "seconds", false, "How long the sink may make others wait; +Inf is forever.", patience},
	{"msgmux_sink_patience_left_seconds", "seconds", false, "How much of that is left; +Inf is forever.",
		func(s *wire.Sink) float64 {
			if s.PatienceLeft < 0 {
				return math.Inf(1)
			}
			return s.PatienceLeft
		}},
	{"msgmux_sink_start_time_seconds", "seconds", false, "When the sink was added, in seconds since 1970.",
		func(s *wire.Sink) float64 { return float64(s.SinceUnix) }},
}

func patience(s *wire.Sink) float64 {
	d, err := wire.ParsePatience(s.Patience)
	switch {
	case err != nil:
		return math.NaN()
	case d == wire.Forever:
		return math.Inf(1)
	}
	return d.Seconds()
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// labelled is a metric of several values, told apart by one label or by several.
type labelled struct {
	name    string
	counter bool
	help    string
	samples func(w *exposition, st *wire.Status, sinks []wire.Sink)
}

var withLabels = []labelled{
	{"msgmux_build_info", false, "The version of the broker; the value is always 1.",
		func(w *exposition, st *wire.Status, _ []wire.Sink) { w.sample(1, "version", st.Version) }},
	{"msgmux_messages_refused", true, "Messages that did not enter the ring, by reason.",
		func(w *exposition, st *wire.Status, _ []wire.Sink) { w.counts("reason", st.Refused) }},
	{"msgmux_source_waiting_messages", false, "Messages that lie in a socket or queue for sources while these are blocked.",
		func(w *exposition, st *wire.Status, _ []wire.Sink) {
			w.sockets(st, func(s *wire.SourceSocket) (float64, bool) { return float64(s.Waiting), s.Kind != wire.KindConnections })
		}},
	{"msgmux_source_waiting_bytes", false, "Bytes that lie in a socket for sources, or in connections, while these are blocked.",
		func(w *exposition, st *wire.Status, _ []wire.Sink) {
			w.sockets(st, func(s *wire.SourceSocket) (float64, bool) { return float64(s.WaitingBytes), s.Kind != wire.KindQueue })
		}},
	{"msgmux_registrations", true, "Registrations and connections of clients: ok, or why they were refused.",
		func(w *exposition, st *wire.Status, _ []wire.Sink) { w.counts("outcome", st.Registrations) }},
	{"msgmux_sinks", false, "Sinks, by kind.",
		func(w *exposition, _ *wire.Status, sinks []wire.Sink) {
			kinds := map[string]uint64{"dynamic": 0, "framed": 0, "static": 0, "queue": 0}
			for i := range sinks {
				kinds[sinks[i].Kind]++
			}
			w.counts("kind", kinds)
		}},
	{"msgmux_sink_info", false, "What a sink is; the value is always 1.",
		func(w *exposition, _ *wire.Status, sinks []wire.Sink) {
			for i := range sinks {
				s := &sinks[i]
				tap := "no"
				if s.Tap {
					tap = "yes"
				}
				w.sample(1, "sink", s.Label, "kind", s.Kind, "uid", strconv.FormatUint(uint64(s.UID), 10), "share", s.Share, "tap", tap)
			}
		}},
	{"msgmux_sink_blocks_sources", false, "1 for the sink that the sources wait for.",
		func(w *exposition, st *wire.Status, sinks []wire.Sink) {
			for i := range sinks {
				blocks := st.Sources.Blocked && st.Sources.Sink != "" &&
					(st.Sources.Sink == sinks[i].Label || sinks[i].Share != "" && st.Sources.Sink == sinks[i].Share)
				w.sample(number(blocks), "sink", sinks[i].Label)
			}
		}},
}

// exposition is a text in the making. A metric is begun, and then has its samples.
type exposition struct {
	text   []byte
	open   bool   // OpenMetrics
	series string // the name of the samples
}

// appendMetrics appends the metrics as text. Every name of a metric is followed by all of its samples, and no two samples
// are the same but for their value.
func appendMetrics(dst []byte, st *wire.Status, sinks []wire.Sink, open bool) []byte {
	// A label may have gone over to another sink while the table was read.
	seen := make(map[string]bool, len(sinks))
	sinks = slices.DeleteFunc(sinks, func(s wire.Sink) bool {
		twice := seen[s.Label]
		seen[s.Label] = true
		return twice
	})
	w := exposition{text: dst, open: open}
	for _, f := range ofChannel {
		w.begin(f.name, f.unit, f.counter, f.help)
		w.sample(f.value(st))
	}
	for _, f := range withLabels {
		w.begin(f.name, "", f.counter, f.help)
		f.samples(&w, st, sinks)
	}
	for _, f := range ofSink {
		w.begin(f.name, f.unit, f.counter, f.help)
		for i := range sinks {
			w.sample(f.value(&sinks[i]), "sink", sinks[i].Label)
		}
	}
	return append(w.text, "# EOF\n"...) // of OpenMetrics; to the older format, a comment
}

// begin writes what a metric is.
func (w *exposition) begin(name, unit string, counter bool, help string) {
	kind := "gauge"
	w.series = name
	if counter {
		kind = "counter"
		w.series += "_total"
		if !w.open {
			name = w.series
		}
	}
	w.comment("HELP", name, help)
	w.comment("TYPE", name, kind)
	if unit != "" && w.open {
		w.comment("UNIT", name, unit)
	}
}

func (w *exposition) comment(what, name, text string) {
	w.text = append(w.text, "# "+what+" "+name+" "+text+"\n"...)
}

// sockets writes a sample for each of the sockets for sources that have one. Two may be of the same name, the file of one being gone.
func (w *exposition) sockets(st *wire.Status, value func(*wire.SourceSocket) (v float64, known bool)) {
	sums, order := make(map[string]float64), []string(nil)
	for i := range st.Sources.Sockets {
		s := &st.Sources.Sockets[i]
		v, known := value(s)
		if !known {
			continue
		}
		if _, twice := sums[s.Path]; !twice {
			order = append(order, s.Path)
		}
		sums[s.Path] += v
	}
	for _, path := range order {
		w.sample(sums[path], "source", path)
	}
}

// counts writes a sample for each of the keys, in order.
func (w *exposition) counts(label string, counts map[string]uint64) {
	keys := make([]string, 0, len(counts))
	for k := range counts {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		w.sample(float64(counts[k]), label, k)
	}
}

// sample writes one value. labels are names and values in turn.
func (w *exposition) sample(v float64, labels ...string) {
	w.text = append(w.text, w.series...)
	sep := byte('{')
	for i := 0; i < len(labels); i += 2 {
		w.text = append(append(w.text, sep), labels[i]...)
		w.text = append(w.text, '=', '"')
		w.text = appendEscaped(w.text, labels[i+1])
		w.text = append(w.text, '"')
		sep = ','
	}
	if len(labels) > 0 {
		w.text = append(w.text, '}')
	}
	w.text = append(w.text, ' ')
	switch {
	case math.IsInf(v, 1):
		w.text = append(w.text, "+Inf"...)
	case v == math.Trunc(v) && math.Abs(v) < 1<<63:
		w.text = strconv.AppendInt(w.text, int64(v), 10)
	default:
		w.text = strconv.AppendFloat(w.text, v, 'g', -1, 64)
	}
	w.text = append(w.text, '\n')
}

var escapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// appendEscaped appends the value of a label. Almost none has anything to escape.
func appendEscaped(dst []byte, s string) []byte {
	if strings.ContainsAny(s, "\\\"\n") {
		s = escapes.Replace(s)
	}
	return append(dst, strings.ToValidUTF8(s, "?")...)
}
