// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package ring

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/sys"
)

// site is where a store stands in the code: the two innermost lines outside of package mem. "" is not in this package.
type site string

// sites are those that were found, by the frames that lead there.
var sites = make(map[[8]uintptr]site)

// siteOf finds the site of the store that is being made.
func siteOf() site {
	var pcs [8]uintptr
	n := runtime.Callers(4, pcs[:]) // behind mutation.make, which the world's own store has called
	at, known := sites[pcs]
	if !known {
		at = siteAt(pcs[:n])
		sites[pcs] = at
	}
	return at
}

func siteAt(pcs []uintptr) site {
	frames := runtime.CallersFrames(pcs)
	var lines []string
	for len(lines) < 2 {
		f, more := frames.Next()
		if f.File == "" {
			break
		}
		if strings.Contains(f.File, "/layout2/") {
			return ""
		}
		if !strings.Contains(f.File, "/ring/mem/") && !strings.HasSuffix(f.File, "_watch_test.go") {
			name := f.Function[strings.LastIndexByte(f.Function, '.')+1:]
			lines = append(lines, fmt.Sprintf("%s:%d(%s) %s", filepath.Base(f.File), f.Line, name, sourceLine(f.File, f.Line)))
		} else if len(lines) > 0 {
			break // who drives the ring
		}
		if !more {
			break
		}
	}
	return site(strings.Join(lines, " < "))
}

// sources are the files that sites are in, by lines.
var sources = make(map[string][]string)

func sourceLine(file string, n int) string {
	if sources[file] == nil {
		text, _ := os.ReadFile(file)
		sources[file] = strings.Split(string(text), "\n")
	}
	if n < 1 || n > len(sources[file]) {
		return ""
	}
	return strings.TrimSpace(sources[file][n-1])
}

// levels are the broker, its successor and that one's.
const levels = 3

// mutation is one mistake in the code, made by the broker and by its successors: a store is left out, or two neighbours change
// places. nil is none. A value of several words is one store here.
type mutation struct {
	drop site
	swap [2]site // the second is made first, where it comes right behind the first
	op   uint32  // the operation that stores its phase elsewhere: before its fields, or
	late bool    // after its work
	made int     // how often the mistake was made

	// With counting, no mistake is made, and what could be one is written down.
	counting bool
	stores   map[site]bool
	pairs    map[[2]site]bool // that came right behind each other
	redone   map[site]bool    // made by a successor, too
	ops      map[uint32]bool  // operations
	same     *sameness        // nil: what a swap would make is not looked at

	alive bool // the mistake is made, and nobody is killed

	part   part // of an operation
	paused bool // what goes on is no broker
	quiet  bool // nobody would notice that two stores have changed places
	at     [levels]progress
}

// progress is how far one broker has come.
type progress struct {
	last   site // the store that was made last
	within bool // more of its words follow

	before, now *made // of the last two stores, when sameness looks at them

	held    []func() // the first of a swap
	holding bool     // more of its words may follow
	passing bool     // the second is being made
}

// counting is a mutation that makes no mistake and counts what could be one.
func counting() *mutation {
	return &mutation{counting: true, stores: make(map[site]bool), pairs: make(map[[2]site]bool), redone: make(map[site]bool),
		ops: make(map[uint32]bool)}
}

// pause says that what is stored now is done by who looks, and not by a broker.
func (m *mutation) pause(yes bool) {
	if m != nil {
		m.paused = yes
	}
}

// tame says whether what nobody looks at has to stay what it was.
func (m *mutation) tame() bool { return m != nil && (m.same != nil || m.alive) }

// look says which world the stores are made in from now on.
func (m *mutation) look(w *world) {
	if m != nil && m.same != nil {
		m.same.w = w
	}
}

// begin says that the broker of a level begins, or ends: no store of it has another one before it, or behind it.
func (m *mutation) begin(level int) {
	if m != nil {
		m.at[level].release()
		m.at[level] = progress{}
	}
}

// release makes the stores that were held back.
func (p *progress) release() {
	held := p.held
	p.held, p.holding, p.passing = nil, false, false
	for _, f := range held {
		f()
	}
}

