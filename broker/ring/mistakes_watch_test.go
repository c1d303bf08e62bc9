// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package ring

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// counted is what was found out by playing every scene once: which stores there are, and which follow each other.
type counted struct {
	stores  map[site][]scene
	pairs   map[[2]site][]scene
	classes map[site]map[class]bool
	redone  map[site]bool // made by a successor, too
}

func census(t *testing.T) counted {
	t.Helper()
	c := counted{make(map[site][]scene), make(map[[2]site][]scene), make(map[site]map[class]bool), make(map[site]bool)}
	all, takes := scenes(), make(map[string]int)
	counts := make(map[string]*mutation)
	for _, s := range all {
		m := counting()
		t.Run(s.name, func(t *testing.T) {
			w := play(t, s, 1, m)
			takes[s.name] = w.steps + 10*w.points[1]
			report(t, w)
		})
		counts[s.name] = m
	}
	// What takes little time first: most mistakes are noticed by the first scene that comes by them.
	slices.SortStableFunc(all, func(a, b scene) int { return takes[a.name] - takes[b.name] })
	for _, s := range all {
		m := counts[s.name]
		for at, classes := range m.stores {
			c.stores[at] = append(c.stores[at], s)
			if c.classes[at] == nil {
				c.classes[at] = make(map[class]bool)
			}
			maps.Copy(c.classes[at], classes)
		}
		for pair := range m.pairs {
			c.pairs[pair] = append(c.pairs[pair], s)
		}
		maps.Copy(c.redone, m.redone)
	}
	return c
}

// always is what the stores of a site were whenever they were made.
func (c *counted) always(at site) class {
	if len(c.classes[at]) == 1 {
		for k := range c.classes[at] {
			return k
		}
	}
	return anywhere
}

// mistake is a mutation with its name, the scenes that come by it, and why nobody can notice it, if so.
type mistake struct {
	name   string
	make   func() *mutation
	scenes []scene
	redone bool // a successor makes it, too
	why    string
}

func mistakes(t *testing.T) (all []mistake) {
	c := census(t)
	for at, in := range c.stores {
		m := mistake{"without " + string(at), func() *mutation { return &mutation{drop: at} }, in, c.redone[at], ""}
		if c.always(at) == readers {
			m.why = string(readers)
		}
		all = append(all, m)
	}
	for pair, in := range c.pairs {
		m := mistake{string(pair[1]) + " before " + string(pair[0]), func() *mutation { return &mutation{swap: pair} }, in, c.redone[pair[0]] && c.redone[pair[1]], ""}
		switch a, b := c.always(pair[0]), c.always(pair[1]); {
		case a == readers || b == readers:
			m.why = string(readers)
		case b == unborn:
			m.why = string(unborn)
		case a == b || b.unseen(pair[0]):
			m.why = string(b)
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b mistake) int { return strings.Compare(a.name, b.name) })
	return all
}

// noticed says what was noticed of a mistake in a scene that comes by it, "" if nothing, and whether it was made at all.
func (m *mistake) noticed(t *testing.T) (what string, made bool) {
	for _, levels := range []int{1, 2} {
		for _, s := range m.scenes {
			if levels == 2 && (s.long || !m.redone) {
				continue // killing a successor, too, takes its time
			}
			mut := m.make()
			t.Run(m.name, func(t *testing.T) {
				for p := range play(t, s, levels, mut).problems {
					what = s.name + ": " + p
				}
			})
			if made = made || mut.made > 0; what != "" {
				return what, made
			}
		}
	}
	return "", made
}

// harmless are the mistakes that make no difference for a reason of their own.
var harmless = []struct{ like, why string }{
	{`\(Empty\) r.c.Slots.Store\(newSlots\(1, 1\)\) before .*r.done\("recv`, "the end of a connection is no message, whether it is landed or not"},
	{`Phase.Store\(phaseIdle\) .* before .*redoRemove\) client.State.Store\(free\)`, "a client, which counts nothing, is gone now or a moment later"},
	{`r.log\(op(Greet|Recv|Send|Take), .* before .* (l|fieldsOf.*)\.(Client|From|Maybe|Orphan|AsOwn)\.Store`, "the kernel was not asked yet, and its records, which say so, are all that is looked at then"},
	{`^[a-z_]+.go:\d+\((NumberSources|NewID|Advance)\) .* before .*r.done\(`, "a word of its own, no part of the operation before, which is done again"},
	{`\(Turn\) c.e.Owed.Store\(owed\) before .*\(Advance\)`, "what is owed and what time it is are each true by themselves"},
	{`\((giveUp|adoptAll)\) .* before .*\((giveUp|adoptAll|begin)\)`, "what has fallen is found again by the next successor"},
	{`\(Publish\) at\[header\]\(r.files.header, 0\).* before `, "the magic of one file makes no pair"},
	{`\(Publish\) r.head.Magic.Store\(magic\) before .*\(Publish\)`, "a pair counts when both files have their magic, whichever was first"},
	{`^without landing.go:\d+\(Empty\)`, "the end of a connection is no message, and APPEND takes it out as well"},
	{`^without .*Seq.Store.*\(redoPut\) c.Done.store\(from\)`, "the number is what the case was chosen by"},
	{`^publish.go:\d+\((publish|publishHead)\).*< (publish|ring).go:\d+\((begin|publish)\) .* before `, "what a broker publishes when it begins was published before, or nobody reads the ring yet; each word is true by itself"},
	{`^publish.go:\d+\(publishHead\).*op_append.go.* before op_append.go:\d+\(applyAppend\)`, "APPEND is logged by then: a successor publishes the same head"},
	{`^publish.go:\d+\(publishTail\) p.Tail.Store.*\(publish\) .* before ring.go`, "how often a ring was opened is no matter of its readers"},
	{`\(checkPacket\) r.landing.Copy\(0, packet.first\) .* before .*r.done\("recv`, "no part of the packet lies there that it is copied to"},
}

