// SPDX-License-Identifier: Apache-2.0

package model

// variant is a model with its bounds and what it is about.
type variant struct {
	model   string
	name    string
	defines []string

	// memory says that clients share memory with the broker. Who stores there what he has done says so nowhere else, so that more may
	// follow upon a step: what these find is a table of its own, for the traces of such brokers.
	memory bool
}

// finds is the name under which the table has what a variant finds.
func (v *variant) finds() string {
	if v.memory {
		return withMemory
	}
	return v.model
}

// sound are the variants that must hold.
var sound = []variant{
	{model: "data", name: "datagrams", defines: []string{"EMPTIES=1"}},
	{model: "data", name: "packets", defines: []string{"SOURCE=packets", "REFUSED=2", "EMPTIES=1"}},
	{model: "data", name: "packets into the ring", defines: []string{"SOURCE=packets", "WINDOW=1", "RING=3", "LAGS=1", "STALLS0=0"}},
	{model: "data", name: "packets into the ring beside an empty socket, one kill", defines: []string{"SOURCE=packets", "WINDOW=1", "RING=3", "ALSO=1",
		"EMPTIES=1", "KILLS=1"}},
	{model: "data", name: "packets to packets", defines: []string{"SOURCE=packets", "SINK=packets", "LAGS=1", "STALLS0=0"}},
	{model: "data", name: "left behind", defines: []string{"LAGS=1"}},
	{model: "data", name: "tap", defines: []string{"TAP=1", "LAGS=1", "STALLS0=0"}},
	{model: "data", name: "share", defines: []string{"SHARE=1", "STALLS0=0"}},
	{model: "data", name: "too large for one", defines: []string{"OVERSIZE=2", "REFUSED=1"}},
	{model: "data", name: "too large for the only one", defines: []string{"OVERSIZE=2", "SMALL=0", "TAP=1"}},
	{model: "data", name: "too large for one, the other left behind", defines: []string{"OVERSIZE=1", "SMALL=0", "LAGS=1"}},
	{model: "data", name: "too large for one, the other behind before", defines: []string{"OVERSIZE=2", "SMALL=0", "LAGS=1", "LEFT=1"}},
	{model: "data", name: "too large for a share, one kill", defines: []string{"OVERSIZE=2", "SHARE=1", "STALLS0=0", "KILLS=1"}},
	{model: "data", name: "too large for one member, one kill", defines: []string{"OVERSIZE=2", "SHARE=1", "ONE=1", "STALLS0=0", "KILLS=1"}},
	{model: "data", name: "from a queue", defines: []string{"SOURCE=queue", "EMPTIES=1", "STALLS0=0"}},
	{model: "data", name: "to a queue", defines: []string{"SINK=queue", "STALLS0=0"}},
	{model: "data", name: "queues and sockets, one kill", defines: []string{"SOURCE=queue", "ALSO=1", "SINK=queue", "EMPTIES=1", "KILLS=1"}},
	{model: "data", name: "packets to a queue, one kill", defines: []string{"SOURCE=packets", "SINK=queue", "STALLS0=0", "KILLS=1"}},
	{model: "data", name: "to a share of queues, one kill", defines: []string{"SINK=queue", "SHARE=1", "STALLS0=0", "KILLS=1"}},
	{model: "data", name: "acknowledged, one kill", defines: []string{"ACKS=1", "STALLS=0", "KILLS=1"}},
	{model: "data", name: "acknowledged, and one too large for the other, one kill", defines: []string{"ACKS=1", "OVERSIZE=2", "SMALL=0", "STALLS=0", "STALLS0=1", "KILLS=1"}},
	{model: "data", name: "acknowledged and kept", defines: []string{"ACKS=1", "GOES=1", "STALLS=0", "N=2"}},
	{model: "data", name: "place stored, one kill", defines: []string{"ACKS=1", "GOES=1", "FROM=1", "STALLS=0", "N=2", "KILLS=1"}},
	{model: "data", name: "acknowledged and left behind, one kill", defines: []string{"ACKS=1", "LAGS=1", "STALLS=0", "KILLS=1"}},
	{model: "data", name: "kept and left behind, one kill", defines: []string{"ACKS=1", "GOES=1", "LAGS=1", "STALLS=0", "N=2", "RING=1", "KILLS=1"}},
	{model: "data", name: "shared work", defines: []string{"ACKS=1", "SHARE=1", "GOES=1", "STALLS=0", "N=1"}},
	{model: "data", name: "shared work, one kill", defines: []string{"ACKS=1", "SHARE=1", "GOES=1", "STALLS=0", "N=2", "KILLS=1"}},
	{model: "data", name: "shared work left by all, one kill", defines: []string{"ACKS=1", "SHARE=1", "GOES=2", "STALLS=0", "N=1", "KILLS=1"}},
	{model: "data", name: "shared work left behind, one kill", defines: []string{"ACKS=1", "SHARE=1", "LAGS=1", "STALLS=0", "N=2", "RING=1", "KILLS=1"}},
	{model: "data", name: "acknowledged and kept, and one too large for the other, one kill", defines: []string{"ACKS=1", "GOES=1", "OVERSIZE=2", "SMALL=0", "STALLS=0", "N=2", "KILLS=1"}},
	{model: "data", name: "from a queue, and one too large, one kill", defines: []string{"SOURCE=queue", "OVERSIZE=1", "SMALL=0", "EMPTIES=1", "STALLS=0", "N=2", "KILLS=1"}},
	{model: "data", name: "to a queue, and one too large for the other, one kill", defines: []string{"SINK=queue", "OVERSIZE=2", "SMALL=0", "STALLS=0", "N=2", "RING=1", "KILLS=1"}},
	{model: "data", name: "from a queue to who acknowledges and is kept, one kill", defines: []string{"SOURCE=queue", "ACKS=1", "GOES=1", "EMPTIES=1", "STALLS=0", "N=2", "KILLS=1"}},
	{model: "data", name: "marks", defines: []string{"SOURCE=packets", "MARKS=1", "EMPTIES=1", "STALLS=0"}},
	{model: "data", name: "marks kept", defines: []string{"SOURCE=packets", "MARKS=1", "LEAVES=1", "EMPTIES=1", "STALLS=0", "N=2"}},
	{model: "data", name: "marks to who acknowledges, one kill", defines: []string{"SOURCE=packets", "MARKS=1", "WINDOW=1", "ACKS=1", "GOES=1", "STALLS=0", "N=2", "KILLS=1"}},
	{model: "data", name: "marks kept, to who stores his place", defines: []string{"SOURCE=packets", "MARKS=1", "LEAVES=1", "ACKS=1", "GOES=1", "FROM=1", "STALLS=0", "N=1"}},
	{model: "data", name: "others come and go, one kill", defines: []string{"OTHER=1", "LEAVES=1", "OVERSIZE=2", "REFUSED=1", "EMPTIES=1", "KILLS=1"}},
	{model: "data", name: "others come and go, one left behind, one kill", defines: []string{"OTHER=1", "LEAVES=1", "LAGS=1", "EMPTIES=1", "N=2", "RING=1", "KILLS=1"}},
	{model: "data", name: "others come and go beside packets, one kill", defines: []string{"OTHER=1", "LEAVES=1", "SOURCE=packets", "SINK=packets", "EMPTIES=1",
		"N=2", "RING=1", "KILLS=1"}},
	{model: "data", name: "others come and go beside queues, one kill", defines: []string{"OTHER=1", "LEAVES=1", "SOURCE=queue", "SINK=queue", "LAGS=1", "EMPTIES=1",
		"N=2", "RING=1", "KILLS=1"}},
	{model: "data", name: "others come and go beside who acknowledges, one kill", defines: []string{"OTHER=1", "LEAVES=1", "ACKS=1", "LAGS=1", "EMPTIES=1",
		"STALLS=0", "N=2", "RING=1", "KILLS=1"}},
	{model: "data", name: "others come and go beside shared work, one kill", defines: []string{"OTHER=1", "LEAVES=1", "ACKS=1", "SHARE=1", "SOURCE=packets",
		"STALLS=0", "N=2", "RING=1", "KILLS=1"}},
	{model: "data", name: "a stage beside datagrams, one kill", defines: []string{"STAGE=2", "KILLS=1"}, memory: true},
	{model: "data", name: "a stage, and one left behind", defines: []string{"STAGE=2", "LAGS=1", "STALLS0=0", "RING=1", "N=2"}, memory: true},
	{model: "data", name: "a stage, one left behind, and nothing received, one kill", defines: []string{"STAGE=3", "LAGS=1", "EMPTIES=1", "STALLS0=0", "RING=1", "KILLS=1"}, memory: true},
	{model: "data", name: "a stage, and sockets that are full before the ring is, one kill", defines: []string{"STAGE=3", "RING=3", "STALLS=0", "STALLS0=1", "KILLS=1"}, memory: true},
	{model: "data", name: "a page beside sockets that are full, one kill", defines: []string{"VIEW=1", "ACKS=1", "STALLS=0", "STALLS0=1", "N=2", "KILLS=1"}, memory: true},
	{model: "data", name: "a stage beside a page that is kept, one kill", defines: []string{"STAGE=2", "VIEW=1", "ACKS=1", "GOES=1", "STALLS=0", "N=2", "RING=1", "KILLS=1"}, memory: true},
	{model: "data", name: "a stage, and one too large, one kill", defines: []string{"STAGE=2", "OVERSIZE=1", "SMALL=0", "STALLS=0", "N=2", "KILLS=1"}, memory: true},
	{model: "data", name: "a page that is kept, and one too large for the other, one kill", defines: []string{"VIEW=1", "ACKS=1", "GOES=1", "OVERSIZE=2", "SMALL=0", "STALLS=0", "N=2", "KILLS=1"}, memory: true},
	{model: "data", name: "from a queue to a page, one kill", defines: []string{"SOURCE=queue", "VIEW=1", "ACKS=1", "EMPTIES=1", "STALLS=0", "N=2", "KILLS=1"}, memory: true},
	{model: "data", name: "from a stage to a queue, one kill", defines: []string{"STAGE=2", "SINK=queue", "OVERSIZE=2", "SMALL=0", "STALLS=0", "N=2", "KILLS=1"}, memory: true},
	{model: "data", name: "a stage beside packets, one kill", defines: []string{"STAGE=1", "SOURCE=packets", "EMPTIES=1", "STALLS=0", "N=2", "KILLS=1"}, memory: true},
	{model: "data", name: "a page, one kill", defines: []string{"VIEW=1", "ACKS=1", "STALLS=0", "N=2", "KILLS=1"}, memory: true},
	{model: "data", name: "a page and a stage, one kill", defines: []string{"VIEW=1", "ACKS=1", "STAGE=2", "STALLS=0", "N=2", "RING=1", "KILLS=1"}, memory: true},
	{model: "data", name: "a page, and no room, one kill", defines: []string{"VIEW=1", "ACKS=1", "STALLS=0", "STALLS0=1", "N=3", "RING=1", "KILLS=1"}, memory: true},
	{model: "data", name: "a page, left behind, one kill", defines: []string{"VIEW=1", "ACKS=1", "LAGS=1", "STALLS=0", "N=2", "RING=1", "KILLS=1"}, memory: true},
	{model: "data", name: "a page that is kept, one kill", defines: []string{"VIEW=1", "ACKS=1", "GOES=1", "STALLS=0", "N=2", "RING=1", "KILLS=1"}, memory: true},
	{model: "data", name: "others come and go beside a page, one kill", defines: []string{"VIEW=1", "ACKS=1", "OTHER=1", "LEAVES=1", "EMPTIES=1", "STALLS=0",
		"N=2", "RING=1", "KILLS=1"}, memory: true},
	{model: "data", name: "others come and go beside a stage, one kill", defines: []string{"STAGE=2", "OTHER=1", "LEAVES=1", "EMPTIES=1", "STALLS=0", "N=2", "RING=1",
		"KILLS=1"}, memory: true},
	{model: "data", name: "a page beside packets, one kill", defines: []string{"VIEW=1", "ACKS=1", "SOURCE=packets", "WINDOW=1", "STALLS=0", "N=2", "KILLS=1"}, memory: true},
	{model: "table", name: "registrations, three kills", defines: []string{"KILLS=3"}},
	{model: "table", name: "members of a share", defines: []string{"SHARE=1"}},
	{model: "table", name: "connections, three kills", defines: []string{"ATTACH=1", "KILLS=3"}},
	{model: "table", name: "connections, the sink gone", defines: []string{"ATTACH=1", "GONE=0"}},
	{model: "move", name: "three kills", defines: []string{"KILLS=3"}},
}

