// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/sys"
)

// stat is what /proc/PID/stat tells of a process (proc_pid_stat(5)), to a hundredth of a second.
type stat struct {
	command string        // its name: at most 15 bytes, of any kind
	cpu     time.Duration // what it has used, user and system
	started time.Duration // since the boot of the host
}

// clockTick is the unit of times in /proc/PID/stat: USER_HZ is 100 wherever Go runs.
const clockTick = time.Second / 100

func readStat(pid int) (s stat, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, err
	}
	// The name, field 2, may hold anything; what follows its last parenthesis begins with field 3.
	open, shut := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	fields := bytes.Fields(text[shut+1:])
	if open < 0 || shut < open || len(fields) < 20 {
		return s, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	ticks := func(field int) time.Duration {
		n, bad := strconv.ParseInt(string(fields[field-3]), 10, 64)
		err = errors.Join(err, bad)
		return time.Duration(n) * clockTick
	}
	return stat{command: string(text[open+1 : shut]), cpu: ticks(14) + ticks(15), started: ticks(22)}, err
}

// process is what this program itself finds out about the sender of a message. Unlike an origin it is attested by nobody:
// the process may have become another program, or have moved to another unit, since it sent.
type process struct {
	command string
	unit    string // the innermost one that it is in
}

// processes looks senders up in /proc, and remembers for a moment what it has found.
type processes struct {
	since time.Time
	found map[int]process
}

// rememberFor is how long: also for a sender that ends meanwhile, and not until its number is another's.
const rememberFor = time.Second

// of is the process that a message came from, of which nothing is known when it is gone.
func (p *processes) of(origin msgmux.Origin, now time.Time) process {
	if !origin.Known || origin.PID == 0 {
		return process{}
	}
	if now.Sub(p.since) > rememberFor {
		p.since, p.found = now, make(map[int]process)
	}
	known, ok := p.found[origin.PID]
	if !ok {
		if known, ok = lookUp(origin, now); ok {
			p.found[origin.PID] = known
		}
	}
	return known
}

// lookUp asks /proc. A process that is younger than the message has only its number.
func lookUp(origin msgmux.Origin, now time.Time) (process, bool) {
	s, err := readStat(origin.PID)
	if err != nil {
		return process{}, false
	}
	const inexact = 5 * clockTick
	if age := sys.SinceBoot() - s.started; !origin.Received.IsZero() && age+inexact < now.Sub(origin.Received) {
		return process{}, false
	}
	return process{command: s.command, unit: unitOf(origin.PID)}, true
}

// unitOf is the innermost unit that a process is in; "" if that is not known.
func unitOf(pid int) string {
	groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return innermostUnit(string(groups))
}

// unitFolder is the name of a control group that systemd makes for a unit which holds processes.
var unitFolder = regexp.MustCompile(`^[A-Za-z0-9:_.@\\-]+\.(service|scope|mount|swap|socket)$`)

// innermostUnit is the unit that the control groups of a process, as /proc/PID/cgroup has them (cgroups(7)), belong to; "" if
// there is none. What a service makes below its own group is still the service.
func innermostUnit(groups string) (unit string) {
	for line := range strings.Lines(groups) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		// The one hierarchy, or systemd's own among those of version 1.
		if len(fields) < 3 || fields[1] != "" && fields[1] != "name=systemd" {
			continue
		}
		for name := range strings.SplitSeq(fields[2], "/") {
			if unitFolder.MatchString(name) {
				unit = name
			}
		}
	}
	return unit
}
