// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/msgmux/msgmux/units/rig/load/tally"
)

// loadPath is where tests install the program load (Build "./units/rig/load").
const loadPath = "/usr/bin/load"

// StartLoad starts the program load, which must be installed as /usr/bin/load, with the given arguments, and waits until it
// is set up.
func (m *Machine) StartLoad(arguments ...string) *Process {
	m.t.Helper()
	return m.StartLoadAs(nil, arguments...)
}

// StartLoadAs is StartLoad by a command that begins with as, such as what [Machine.As] returns for a user.
func (m *Machine) StartLoadAs(as []string, arguments ...string) *Process {
	m.t.Helper()
	p := m.Start(append(append(slices.Clone(as), loadPath), arguments...)...)
	m.Until("load "+strings.Join(arguments, " ")+" is ready", time.Minute, func() bool {
		select {
		case <-p.ended:
			if !strings.Contains(p.Stderr(), "ready\n") {
				m.t.Fatalf("%s: load %s: %s", m.suite, strings.Join(arguments, " "), p.Stderr())
			}
		default:
		}
		return strings.Contains(p.Stderr(), "ready\n")
	})
	return p
}

// Sender waits for the end of a `load send`, which the caller has asked to end or which ends by itself, and returns its
// report.
func (p *Process) Sender() (r tally.Sender) {
	p.m.t.Helper()
	p.report(&r)
	return r
}

// Sinks does the same for the other commands of load, which report every sink they were.
func (p *Process) Sinks() (r []tally.Sink) {
	p.m.t.Helper()
	p.report(&r)
	return r
}

// report waits for the end and decodes the output.
func (p *Process) report(into any) {
	p.m.t.Helper()
	exit := p.Wait()
	if err := json.Unmarshal([]byte(p.Stdout()), into); err != nil || exit != 0 {
		p.m.t.Fatalf("%s: no report of %s: exit status %d: %v\n%s%s",
			p.m.suite, strings.Join(p.arguments, " "), exit, err, p.Stdout(), p.Stderr())
	}
}
