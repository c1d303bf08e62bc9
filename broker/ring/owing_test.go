// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"testing"
	"time"
)

// TestOwing: the sinks of an ordinary user owe nothing by being there, so that a quiet channel need not be looked at by
// the clock. A user who left in debt owes on until it is paid back, and is forgotten then.
func TestOwing(t *testing.T) {
	g := newRig(t, small())
	s := g.add(wish{Kind: Dynamic, Label: "s", UID: 1000, Ordinary: true}, false)
	if g.r.Owing() {
		t.Error("a sink that made nobody wait owes something")
	}
	g.r.Remove(s)
	if g.r.Owing() || len(g.r.accounts) != 0 {
		t.Errorf("%d accounts of users without sinks and debts", len(g.r.accounts))
	}

	s = g.add(wish{Kind: Dynamic, Label: "s", UID: 1000, Ordinary: true}, false)
	s.cursor.account.Owed = 10 * time.Millisecond
	if !g.r.Owing() {
		t.Error("a debt is not seen")
	}
	g.r.Remove(s)
	if !g.r.Owing() {
		t.Error("a debt is gone with its sink")
	}
	for range 3 {
		g.r.Turn(MaxStep, func(*Cursor) bool { return false })
	}
	if g.r.Owing() || len(g.r.accounts) != 0 {
		t.Errorf("%d accounts when all is paid back", len(g.r.accounts))
	}

	// Of two sinks of one user the account stays with the other.
	one := g.add(wish{Kind: Dynamic, Label: "1", UID: 1000, Ordinary: true}, false)
	two := g.add(wish{Kind: Dynamic, Label: "2", UID: 1000, Ordinary: true}, false)
	g.r.Remove(one)
	if g.r.accounts[1000] != two.cursor.account {
		t.Error("the account went with one of its sinks")
	}
}
