// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package ring

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/msgmux/msgmux/broker/ring/mem"
)

// site is where a store stands in the code: the two innermost lines outside of package mem.
type site string

// siteOf finds the site of the store that is being made.
func siteOf() site {
	var pcs [24]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	var lines []string
	for len(lines) < 2 {
		f, more := frames.Next()
		if f.File == "" {
			break
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

// mutation is one mistake in the code: a store that is left out, or two neighbours that change places. nil is none.
type mutation struct {
	drop  site
	swap  [2]site // the second is made first, where it comes right behind the first
	count map[site]int
	next  map[[2]site]int // how often one came right behind the other
	made  int             // how often the mistake was made

	classes map[site]map[class]bool // what the stores of a site were, whenever they were made
	class   class                   // of the store that is being made

	level  int  // of the ring that is stored to
	paused bool // what goes on is no broker
	quiet  bool // nobody would notice that two stores have changed places

	last      [3]site // by level
	held      func()  // the first of a swap
	heldLevel int
}

// pause says that what is stored now is done by who looks, and not by a broker.
func (m *mutation) pause(yes bool) {
	if m != nil {
		m.paused = yes
	}
}

// make makes a store, or the mistake.
func (m *mutation) make(s *mem.Store, apply func(*mem.Store)) {
	if m.paused {
		apply(s)
		return
	}
	at, level := siteOf(), m.level // what a store leads to changes m.level
	if m.count != nil {
		m.count[at]++
		if m.classes[at] == nil {
			m.classes[at] = make(map[class]bool)
		}
		m.classes[at][m.class] = true
		if last := m.last[level]; last != "" && !m.quiet {
			m.next[[2]site{last, at}]++
		}
		if m.last[level] = at; m.quiet {
			m.last[level] = ""
		}
	}
	switch {
	case m.drop == at:
		m.made++
	case m.held != nil:
		first := m.held
		m.held = nil
		if at == m.swap[1] && level == m.heldLevel {
			m.made++
			apply(s)
			first()
			return
		}
		first()
		m.level = level
		m.make(s, apply)
	case m.swap[0] == at && m.swap[0] != "" && !m.quiet:
		later := *s
		later.Value = append([]byte(nil), s.Value...)
		m.held, m.heldLevel = func() { apply(&later) }, level
	default:
		apply(s)
	}
}
