// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"
)

// textLog keeps what is logged.
type textLog struct{ lines chan string }

func (textLog) Enabled(context.Context, slog.Level) bool { return true }
func (l textLog) WithAttrs([]slog.Attr) slog.Handler     { return l }
func (l textLog) WithGroup(string) slog.Handler          { return l }

func (l textLog) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	l.lines <- line
	return nil
}

// TestLinesHeldBackAreCounted: one line a minute for each user and reason, and the next one says how many were held back.
func TestLinesHeldBackAreCounted(t *testing.T) {
	log := textLog{make(chan string, 100)}
	j := New(log)
	m := make(Limiter)
	say := func(uid uint32, reason string) { j.Limited(m, uid, reason, slog.LevelWarn, EventRefused, reason) }
	for range 4 {
		say(1, "noise")
		say(2, "noise")
		say(1, "other")
	}
	for _, u := range m {
		for _, l := range u.reasons {
			l.until = time.Now().Add(-time.Second) // a minute is over
		}
	}
	say(1, "noise")
	say(1, "noise")
	j.Close()
	close(log.lines)
	var got []string
	for line := range log.lines {
		got = append(got, line)
	}
	want := "noise event=message-refused|noise event=message-refused|other event=message-refused|noise event=message-refused held_back=3"
	if strings.Join(got, "|") != want {
		t.Errorf("logged were %q", got)
	}
}

// TestManyUsersShareALimit when there are more than are remembered: neither the memory nor the journal grows with them, and
// what is said about root is said.
func TestManyUsersShareALimit(t *testing.T) {
	m := make(Limiter)
	said := 0
	for uid := range uint32(10 * limitUsers) {
		if _, ok := m.allow(1+uid, "noise"); ok {
			said++
		}
	}
	if len(m) > limitUsers+1 || said > limitUsers+1 {
		t.Errorf("%d entries and %d lines", len(m), said)
	}
	if _, ok := m.allow(0, "noise"); !ok {
		t.Error("nothing is said about root")
	}
	if _, ok := m.allow(everybody, "noise"); ok {
		t.Error("a user with the number of all others has a line of his own")
	}
	for _, u := range m {
		u.until = time.Now().Add(-time.Second) // a minute is over
	}
	if _, ok := m.allow(1_000_000, "noise"); !ok {
		t.Error("one user is remembered for ever")
	}
}

// TestManyReasonsShareALimit: a user with more than are remembered silences nobody but himself, and takes no more memory.
func TestManyReasonsShareALimit(t *testing.T) {
	m := make(Limiter)
	said := 0
	for i := range 10 * limitReasons {
		if _, ok := m.allow(1, strconv.Itoa(i)); ok {
			said++
		}
	}
	if n := len(m[1].reasons); n > limitReasons+1 || said != n {
		t.Errorf("%d entries and %d lines", n, said)
	}
	for _, uid := range []uint32{0, 2} {
		if _, ok := m.allow(uid, "noise"); !ok {
			t.Errorf("nothing is said about user %d", uid)
		}
	}
	for _, l := range m[1].reasons {
		l.until = time.Now().Add(-time.Second)
	}
	if _, ok := m.allow(1, "another"); !ok {
		t.Error("reasons are remembered for ever")
	}
	if n := len(m[1].reasons); n > 1 {
		t.Errorf("%d entries when a minute is over", n)
	}
}

// TestSubordinateUsersShareALimit with their user.
func TestSubordinateUsersShareALimit(t *testing.T) {
	log := textLog{make(chan string, 100)}
	j := New(log)
	j.Owner = func(uid uint32) uint32 { return min(uid, 7) }
	m := make(Limiter)
	for uid := range uint32(20) {
		j.Limited(m, uid, "noise", slog.LevelWarn, EventRefused, "noise")
	}
	j.Close()
	if n := len(log.lines); n != 8 {
		t.Errorf("%d lines about 8 users", n)
	}
}
