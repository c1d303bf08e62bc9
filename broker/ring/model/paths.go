// SPDX-License-Identifier: Apache-2.0

package model

import (
	"cmp"
	_ "embed" // for the table of paths
	"errors"
	"fmt"
	"slices"
	"strings"
)

// table is what the models found: each line has a model, where the predecessor died, what the last system call brought, a
// point, and one that may follow it. A test holds it to the models; go test -run TestModels -update writes it.
//
//go:embed paths.txt
var table string

// none stands in the table for no point: the beginning of a broker, or of a channel.
const none = "-"

// Step is a point that a broker came by: a seam "recv.logged", or a moment of a system call "recv all".
type Step struct {
	Goroutine uint64
	Point     string
}

// Life is what one broker came by, in order, from its start to its death.
type Life []Step

// path is one line of the table.
type path struct{ model, was, result, from, to string }

// Paths are the paths that brokers may take, by the models.
type Paths struct {
	all    map[path]bool
	points map[string]map[string]bool // by model
}

// KnownPaths are those of the table.
func KnownPaths() (*Paths, error) {
	p := &Paths{make(map[path]bool), make(map[string]map[string]bool)}
	for line := range strings.Lines(table) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		f := strings.Split(line, "\t")
		if len(f) != 5 {
			return nil, fmt.Errorf("cannot read the table of paths: %q", line)
		}
		p.all[path{f[0], f[1], f[2], f[3], f[4]}] = true
		if f[0] == withMemory {
			continue // there are no points in it that are not in the other
		}
		if p.points[f[0]] == nil {
			p.points[f[0]] = make(map[string]bool)
		}
		p.points[f[0]][f[4]] = true
	}
	return p, nil
}

// withMemory is, in the table, what the variants with memory found of the model "data" and the others did not: ways of brokers some of
// whose clients share memory with them.
const withMemory = "memory"

// anyOrder are the models in which clients decide which operation follows which: there the order tells nothing.
var anyOrder = map[string]bool{"table": true}

// asks says whether a point belongs to a goroutine that has the data thread do things. All others are the data thread's, or
// of whoever opens the ring before that thread begins.
func asks(point string) bool {
	return strings.HasPrefix(point, "register.") || point == "attach.stored" || point == "attach.barrier"
}

// beyond are the ways that the bounds of a model leave out, each with the reason.
var beyond = map[path]string{
	{model: "data", from: "skip.done", to: "skip.logged"}: "any number of sinks may be left behind at once; of two, one",
}

// Check says which steps of the lives, those of one channel in order from its first broker on, no model knows; nil if they
// are paths of all models. The steps that a model does not have are left out for it. memory says that clients may have shared memory with
// the broker. How many steps were looked at is returned too.
func (p *Paths) Check(lives []Life, memory bool) (steps int, err error) {
	f := follower{known: p, memory: memory, unknown: make(map[path]bool)}
	for name := range p.points {
		f.follow(name, lives)
	}
	return f.steps, errors.Join(append(f.errs, alone(lives))...)
}

// follower goes along lives.
type follower struct {
	known   *Paths
	memory  bool
	steps   int
	unknown map[path]bool // each way is told once
	errs    []error
}

func (f *follower) follow(name string, lives []Life) {
	was := none
	for nr, life := range lives {
		at, result, recovered := none, none, nr == 0
		asked := make(map[uint64]string)
		for i, step := range life {
			if !f.known.points[name][step.Point] {
				continue
			}
			f.steps++
			if asks(step.Point) {
				from := cmp.Or(asked[step.Goroutine], none)
				asked[step.Goroutine] = step.Point
				f.step(path{name, none, none, from, step.Point}, nr, life, i)
				continue
			}
			f.step(path{name, was, result, at, step.Point}, nr, life, i)
			at = step.Point
			switch {
			case strings.Contains(at, " "):
				result = at
			case strings.HasSuffix(at, ".logged"):
				result = none
			case at == "recover.done":
				was, recovered = none, true
			}
			if anyOrder[name] && (strings.HasSuffix(at, ".done") || at == "add.client") {
				at, result = none, none
			}
		}
		switch {
		case at == none:
		case recovered:
			was = at
		default:
			was = "recover.begin" // that it died in recovery is all that is known
		}
	}
}

// step is one way taken by broker nr.
func (f *follower) step(w path, nr int, life Life, i int) {
	short, shared := path{model: w.model, from: w.from, to: w.to}, w
	shared.model = withMemory
	if f.known.all[w] || f.memory && w.model == "data" && f.known.all[shared] || beyond[short] != "" || f.unknown[w] {
		return
	}
	f.unknown[w] = true
	f.errs = append(f.errs, fmt.Errorf("broker %d, step %d: model %s knows no way from %s to %s, after %s, for the successor of one that died at %s:\n%s",
		nr, i, w.model, w.from, w.to, w.result, w.was, around(life, i)))
}

// alone says where an operation was begun in the middle of another one.
func alone(lives []Life) error {
	for nr, life := range lives {
		open := ""
		for i, step := range life {
			op, point, seam := strings.Cut(step.Point, ".")
			if !seam || asks(step.Point) {
				continue
			}
			// What a queue is given, or is done, moves the cursor as what a socket is sent does.
			if open != "" && op != open && !((open == "put" || open == "done") && step.Point == "send.cursor") {
				return fmt.Errorf("broker %d, step %d: %s in the middle of the operation %s:\n%s", nr, i, step.Point, open, around(life, i))
			}
			switch point {
			case "logged":
				open = op
			case "done", "landed":
				open = ""
			}
		}
	}
	return nil
}

// around shows what lies before a step.
func around(life Life, i int) string {
	var b strings.Builder
	for n := max(0, i-12); n <= i; n++ {
		fmt.Fprintf(&b, "%d\t%s\n", life[n].Goroutine, life[n].Point)
	}
	return b.String()
}

// ReadLives reads a trace: an empty line and a line "life" for each broker, followed by a line "GOROUTINE POINT" for each point. A
// line that its broker was killed in is left out, the last one, and one without an empty line between it and the next broker: the
// write to a file may end in the middle then, between two pages.
func ReadLives(trace string) (lives []Life, err error) {
	lines := strings.Split(trace, "\n")
	for i, text := range lines[:len(lines)-1] {
		if text == "life" {
			lives = append(lives, nil)
			continue
		}
		if text == "" || lines[i+1] == "life" {
			continue
		}
		var s Step
		number, point, ok := strings.Cut(text, " ")
		if _, err := fmt.Sscan(number, &s.Goroutine); err != nil || !ok || len(lives) == 0 {
			return nil, fmt.Errorf("cannot read the trace: %q", text)
		}
		s.Point = point
		lives[len(lives)-1] = append(lives[len(lives)-1], s)
	}
	return lives, nil
}

// lines are the table, sorted, for writing.
func (p *Paths) lines() []string {
	var l []string
	for e := range p.all {
		l = append(l, strings.Join([]string{e.model, e.was, e.result, e.from, e.to}, "\t"))
	}
	slices.Sort(l)
	return l
}