// make makes a store by the broker of a level, or the mistake.
func (m *mutation) make(level int, s *mem.Store, apply func(*mem.Store)) {
	if m.paused {
		apply(s)
		return
	}
	at, p := siteOf(), &m.at[level]
	switch {
	case at == "":
		apply(s)
	case m.op != 0:
		m.misplace(p, s, apply)
	case m.counting:
		m.count(level, at, s, apply)
	case m.drop == at:
		m.made++
	case m.drop != "":
		apply(s)
	default:
		m.exchange(p, at, s, apply)
	}
}

// address makes a store of an address by the broker, or leaves it out. What comes before it, or behind, makes no difference to anybody: a
// successor has other addresses.
func (m *mutation) address(s *mem.Store, apply func(*mem.Store)) {
	switch at := siteOf(); {
	case at == "" || m.paused:
		apply(s)
	case m.counting:
		m.stores[at] = true
		apply(s)
	case m.drop == at:
		m.made++
	default:
		apply(s)
	}
}

func (m *mutation) count(level int, at site, s *mem.Store, apply func(*mem.Store)) {
	p := &m.at[level]
	if level > 0 {
		m.redone[at] = true
	}
	m.stores[at] = true
	if m.part == begins {
		m.ops[binary.NativeEndian.Uint32(s.Value)] = true
	}
	if m.quiet {
		*p = progress{}
		apply(s)
		return
	}
	if !p.within {
		if p.last != "" {
			m.pairs[[2]site{p.last, at}] = true
		}
		p.before, p.now = p.now, &made{site: at}
	}
	p.last, p.within = at, s.More
	if m.same == nil {
		apply(s)
		return
	}
	p.now.note(m.same.w, level, s)
	apply(s)
	if p.before != nil && !s.More {
		m.same.compare(level, p.before, p.now)
	}
}

// exchange holds the first store back until the second is made.
func (m *mutation) exchange(p *progress, at site, s *mem.Store, apply func(*mem.Store)) {
	switch {
	case p.passing: // the rest of the second
		apply(s)
		if !s.More {
			p.release()
		}
	case p.holding: // the rest of the first
		m.hold(p, s, apply)
	case len(p.held) > 0 && at == m.swap[1] && !m.quiet:
		m.made++
		apply(s)
		if p.passing = s.More; !s.More {
			p.release()
		}
	case len(p.held) > 0:
		p.release()
		m.exchange(p, at, s, apply)
	case at == m.swap[0] && !m.quiet:
		m.hold(p, s, apply)
	default:
		apply(s)
	}
}

func (m *mutation) hold(p *progress, s *mem.Store, apply func(*mem.Store)) {
	later := *s
	later.Value = append([]byte(nil), s.Value...)
	p.held = append(p.held, func() { apply(&later) })
	p.holding = s.More
}

// part is what a store is to the operation that makes it.
type part int

const (
	work   part = iota
	fields      // of the log, or what the kernel is to write over
	begins      // the phase
	ends
)

// partOf says what a store is to its operation.
func partOf(t *twin, g Geometry, s *mem.Store) part {
	c, sec := at[control](t.f.state, g.sections().control), g.sections()
	off := uintptr(s.At) - uintptr(unsafe.Pointer(&t.f.state[0]))
	switch n := len(s.Value); {
	case uintptr(s.At) == uintptr(unsafe.Pointer(&c.Log.Phase)):
		if binary.NativeEndian.Uint32(s.Value) == phaseIdle {
			return ends
		}
		return begins
	case uintptr(s.At)-uintptr(unsafe.Pointer(&c.Log.Fields)) < unsafe.Sizeof(c.Log.Fields):
		return fields
	case off >= uintptr(sec.recv) && off < uintptr(sec.landing) && n == 4 && binary.NativeEndian.Uint32(s.Value) == sys.Untouched:
		return fields
	}
	return work
}

// misplace has an operation store its phase elsewhere.
func (m *mutation) misplace(p *progress, s *mem.Store, apply func(*mem.Store)) {
	mine := m.part == begins && binary.NativeEndian.Uint32(s.Value) == m.op
	switch {
	case m.late && mine || !m.late && m.part == fields:
		m.hold(p, s, apply)
	case m.late && m.part == ends:
		if len(p.held) > 0 {
			m.made++
		}
		p.release()
		apply(s)
	case !m.late && mine:
		m.made++
		apply(s)
		p.release()
	case !m.late && m.part == begins:
		p.release()
		apply(s)
	default:
		apply(s)
	}
}
