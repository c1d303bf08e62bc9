// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
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

// TestSubordinatesShareTheirUsersAccount, also when it is found out later whose they are.
func TestSubordinatesShareTheirUsersAccount(t *testing.T) {
	g := newRig(t, small())
	owner := map[uint32]uint32{100001: 1000, 100002: 1000}
	g.r.opt.Owner = func(uid uint32) uint32 {
		if of, ok := owner[uid]; ok {
			return of
		}
		return uid
	}
	add := func(uid uint32) *Sink {
		return g.add(wish{Kind: Dynamic, Label: fmt.Sprint(uid), UID: uid, Ordinary: true}, false)
	}
	one, two, own, other := add(100001), add(100002), add(1000), add(1001)
	if one.cursor.account != own.cursor.account || two.cursor.account != own.cursor.account || other.cursor.account == own.cursor.account {
		t.Error("a user and his subordinate uids have several accounts, or share one with others")
	}
	clear(owner)
	for _, s := range []*Sink{one, two, own, other} {
		g.r.Remove(s)
	}
	if len(g.r.accounts) != 0 {
		t.Errorf("%d accounts of users without sinks and debts", len(g.r.accounts))
	}
}
