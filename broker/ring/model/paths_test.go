// SPDX-License-Identifier: Apache-2.0

package model

import (
	"strings"
	"testing"
)

// TestWrongPathsAreNoticed: what no broker may do is not taken for a path of the models.
func TestWrongPathsAreNoticed(t *testing.T) {
	paths, err := KnownPaths()
	if err != nil {
		t.Fatal(err)
	}
	// Two brokers: the first dies in APPEND.
	const right = "life|1 recv.logged|1 recv before|1 recv all|1 recv.taken|1 recv.landed|1 append.logged|1 append.head|" +
		"life|1 recover.begin|1 append.head|1 recover.done|1 send.logged|1 send before|1 send all|1 send.sent|1 send.cursor|1 send.done|"
	for name, c := range map[string]struct{ from, to string }{
		"as it should be":                      {"", ""},
		"call before the log":                  {"1 recv.logged|1 recv before|", "1 recv before|1 recv.logged|"},
		"received again while something waits": {"1 append.logged|1 append.head|life", "1 recv.logged|1 recv before|life"},
		"append not done again":                {"recover.begin|1 append.head|", "recover.begin|"},
		"done again what was not under way":    {"1 recv.landed|1 append.logged|1 append.head|life|", "life|"},
		"no recovery":                          {"1 recover.begin|1 append.head|1 recover.done|", ""},
		"an operation within another":          {"1 send.sent|", "1 send.sent|1 remove.logged|1 remove.totals|1 remove.done|"},
		"no end":                               {"1 send.cursor|1 send.done|", "1 send.cursor|1 send.logged|"},
	} {
		trace := strings.Replace(right, c.from, c.to, 1)
		lives, err := ReadLives(strings.ReplaceAll(trace, "|", "\n") + "1 cut sho")
		if err != nil {
			t.Fatal(err)
		}
		steps, err := paths.Check(lives)
		if (err == nil) != (c.from == "") {
			t.Errorf("%s: %d steps, %v", name, steps, err)
		}
	}
}
