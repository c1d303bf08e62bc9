// SPDX-License-Identifier: Apache-2.0

package units

// The load under which channels are restarted and killed: sources that wait, sinks of every kind, all counting.

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/units/rig"
	"github.com/msgmux/msgmux/units/rig/load/tally"
)

// traffic is running load on one channel.
type traffic struct {
	*place
	sources []*rig.Process
	sinks   []*rig.Process
	before  account // as the channel was when the traffic began
	units   []string
}

// reports is what everybody counted, once the traffic has ended.
type reports struct {
	sources []tally.Sender
	sinks   []tally.Sink
	account account
}

// The message queues, of which a kill may spoil a message: the number of the source that sends to one, and the name of the
// sink that is one.
const (
	queueSource = 9
	queueSink   = "/dev/mqueue/mq"
)

// begin starts the default channel and has sinks and sources join it: two sinks with abstract names, two with paths, one
// static of a socket unit, one a message queue, and a framed one; two connected sources, an unconnected one, a framed one,
// and one that sends to a message queue. All sources send as fast as they can, and all sinks are waited for: nothing may
// get lost. pace are more flags for the sources.
func (b *bed) begin(pace ...string) *traffic {
	b.t.Helper()
	p := b.channel("")
	x := &traffic{place: p}
	p.systemctl("enable", "msgmux-mq.socket")
	p.systemctl("start", "msgmux.target", p.service)
	x.staticSink("archive")
	x.queueSink(queueSink)
	x.before = p.account()
	register := []string{"--register", p.folder + "/register", "--option", "patience=forever", "--settle", "500ms"}
	for _, name := range []string{"@mm-one", "@mm-two", "/tmp/mm-three", "/tmp/mm-four"} {
		x.sinks = append(x.sinks, b.StartLoadAs(p.as, append([]string{"sink", "--bind", name}, register...)...))
	}
	x.sinks = append(x.sinks, b.StartLoadAs(p.as, "subscribe", "--from", p.folder+"/subscribe", "--option", "patience=forever", "--settle", "500ms"))
	p.untilStatus("that all sinks are there", func(s statusLine) bool { return s.static == 2 && s.dynamic == 5 && s.absent == 0 })
	for _, flags := range [][]string{
		{"--source=1", "--to", p.folder + "/source", "--spread=400"},
		{"--source=2", "--to", p.folder + "/source", "--spread=2000"},
		{"--source=3", "--to", p.folder + "/source", "--unconnected"},
		{"--source=4", "--to", p.folder + "/publish", "--records=20", "--spread=200"},
		{"--source=" + fmt.Sprint(queueSource), "--to", "/dev/mqueue/msgmux"},
	} {
		x.sources = append(x.sources, b.StartLoadAs(p.as, slices.Concat([]string{"send"}, flags, pace)...))
	}
	return x
}

// staticSink declares a sink of the default channel by the socket unit that is there for it, with a consumer that reports.
func (x *traffic) staticSink(name string) {
	x.b.WriteFile("/etc/msgmux/sinks/"+name+".conf", []byte("patience=forever\n"), 0o644)
	x.b.WriteFile("/etc/systemd/system/"+name+".service", fmt.Appendf(nil,
		"[Service]\nExecStart=/usr/bin/load sink --inherit --settle 500ms\nSockets=msgmux-sink@%[1]s.socket\nStandardOutput=truncate:/run/%[1]s.json\nStandardError=journal\n", name), 0o644)
	x.systemctl("daemon-reload")
	x.systemctl("start", "msgmux-sink@"+name+".socket")
	x.units = append(x.units, name)
}

// queueSink declares a message queue as a sink. It has room for ten messages.
func (x *traffic) queueSink(queue string) {
	name := path.Base(queue)
	x.b.WriteFile("/etc/msgmux/sinks/"+name+".conf", []byte("patience=forever\n"), 0o644)
	x.b.MustRun("sh", "-c", `touch "$1" && chgrp msgmux "$1" && chmod 660 "$1" && ln -sf "$1" "$2"`, "sh", queue, x.folder+"/sinks/"+name)
	x.sinks = append(x.sinks, x.b.StartLoad("queue", "--from", queue, "--settle", "500ms"))
}

