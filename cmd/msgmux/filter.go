// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os/user"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// filter is what sub prints of what it receives.
type filter struct {
	match *regexp.Regexp // nil is everything
	uids  []uint32       // of one of these; none is any, known or not
	units []string       // likewise
}

// origin says whether it has to do with the messages' origin.
func (f *filter) origin() bool { return len(f.uids)+len(f.units) > 0 }

// wants says whether a message is to be printed. One of unknown origin is of no user and of no unit.
func (f *filter) wants(m *message) bool {
	switch {
	case f.match != nil && !f.match.Match(m.Payload):
		return false
	case len(f.uids) > 0 && !(m.from().Known && slices.Contains(f.uids, m.from().UID)):
		return false
	}
	return len(f.units) == 0 || slices.Contains(f.units, m.sender().unit)
}

// newFilter reads the flags of sub.
func newFilter(match string, users, units []string) (f filter, err error) {
	if match != "" {
		if f.match, err = regexp.Compile(match); err != nil {
			return f, usagef("--match: %w", err)
		}
	}
	for _, name := range users {
		uid, err := userID(name)
		if err != nil {
			return f, usagef("--from-uid %q: %w", name, err)
		}
		f.uids = append(f.uids, uid)
	}
	for _, name := range units {
		if !strings.Contains(name, ".") {
			name += ".service"
		}
		if !unitFolder.MatchString(name) {
			return f, usagef("--from-unit %q is not the name of a unit that has processes", name)
		}
		f.units = append(f.units, name)
	}
	return f, nil
}

// userID is the user of a name or number.
func userID(name string) (uint32, error) {
	if known, err := user.Lookup(name); err == nil {
		name = known.Uid
	}
	uid, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		return 0, errors.New("there is no such user")
	}
	return uint32(uid), nil
}
