// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// adapter is one thing that can be measured: a broker and its clients. To add
// one: an entry here or in peers.go, and where its clients are new programs,
// their recipes in build.go.
type adapter struct {
	name, about string
	group       string // msgmux, floor or peer

	broker func(*cell) []string // what to start; nil: there is no broker
	ready  []string             // files in the run's folder that show that it is up
	port   string               // or an address that accepts connections

	source, sink program
	many         bool // one sink process can serve any number of sockets
	slow         bool // its sinks take their time: not among all, which are flooded

	maxSize  int      // largest payload that it can carry; 0: any
	packages []string // Debian packages that it needs
}

// program is a client: something in the bin folder, and the words behind its
// fixed arguments.
type program struct {
	name  string
	words []string
}

// datagrams are the clients that speak what any program speaks.
var datagrams = program{name: "dgram"}

// frames are the clients of the framed floors, and framed those of msgmux.
var (
	frames = program{name: "frame"}
	framed = program{name: "frame", words: []string{"msgmux"}}
)

var adapters = append([]*adapter{
	{
		name: "msgmux", about: "datagrams in and out, single send and recv at the ends", group: "msgmux",
		broker: msgmuxd, ready: []string{"source", "register"}, source: datagrams, sink: datagrams, many: true,
	},
	{
		name: "msgmux-go", about: "the Go client at both ends", group: "msgmux",
		broker: msgmuxd, ready: []string{"publish", "subscribe"}, source: program{name: "goclient"}, sink: program{name: "goclient"},
	},
	{
		name: "msgmux-go-alone", about: "the Go client at both ends, in programs that do nothing else (OwnProcessor)", group: "msgmux",
		broker: msgmuxd, ready: []string{"publish", "subscribe"}, source: program{name: "goclient"}, sink: program{name: "goclient", words: []string{"alone"}},
	},
	{
		name: "msgmux-kept", about: "the Go client at both ends, the sinks kept and acknowledging", group: "msgmux",
		broker: msgmuxd, ready: []string{"publish", "subscribe"}, source: program{name: "goclient"}, sink: program{name: "goclient", words: []string{"kept"}},
	},
	{
		name: "msgmux-meta", about: "the Go client at both ends, the sinks told of each message whose it is", group: "msgmux",
		broker: msgmuxd, ready: []string{"publish", "subscribe"}, source: program{name: "goclient"}, sink: program{name: "goclient", words: []string{"meta"}},
	},
	{
		name: "msgmux-pack-go", about: "datagrams in by single send, the Go client's frames out", group: "msgmux",
		broker: msgmuxd, ready: []string{"source", "subscribe"}, source: datagrams, sink: program{name: "goclient"},
	},
	{
		name: "msgmux-pack-meta", about: "the same, the sinks told of each message whose it is", group: "msgmux",
		broker: msgmuxd, ready: []string{"source", "subscribe"}, source: datagrams, sink: program{name: "goclient", words: []string{"meta"}},
	},
	{
		name: "msgmux-pack", about: "datagrams in by single send, frames out", group: "msgmux",
		broker: msgmuxd, ready: []string{"source", "subscribe"}, source: datagrams, sink: framed,
	},
	{
		name: "msgmux-frames", about: "frames in and out, C clients", group: "msgmux",
		broker: msgmuxd, ready: []string{"publish", "subscribe"}, source: framed, sink: framed,
	},
	{
		name: "msgmux-workers", about: "frames in, C workers of a share with a millisecond of work for each message", group: "msgmux", slow: true,
		broker: msgmuxd, ready: []string{"publish", "subscribe"}, source: framed, sink: program{name: "worker"},
	},
	{
		name: "msgmux-view", about: "frames in, C sinks that read the ring", group: "msgmux",
		broker: msgmuxd, ready: []string{"publish", "subscribe"}, source: framed, sink: program{name: "view"},
	},
	{
		name: "msgmux-stage", about: "a C source with a stage, C sinks that read the ring", group: "msgmux",
		broker: msgmuxd, ready: []string{"publish", "subscribe"}, source: program{name: "stage"}, sink: program{name: "view"},
	},
	{
		name: "msgmux-view-go", about: "the Go client at both ends, the sinks reading the ring", group: "msgmux",
		broker: msgmuxd, ready: []string{"publish", "subscribe"}, source: program{name: "goclient"}, sink: program{name: "goclient", words: []string{"view"}},
	},
	{
		name: "msgmux-stage-go", about: "the Go client at both ends, with a stage, in view and in place", group: "msgmux",
		broker: msgmuxd, ready: []string{"publish", "subscribe"}, source: program{name: "goclient", words: []string{"stage"}}, sink: program{name: "goclient", words: []string{"view", "place"}},
	},
	{
		name: "floor-dgram", about: "C, one thread: recvmmsg(64), sendmmsg to each sink; same clients as msgmux", group: "floor",
		broker: floor("dgram"), ready: []string{"source", "register"}, source: datagrams, sink: datagrams, many: true,
	},
	{
		name: "floor-pack", about: "C, one thread: datagrams in, up to 64 in one SEQPACKET frame for each sink", group: "floor",
		broker: floor("pack"), ready: []string{"source", "subscribe"}, source: datagrams, sink: frames,
	},
	{
		name: "floor-batch", about: "C, one thread: SEQPACKET frames of up to 64 KiB from source to sink", group: "floor",
		broker: floor("batch"), ready: []string{"publish", "subscribe"}, source: frames, sink: frames,
	},
}, peers...)

func msgmuxd(c *cell) []string {
	return append([]string{c.msgmuxd, "--runtime-dir", c.dir}, strings.Fields(c.brokerArgs)...)
}

// before is another msgmuxd in the place of the one that is measured: what it was before a change.
func before(a *adapter) *adapter {
	b := *a
	b.name, b.about = "before-"+a.name, a.about+", with the broker of -before"
	b.broker = func(c *cell) []string {
		args := msgmuxd(c)
		args[0] = c.before
		return args
	}
	return &b
}

func floor(kind string) func(*cell) []string {
	return func(c *cell) []string { return []string{c.program("floor"), "broker", c.dir, kind} }
}

// choose finds the adapters that words name, one by one or by group.
func choose(words []string) ([]*adapter, error) {
	var chosen []*adapter
	for _, w := range words {
		was := len(chosen)
		for _, a := range adapters {
			switch {
			case w == "all" && !a.slow || w == a.group && w != "msgmux" || w == a.name:
				chosen = append(chosen, a)
			case a.group == "msgmux" && w == "before-"+a.name:
				chosen = append(chosen, before(a))
			}
		}
		if len(chosen) == was {
			return nil, fmt.Errorf("no adapter %q; the command list has their names", w)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("name an adapter; the command list has their names")
	}
	return chosen, nil
}

// conf writes a configuration file for a broker and returns its name.
func (c *cell) conf(name, text string) string {
	p := filepath.Join(c.dir, name)
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		panic(fmt.Sprintf("cannot write in the run's own folder: %v", err))
	}
	return p
}