// end stops the sources, waits until every sink has everything, stops the sinks, and collects all reports.
func (x *traffic) end() (r reports) {
	x.b.t.Helper()
	for _, p := range x.sources {
		p.Signal(unix.SIGTERM)
	}
	for _, p := range x.sources {
		r.sources = append(r.sources, p.Sender())
	}
	x.untilDelivered()
	// What the status says now is what the clients must have counted.
	r.account = x.account()
	x.checkStatus(r.account)
	for _, p := range x.sinks {
		p.Signal(unix.SIGTERM)
	}
	for _, p := range x.sinks {
		r.sinks = append(r.sinks, p.Sinks()...)
	}
	for _, name := range x.units {
		x.systemctl("stop", "msgmux-sink@"+name+".socket", name+".service")
		var sinks []tally.Sink
		if err := json.Unmarshal([]byte(x.b.ReadFile("/run/"+name+".json")), &sinks); err != nil || len(sinks) != 1 {
			x.b.t.Fatalf("cannot read the report of %s: %v", name, err)
		}
		sinks[0].Name = name
		r.sinks = append(r.sinks, sinks[0])
	}
	return r
}

// checkStatus waits until systemctl status shows what the control socket tells: it does so at most once a second.
func (x *traffic) checkStatus(a account) {
	x.b.t.Helper()
	x.untilStatus(fmt.Sprintf("the counts %+v", a.Status), func(s statusLine) bool {
		want := a.Status
		return s.received == want.Received && s.accepted == want.Accepted && s.lost == want.Lost &&
			s.sinks == want.Sinks.Total && s.static == want.Sinks.Static && s.dynamic == want.Sinks.Dynamic
	})
}

// check compares what the sinks got with what the sources sent, and with what the broker counted. For each kill, one message
// may have got lost on its way from the queue that is a source, and one may have come twice to the queue that is a sink.
func (x *traffic) check(r reports, kills uint64) {
	t := x.b.t
	t.Helper()
	var entered, accepted, lost, twice uint64
	for _, s := range r.sources {
		entered += s.Sent
		if s.Blocked || len(s.Errors) > 0 || s.Sent == 0 {
			t.Errorf("a source saw something: %+v", s)
		}
		if s.Source == queueSource {
			// No sink has what did not enter.
			lost = s.Sent - r.sinks[0].Sources[queueSource].Count
			entered -= lost
		}
	}
	for _, s := range r.sinks {
		accepted += s.Received - s.Duplicates
		if s.Name == queueSink {
			twice = s.Duplicates
		} else if order := r.sinks[len(r.sinks)-1].Order; s.Order != order {
			t.Errorf("%s got the messages in another order than others", s.Name)
		}
		for _, problem := range forgive(s, r.sources, lost).Problems(r.sources...) {
			t.Error(problem)
		}
		if s.Told != 0 {
			t.Errorf("%s was told of %d lost messages", s.Name, s.Told)
		}
	}
	got, before := r.account.Status, x.before.Status
	uncertain := got.Uncertain - before.Uncertain
	if lost > kills || twice > kills || lost+twice > uncertain || uncertain > 2*kills {
		t.Errorf("after %d kills, message queues lost %d messages and repeated %d, and %d were counted as uncertain", kills, lost, twice, uncertain)
	}
	if got.Received-before.Received != entered || got.Accepted-before.Accepted != accepted || got.Lost != before.Lost || got.Abandoned != before.Abandoned {
		t.Errorf("the sources sent %d and the sinks got %d; before the broker counted %+v, afterwards %+v", entered, accepted, before, got)
	}
	t.Logf("%d messages in, %d out; the longest waits of the sources: %s", entered, accepted, strings.Join(waits(r.sources), ", "))
	if kills > 0 {
		t.Logf("message queues lost %d and repeated %d of %d that were uncertain", lost, twice, uncertain)
	}
}

// forgive makes good what a sink's report may show because of a message queue: so many messages lost, any number repeated.
func forgive(s tally.Sink, sources []tally.Sender, lost uint64) tally.Sink {
	forgiven := map[uint32]tally.Source{}
	for id, got := range s.Sources {
		if s.Name == queueSink {
			got.Duplicates = 0
		}
		for _, source := range sources {
			if id == queueSource && source.Source == id && source.Sent-got.Count == lost {
				got.Count, got.First, got.Last, got.Missing = source.Sent, 1, source.Sent, 0
			}
		}
		forgiven[id] = got
	}
	s.Sources = forgiven
	return s
}

// fromTheFirst is what a sink that began late got, as if it had been sent everything from the first message on.
func fromTheFirst(s tally.Source) tally.Source {
	s.Count, s.First = s.Count+s.First-1, 1
	return s
}

// waits lists the longest wait of each source.
func waits(sources []tally.Sender) (w []string) {
	for _, s := range sources {
		w = append(w, fmt.Sprintf("%.0f ms", s.LongestWait*1000))
	}
	return w
}