// ending are the variants of which every run must come to its end: there is no cycle of states at all. One kill: a second
// adds nothing that could go round.
var ending = []variant{
	{model: "data", name: "datagrams", defines: []string{"KILLS=1", "LAGS=1"}},
	{model: "data", name: "packets", defines: []string{"KILLS=1", "SOURCE=packets", "SINK=packets", "REFUSED=2"}},
	{model: "data", name: "queues", defines: []string{"KILLS=1", "SOURCE=queue", "SINK=queue"}},
	{model: "data", name: "acknowledged and kept", defines: []string{"KILLS=1", "ACKS=1", "GOES=1", "STALLS=0", "N=2"}},
	{model: "data", name: "marks kept", defines: []string{"KILLS=1", "SOURCE=packets", "MARKS=1", "LEAVES=1", "EMPTIES=1", "STALLS=0", "N=2"}},
	{model: "table", name: "registrations", defines: []string{"KILLS=1"}},
	{model: "table", name: "connections", defines: []string{"KILLS=1", "ATTACH=1"}},
	{model: "move", name: "move", defines: []string{"KILLS=1"}},
}

// broken are the variants that must fail: a model that finds nothing there would find nothing anywhere. Each operation has
// at least one.
var broken = append([]variant{
	{model: "data", name: "commit records ignored, receive", defines: []string{"NO_RECORDS", "SOURCE=packets"}},
	{model: "data", name: "commit records ignored, send", defines: []string{"NO_RECORDS"}},
	{model: "data", name: "commit records ignored, queue", defines: []string{"NO_RECORDS", "SINK=queue"}},
	{model: "table", name: "commit records ignored, consume", defines: []string{"NO_RECORDS"}},
	{model: "table", name: "commit records ignored, greet", defines: []string{"NO_RECORDS", "ATTACH=1"}},
	{model: "data", name: "killed inside a system call", defines: []string{"DIES_INSIDE"}},
	{model: "table", name: "killed inside a system call, consume", defines: []string{"DIES_INSIDE"}},
	{model: "table", name: "killed inside a system call, greet", defines: []string{"DIES_INSIDE", "ATTACH=1"}},
	{model: "data", name: "phase not cleared", defines: []string{"KEPT"}},
	{model: "table", name: "phase not cleared", defines: []string{"KEPT", "SHARE=1"}},
	{model: "data", name: "cursor after tail", defines: []string{"CURSOR_LAST", "LAGS=1"}},
	{model: "table", name: "state word first", defines: []string{"STATE_FIRST"}},
	{model: "table", name: "state word first, connections", defines: []string{"STATE_FIRST", "ATTACH=1"}},
	{model: "move", name: "published before it is copied", defines: []string{"PUBLISHED_FIRST"}},
	{model: "move", name: "removed before it is published", defines: []string{"REMOVED_FIRST"}},
	{model: "data", name: "commit records ignored, acknowledgement", defines: []string{"NO_RECORDS", "ACKS=1", "STALLS=0"}},
	{model: "data", name: "acknowledgement taken without a record", defines: []string{"ACK_UNRECORDED", "ACKS=1", "STALLS=0"}},
	{model: "data", name: "what was sent stays sent when the connection goes", defines: []string{"SENT_STAYS", "ACKS=1", "GOES=1", "STALLS=0"}},
	{model: "data", name: "mark with the first record of its packet", defines: []string{"MARK_EARLY", "MARKS=1", "SOURCE=packets", "STALLS=0"}},
	{model: "data", name: "back before what it has sent is in", defines: []string{"BACK_EARLY", "MARKS=1", "LEAVES=1", "SOURCE=packets", "STALLS=0"}},
	{model: "data", name: "stage taken before that is logged", defines: []string{"TAKEN_FIRST", "STAGE=2"}},
	{model: "data", name: "stage taken, and not written down", defines: []string{"TAKEN_LOST", "STAGE=2"}},
	{model: "data", name: "delivered moves over a hole", defines: []string{"HOLES=1", "OVERSIZE=1", "SMALL=0", "LAGS=1"}},
}, misplaced()...)

