// SPDX-License-Identifier: Apache-2.0

package units

// The load under which channels are restarted and killed: sources that wait, sinks of every kind, all counting.

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

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
	queue   *rig.Process // of a static sink; nil without one
}

// reports is what everybody counted, once the traffic has ended.
type reports struct {
	sources []tally.Sender
	sinks   []tally.Sink // each that must have everything exactly once
	queue   *tally.Sink  // of the static sink that is a message queue
	account account
}

// begin has sinks and sources join the channel of the system: two sinks with abstract names, two with paths, one static of
// a socket unit, one a message queue, and a framed one; two connected sources, an unconnected one, and a framed one. All
// wait, and all sinks are waited for: nothing may get lost. From the rest of the machine they leave what they can, so the
// channel is as busy as it gets.
func (b *bed) begin(p *place) *traffic {
	b.t.Helper()
	x := &traffic{place: p}
	x.staticSink("archive")
	x.queueSink("mq")
	x.before = p.account()
	register := []string{"--register", p.folder + "/register", "--option", "patience=forever", "--settle", "500ms"}
	for _, name := range []string{"@mm-one", "@mm-two", "/tmp/mm-three", "/tmp/mm-four"} {
		x.sinks = append(x.sinks, b.StartLoadAs(p.as, append([]string{"sink", "--bind", name}, register...)...))
	}
	x.sinks = append(x.sinks, b.StartLoadAs(p.as, "subscribe", "--from", p.folder+"/subscribe", "--option", "patience=forever", "--settle", "500ms"))
	p.untilStatus("that all sinks are there", func(s statusLine) bool { return s.static == 2 && s.dynamic == 5 && s.absent == 0 })
	for i, flags := range [][]string{
		{"--to", p.folder + "/source", "--spread=400"},
		{"--to", p.folder + "/source", "--spread=2000"},
		{"--to", p.folder + "/source", "--unconnected"},
		{"--to", p.folder + "/publish", "--records=20", "--spread=200"},
	} {
		x.sources = append(x.sources, b.StartLoadAs(p.as, append([]string{"send", "--source", fmt.Sprint(i + 1)}, flags...)...))
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
func (x *traffic) queueSink(name string) {
	x.b.WriteFile("/etc/msgmux/sinks/"+name+".conf", []byte("patience=forever\n"), 0o644)
	queue := "/dev/mqueue/" + name
	x.b.MustRun("sh", "-c", `touch "$1" && chgrp msgmux "$1" && chmod 660 "$1" && ln -sf "$1" "$2"`, "sh", queue, x.folder+"/sinks/"+name)
	x.queue = x.b.StartLoad("queue", "--from", queue, "--settle", "500ms")
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
	x.b.Until("every sink has everything", 30*time.Second, func() bool {
		a := x.account()
		return !slices.ContainsFunc(a.Sinks, func(s accountSink) bool { return s.Waiting > 0 })
	})
	// What the status says now is what the clients must have counted.
	r.account = x.account()
	x.checkStatus(r.account)
	for _, p := range append(slices.Clone(x.sinks), x.queue) {
		if p != nil {
			p.Signal(unix.SIGTERM)
		}
	}
	for _, p := range x.sinks {
		r.sinks = append(r.sinks, p.Sinks()...)
	}
	if x.queue != nil {
		r.queue = &x.queue.Sinks()[0]
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

// check compares what the sinks got with what the sources sent, and with what the broker counted. The queue's may have got
// as many messages twice as repeats allows.
func (x *traffic) check(r reports, repeats uint64) {
	t := x.b.t
	t.Helper()
	var sent, received uint64
	for _, s := range r.sources {
		sent += s.Sent
		if s.Blocked || len(s.Errors) > 0 || s.Sent == 0 {
			t.Errorf("a source saw something: %+v", s)
		}
	}
	for _, s := range r.sinks {
		received += s.Received
		for _, problem := range s.Problems(r.sources...) {
			t.Error(problem)
		}
		if s.Order != r.sinks[0].Order {
			t.Errorf("%s got the messages in another order than %s", s.Name, r.sinks[0].Name)
		}
		if s.Told != 0 {
			t.Errorf("%s was told of %d lost messages", s.Name, s.Told)
		}
	}
	if q := r.queue; q != nil {
		received += q.Received
		if q.Duplicates > repeats {
			t.Errorf("%s got %d messages twice, and may get %d", q.Name, q.Duplicates, repeats)
		}
		exact := *q
		exact.Sources = map[uint32]tally.Source{}
		for id, source := range q.Sources {
			source.Duplicates = 0
			exact.Sources[id] = source
		}
		for _, problem := range exact.Problems(r.sources...) {
			t.Error(problem)
		}
		received -= q.Duplicates
	}
	got, before := r.account.Status, x.before.Status
	if got.Received-before.Received != sent || got.Accepted-before.Accepted != received || got.Lost != before.Lost || got.Abandoned != before.Abandoned {
		t.Errorf("the sources sent %d and the sinks got %d; before the broker counted %+v, afterwards %+v", sent, received, before, got)
	}
	t.Logf("%d messages in, %d out; waits of the sources: %s", sent, received, strings.Join(waits(r.sources), ", "))
}

// waits lists the longest wait of each source.
func waits(sources []tally.Sender) (w []string) {
	for _, s := range sources {
		w = append(w, fmt.Sprintf("%.0f ms", s.LongestWait*1000))
	}
	return w
}
