// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"log/slog"
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
	for _, l := range m {
		l.until = time.Now().Add(-time.Second) // a minute is over
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

// TestManyUsersShareALimit when there are more than are remembered: neither the memory nor the journal grows with them.
func TestManyUsersShareALimit(t *testing.T) {
	m := make(Limiter)
	said := 0
	for uid := range uint32(10 * limitTable) {
		if _, ok := m.allow(uid, "noise"); ok {
			said++
		}
	}
	if len(m) > limitTable+1 || said > limitTable+1 {
		t.Errorf("%d entries and %d lines", len(m), said)
	}
}