// misplaced are those in which one operation stores its phase elsewhere: before its fields, or after its work.
func misplaced() (all []variant) {
	for _, v := range []struct {
		model, name string
		defines     []string
	}{
		{"data", "RECV", nil}, {"data", "APPEND", nil}, {"data", "SEND", nil}, {"data", "TAIL", nil},
		{"data", "ACK", []string{"ACKS=1", "STALLS=0", "N=2"}}, {"data", "DONE", []string{"ACKS=1", "STALLS=0", "N=2"}},
		{"data", "LEAVE", []string{"ACKS=1", "GOES=1", "STALLS=0", "N=2"}}, {"data", "REJOIN", []string{"ACKS=1", "GOES=1", "STALLS=0", "N=2"}},
		{"data", "SKIP", []string{"LAGS=1"}}, {"data", "TAKE", []string{"SOURCE=queue"}}, {"data", "PUT", []string{"SINK=queue"}},
		{"table", "UPDATE", nil}, {"table", "REMOVE", nil}, {"table", "CONSUME", nil}, {"table", "GREET", []string{"ATTACH=1"}},
	} {
		for define, what := range map[string]string{"FIRST": "before its fields", "EARLY": "after its work"} {
			all = append(all, variant{model: v.model, name: v.name + " logged " + what, defines: append([]string{define + "=" + v.name}, v.defines...)})
		}
	}
	return all
}
