// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"strings"
	"testing"
)

// TestWrongPathsAreNoticed: what no broker may do is not taken for a path of the models.
func TestWrongPathsAreNoticed(t *testing.T) {
	paths, err := KnownPaths()
	if err != nil {
		t.Fatal(err)
	}
	// Two brokers: the first dies in APPEND. To the second a sink says that it is done, and goes; it was gone already when it comes back.
	const right = "life|1 recv.logged|1 recv before|1 recv all|1 recv.taken|1 recv.landed|1 append.logged|1 append.head|" +
		"life|1 recover.begin|1 append.head|1 recover.done|1 send.logged|1 send before|1 send all|1 send.sent|1 send.cursor|1 send.done|" +
		"1 ack.logged|1 ack before|1 ack part|1 ack.taken|1 ack.done|1 done.logged|1 done.sent|1 send.cursor|1 done.done|" +
		"1 leave.logged|1 leave.sent|1 leave.done|1 recv.logged|1 recv before|1 recv none|1 recv.taken|1 recv.landed|" +
		"1 leave.logged|1 leave.sent|1 leave.done|1 rejoin.logged|1 rejoin.identity|1 rejoin.done|"
	for name, c := range map[string]struct{ from, to string }{
		"as it should be":                      {"", ""},
		"call before the log":                  {"1 recv.logged|1 recv before|", "1 recv before|1 recv.logged|"},
		"received again while something waits": {"1 append.logged|1 append.head|life", "1 recv.logged|1 recv before|life"},
		"append not done again":                {"recover.begin|1 append.head|", "recover.begin|"},
		"done again what was not under way":    {"1 recv.landed|1 append.logged|1 append.head|life|", "life|"},
		"no recovery":                          {"1 recover.begin|1 append.head|1 recover.done|", ""},
		"an operation within another":          {"1 send.sent|", "1 send.sent|1 remove.logged|1 remove.totals|1 remove.done|"},
		"no end":                               {"1 send.cursor|1 send.done|", "1 send.cursor|1 send.logged|"},
		"done what nobody has said":            {"1 ack.logged|1 ack before|1 ack part|1 ack.taken|1 ack.done|", ""},
		"cursor moved before what was sent":    {"1 done.sent|1 send.cursor|1 done.done|", "1 send.cursor|1 done.sent|1 done.done|"},
		"heard without a record":               {"1 ack.logged|1 ack before|", "1 ack before|"},
		"said, and received before it counts":  {"1 ack.done|1 done.logged|", "1 ack.done|1 recv.logged|1 recv before|1 recv none|1 recv.taken|1 recv.landed|1 done.logged|"},
		"gone amid what was received":          {"1 recv.taken|1 recv.landed|1 leave.logged|1 leave.sent|1 leave.done|", "1 recv.taken|1 leave.logged|1 leave.sent|1 leave.done|1 recv.landed|"},
		"back without having gone":             {"1 recover.done|", "1 recover.done|1 rejoin.logged|1 rejoin.identity|1 rejoin.done|"},
		"what has gone not done again":         {"1 rejoin.done|", "1 rejoin.done|1 leave.logged|1 leave.sent|life|1 recover.begin|1 recover.done|"},
	} {
		trace := strings.Replace(right, c.from, c.to, 1)
		lives, err := ReadLives(strings.NewReplacer("|", "\n", "life", "\nlife").Replace(trace) + "1 cut sho")
		if err != nil {
			t.Fatal(err)
		}
		steps, err := paths.Check(lives, false)
		if (err == nil) != (c.from == "") {
			t.Errorf("%s: %d steps, %v", name, steps, err)
		}
	}
}

// TestReadLives: lines that a broker was killed in are nobody's, also where the next one has gone on behind them.
func TestReadLives(t *testing.T) {
	lives, err := ReadLives("\nlife\n7 send.logged\n7 send a\nlife\n8 recover.begin\n\nlife\n9 send.lo\nlife\n1\nlife\n10 recover.begin\n10 recov")
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(lives)
	if want := fmt.Sprint([]Life{{{7, "send.logged"}}, {{8, "recover.begin"}}, nil, nil, {{10, "recover.begin"}}}); got != want {
		t.Errorf("%s instead of %s", got, want)
	}
}

// TestPathsOfMemory: what only a broker may do some of whose clients share memory with it, and what not even that one may.
func TestPathsOfMemory(t *testing.T) {
	paths, err := KnownPaths()
	if err != nil {
		t.Fatal(err)
	}
	for trace, memory := range map[string]bool{
		"append.logged|append.head|append.done|append.logged|append.head|append.done|done.logged|done.sent|send.cursor|done.done": true,
		"append.logged|append.head|append.done|append.head":                                                                       false,
		"append.logged|append.done":             false,
		"append.logged|append.head|done.logged": false,
	} {
		lives, err := ReadLives("\nlife\n1 " + strings.ReplaceAll(trace, "|", "\n1 ") + "\n")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := paths.Check(lives, false); err == nil {
			t.Errorf("%s: known without memory", trace)
		}
		if _, err := paths.Check(lives, true); (err == nil) != memory {
			t.Errorf("%s: %v", trace, err)
		}
	}
}
