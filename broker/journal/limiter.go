// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"log/slog"
	"maps"
	"time"
)

// Limiter lets a line through at most once a minute for each user and reason, with bounded memory. What one user causes
// silences nothing that is said about others: a user who has very many reasons has those beyond limitReasons in common, and where
// there are very many users, those beyond limitUsers have one line for all. Root, whose the static sinks are, is not among these.
//
// It belongs to one goroutine: each that logs what strangers cause has its own.
type Limiter map[uint32]*lines // by user

// lines are those about one user.
type lines struct {
	reasons map[string]*limit
	until   time.Time // when all limits are over
}

type limit struct {
	until time.Time
	count int // lines held back
}

const (
	limitPeriod  = time.Minute
	limitUsers   = 256
	limitReasons = 64   // of one user
	limitRoots   = 8192 // of root: as many as sinks may be left behind and forgiven, and some
)

const (
	// everybody stands for all users that have no lines of their own, because there are too many.
	everybody = ^uint32(0)
	// theRest stands for all reasons of a user beyond the most that he may have.
	theRest = ""
)

// allow says whether a line may go out now, and how many were held back since the last one.
func (m Limiter) allow(user uint32, reason string) (held int, ok bool) {
	now := time.Now()
	u := m.of(user, now)
	if u == nil {
		if m[everybody] == nil {
			m[everybody] = &lines{reasons: make(map[string]*limit)}
		}
		u, reason = m[everybody], theRest
	}
	most := limitReasons
	if user == 0 {
		most = limitRoots
	}
	l := u.about(reason, most, now)
	if now.Before(l.until) {
		l.count++
		return 0, false
	}
	held, l.until, l.count = l.count, now.Add(limitPeriod), 0
	u.until = l.until
	return held, true
}

// of are the lines about a user, nil if there is no room for them.
func (m Limiter) of(user uint32, now time.Time) *lines {
	u := m[user]
	if u != nil && user != everybody {
		return u
	}
	if user != 0 && len(m) >= limitUsers {
		maps.DeleteFunc(m, func(_ uint32, u *lines) bool { return now.After(u.until) })
		if len(m) >= limitUsers {
			return nil
		}
	}
	u = &lines{reasons: make(map[string]*limit)}
	m[user] = u
	return u
}

// about is the limit for a reason, or for the rest of them.
func (u *lines) about(reason string, most int, now time.Time) *limit {
	if l := u.reasons[reason]; l != nil {
		return l
	}
	if len(u.reasons) >= most && reason != theRest {
		maps.DeleteFunc(u.reasons, func(_ string, l *limit) bool { return now.After(l.until) })
		if len(u.reasons) >= most {
			return u.about(theRest, most, now)
		}
	}
	l := new(limit)
	u.reasons[reason] = l
	return l
}

// Limited is Event, as far as m allows for that user and reason. A subordinate uid counts as its user.
func (l *Log) Limited(m Limiter, uid uint32, reason string, level slog.Level, event, text string, attrs ...slog.Attr) {
	user := uid
	if l.Owner != nil {
		user = l.Owner(uid)
	}
	if held, ok := m.allow(user, reason); ok {
		if held > 0 {
			attrs = append(attrs, slog.Int("held_back", held))
		}
		l.Event(level, event, text, attrs...)
	}
}