// harmless is why nobody can notice a mistake, "" if somebody has to.
func (m *mistake) harmless() string {
	if m.why != "" {
		return m.why
	}
	if i := m.listed(); i >= 0 {
		return harmless[i].why
	}
	return ""
}

// listed is where in the list of those that make no difference a mistake stands, or -1.
func (m *mistake) listed() int {
	for i, n := range harmless {
		if m.why == "" && regexp.MustCompile(n.like).MatchString(m.name) {
			return i
		}
	}
	return -1
}

// ops are the operations that a scene comes by.
func (s scene) ops(t *testing.T) map[uint32]bool {
	m := counting()
	play(t, s, 0, m)
	return m.ops
}

// TestMistakesAreCaught makes mistakes in the code, one at a time: a store is left out, or changes places with the one
// behind it. Each is noticed, or makes no difference, for a reason that is found by what the stores are or stands in a short
// list.
//
//	MSGMUX_MUTANTS   how many are made (30). 0 is all, and then those in the list are made, too, for their reasons must be true
//	MSGMUX_SEED      which (1: the same ones each time, so that a change is judged by itself)
//	MSGMUX_PARTS     that others make a part of them, in processes of their own: this one makes those of MSGMUX_PART, from 0 on
//	MSGMUX_MISTAKE   an expression for the names of those that are looked at
func TestMistakesAreCaught(t *testing.T) {
	all := mistakes(t)
	n, seed := number("MSGMUX_MUTANTS", 30), number("MSGMUX_SEED", 1)
	part, parts := number("MSGMUX_PART", 0), number("MSGMUX_PARTS", 1)
	reasons, applies := make(map[string]int), make([]bool, len(harmless))
	var chosen, listed []mistake
	only := regexp.MustCompile(os.Getenv("MSGMUX_MISTAKE"))
	for _, m := range all {
		if i := m.listed(); i >= 0 {
			applies[i] = true
			listed = append(listed, m)
		}
		if why := m.harmless(); why != "" {
			reasons[why]++
		} else if only.MatchString(m.name) {
			chosen = append(chosen, m)
		}
	}
	for i, n := range harmless {
		if !applies[i] {
			t.Errorf("there is no mistake any more that makes no difference since %s: %s", n.why, n.like)
		}
	}
	possible := len(chosen)
	rng := rand.New(rand.NewPCG(uint64(seed), 0))
	rng.Shuffle(len(chosen), func(i, k int) { chosen[i], chosen[k] = chosen[k], chosen[i] })
	if n > 0 {
		chosen, listed = chosen[:min(n, len(chosen))], nil
	}
	noticed := 0
	for i := part; i < len(chosen); i += parts {
		m := &chosen[i]
		switch what, made := m.noticed(t); {
		case what != "":
			noticed++
			t.Logf("noticed: %s, in %s", m.name, what)
		case !made:
			t.Errorf("does not come about: %s", m.name)
		default:
			t.Errorf("nobody notices: %s (in %d scenes)", m.name, len(m.scenes))
		}
	}
	for i := part; i < len(listed); i += parts {
		if what, _ := listed[i].noticed(t); what != "" {
			t.Errorf("noticed, although %s: %s, in %s", listed[i].harmless(), listed[i].name, what)
		}
	}
	fmt.Printf("seed %d, part %d of %d: of %d mistakes %d noticed, of %d that can be; %d others make no difference\n", seed, part, parts,
		(len(chosen)+parts-1-part)/parts, noticed, possible, len(all)-possible)
	for _, why := range slices.Sorted(maps.Keys(reasons)) {
		t.Logf("%4d make no difference: %s", reasons[why], why)
	}
}

// TestMisplacedLogIsNoticed breaks every operation on purpose, in the two ways in which the models break it: it stores its phase
// before its fields, or after its work.
func TestMisplacedLogIsNoticed(t *testing.T) {
	comesBy := make(map[string]map[uint32]bool)
	for _, s := range scenes() {
		t.Run(s.name, func(t *testing.T) { comesBy[s.name] = s.ops(t) })
	}
	for op, is := range operations() {
		for late, how := range map[bool]string{false: "before its fields", true: "after its work"} {
			if op == phaseIdle {
				continue
			}
			t.Run(is.name+" logged "+how, func(t *testing.T) {
				made, played := 0, false
				for _, s := range scenes() {
					if !comesBy[s.name][uint32(op)] {
						continue
					}
					played = true
					m := &mutation{op: uint32(op), late: late}
					for p := range play(t, s, 1, m).problems {
						t.Logf("%s: %s", s.name, p)
						return
					}
					made += m.made
				}
				if played { // if not, TestEveryStoreIsPlayed says so
					t.Errorf("made %d times, and nobody notices", made)
				}
			})
		}
	}
}

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}
