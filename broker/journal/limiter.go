// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"log/slog"
	"time"
)

// Limiter lets a line through at most once a minute for each user and reason, with bounded memory. It belongs to one
// goroutine: each that logs what strangers cause has its own.
type Limiter map[limitKey]*limit

// limitKey is what a line is limited by: who caused it, and how.
type limitKey struct {
	uid    uint32
	reason string
}

type limit struct {
	until time.Time
	count int // lines held back
}

const (
	limitPeriod = time.Minute
	limitTable  = 512 // entries; beyond, all users without one share one
)

// everybody is the uid of the entry that is used when the table is full.
const everybody = ^uint32(0)

// allow says whether a line may go out now, and how many were held back since the last one.
func (m Limiter) allow(uid uint32, reason string) (held int, ok bool) {
	now := time.Now()
	key := limitKey{uid, reason}
	if m[key] == nil && len(m) >= limitTable {
		for k, l := range m {
			if now.After(l.until) {
				delete(m, k)
			}
		}
		if len(m) >= limitTable {
			key = limitKey{everybody, ""}
		}
	}
	l := m[key]
	if l == nil {
		l = new(limit)
		m[key] = l
	}
	if now.Before(l.until) {
		l.count++
		return 0, false
	}
	held, l.until, l.count = l.count, now.Add(limitPeriod), 0
	return held, true
}

// Limited is Event, as far as m allows for that user and reason.
func (l *Log) Limited(m Limiter, uid uint32, reason string, level slog.Level, event, text string, attrs ...slog.Attr) {
	if held, ok := m.allow(uid, reason); ok {
		if held > 0 {
			attrs = append(attrs, slog.Int("held_back", held))
		}
		l.Event(level, event, text, attrs...)
	}
}
