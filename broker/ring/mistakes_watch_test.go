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
	stores map[site][]scene
	pairs  map[[2]site][]scene
	redone map[site]bool      // made by a successor, too
	differ map[[2]site]string // pairs that must not be taken for the same, whichever is first; nil: was not looked at
	tried  [levels]int        // states that were compared for that
}

// census counts. With same, two stores that change places are looked at, in the broker, and in what takes over each time of so many.
func census(t *testing.T, same bool, part int) counted {
	t.Helper()
	c := counted{make(map[site][]scene), make(map[[2]site][]scene), make(map[site]bool), make(map[[2]site]string), [levels]int{}}
	all, takes := scenes(), make(map[string]int)
	counts := make(map[string]*mutation)
	for _, s := range all {
		m := counting()
		n := 1
		if same {
			m.same = &sameness{part: part, differ: c.differ}
			if part > 0 && !s.long {
				n = 2
			}
		}
		t.Run(s.name, func(t *testing.T) {
			w := play(t, s, n, m)
			takes[s.name] = w.steps + 10*w.points[1]
			report(t, w)
		})
		if counts[s.name] = m; same {
			for i, n := range m.same.tried {
				c.tried[i] += n
			}
		}
	}
	// What takes little time first: most mistakes are noticed by the first scene that comes by them.
	slices.SortStableFunc(all, func(a, b scene) int { return takes[a.name] - takes[b.name] })
	for _, s := range all {
		m := counts[s.name]
		for at := range m.stores {
			c.stores[at] = append(c.stores[at], s)
		}
		for pair := range m.pairs {
			c.pairs[pair] = append(c.pairs[pair], s)
		}
		maps.Copy(c.redone, m.redone)
	}
	return c
}

// mistake is a mutation with its name and the scenes that come by it.
type mistake struct {
	name   string
	make   func() *mutation
	scenes []scene
	redone bool // a successor makes it, too
	same   bool // what it makes of the files is the same, as far as anybody can tell
}

// mistakes are all there are.
func (c *counted) mistakes() (all []mistake) {
	for at, in := range c.stores {
		all = append(all, mistake{"without " + string(at), func() *mutation { return &mutation{drop: at} }, in, c.redone[at], false})
	}
	for pair, in := range c.pairs {
		all = append(all, mistake{string(pair[1]) + " before " + string(pair[0]), func() *mutation { return &mutation{swap: pair} }, in,
			c.redone[pair[0]] && c.redone[pair[1]], c.differ[pair] == ""})
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

// alive says what was noticed of an exchange that makes the same of the files, in two scenes without kills: what the broker stores must
// not hang on which store comes first.
func (m *mistake) alive(t *testing.T) (what string) {
	for _, s := range m.scenes[:min(2, len(m.scenes))] {
		mut := m.make()
		mut.alive = true
		t.Run(m.name, func(t *testing.T) {
			for p := range play(t, s, 0, mut).problems {
				what = s.name + ": " + p
			}
		})
	}
	return what
}

// harmless are the mistakes that make no difference for a reason of their own.
var harmless = []struct{ like, why string }{
	{`^(op|recover).go:.*Phase.Store\(phaseIdle\) .* before op_remove.go:\d+\(redoRemove\) (sink|client).State.Store\(free\)`,
		"an entry that counts nothing: as long as it is there, it has not been removed yet, and will be again"},
	{`^without op_rejoin.go:\d+\(redoRejoin\) e.Acked.Store\(0\)`, "who has left is done with what he has said: LEAVE saw to that"},
	{`^without op_append.go:\d+\(commit\) l.Offset.Store\(a.offset\) < stage.go`, "the offset is of what has landed, and that is nothing"},
	{`^without op_send.go:\d+\(Send\) vec\[i\].Preset\(\) < op_send.go:\d+\(Send\) return r.Send\(s, fd\)`,
		"the call before has sent nothing, and so it has written nothing there"},
	{`\(Turn\) c.e.Owed.Store\(owed\) before .*\(Advance\)`, "what is owed and what time it is are each true by themselves"},
}

// listed is where in the list of those that make no difference a mistake stands, or -1.
func (m *mistake) listed() int {
	return slices.IndexFunc(harmless, func(n struct{ like, why string }) bool {
		return !m.same && regexp.MustCompile(n.like).MatchString(m.name)
	})
}

// ops are the operations that a scene comes by.
func (s scene) ops(t *testing.T) map[uint32]bool {
	m := counting()
	play(t, s, 0, m)
	return m.ops
}

// TestMistakesAreCaught makes mistakes in the code, one at a time: a store is left out, or changes places with the one behind it.
// Each is noticed, or makes the same of the files as far as anybody can tell (see sameness), or stands in a short list.
//
//	MSGMUX_MUTANTS   how many are made (100). 0 is all; and then those that make the same are played, too, without kills, and those in
//	                 the list, for their reasons must be true
//	MSGMUX_SEED      which (1)
//	MSGMUX_MISTAKE   an expression for the names of those that are looked at
func TestMistakesAreCaught(t *testing.T) {
	n, seed, only := number("MSGMUX_MUTANTS", 100), number("MSGMUX_SEED", 1), regexp.MustCompile(os.Getenv("MSGMUX_MISTAKE"))
	look := 16
	if n == 0 {
		look = 1
	}
	c := census(t, true, look)
	var same, listed, open []mistake
	applies := make([]int, len(harmless))
	for _, m := range c.mistakes() {
		if i := m.listed(); i >= 0 {
			applies[i]++
		}
		switch {
		case !only.MatchString(m.name):
		case m.same:
			same = append(same, m)
		case m.listed() >= 0:
			listed = append(listed, m)
		default:
			open = append(open, m)
		}
	}
	fmt.Printf("mistakes: %d stores that are left out, %d pairs that change places; %d of the pairs make the same, by %d states in the broker and %d in what takes over\n",
		len(c.stores), len(c.pairs), len(same), c.tried[0], c.tried[1])
	for i, k := range applies {
		if k == 0 {
			t.Errorf("there is no mistake any more that makes no difference since %s: %s", harmless[i].why, harmless[i].like)
		}
		fmt.Printf("%4d in the list: %s\n", k, harmless[i].why)
	}
	possible := len(open)
	if n > 0 {
		rng := rand.New(rand.NewPCG(uint64(seed), 0))
		rng.Shuffle(len(open), func(i, k int) { open[i], open[k] = open[k], open[i] })
		open = open[:min(n, len(open))]
	}
	noticed := catch(t, open, only.String() != "")
	fmt.Printf("seed %d: %d of %d others are made, %d are noticed\n", seed, len(open), possible, len(noticed))
	if n == 0 {
		believe(t, same, listed)
	}
	if n == 0 && only.String() == "" {
		c.spread(t, noticed)
	}
}

// catch makes mistakes that have to be noticed, and returns those that are.
func catch(t *testing.T, all []mistake, tell bool) (noticed []string) {
	for i := range all {
		m := &all[i]
		switch what, made := m.noticed(t); {
		case what != "":
			noticed = append(noticed, m.name)
			if tell {
				t.Logf("noticed: %s, in %s", m.name, what)
			}
		case !made:
			t.Errorf("does not come about: %s", m.name)
		default:
			t.Errorf("nobody notices: %s (in %d scenes)", m.name, len(m.scenes))
		}
	}
	return noticed
}

// believe makes mistakes that are said to make no difference. Where the broker itself notices one that makes the same of the files, what
// it stores hangs on which store comes first: that is none of the same, and caught.
func believe(t *testing.T, same, listed []mistake) {
	lively := 0
	for i := range same {
		if what := same[i].alive(t); what != "" {
			t.Logf("noticed without a kill: %s, in %s", same[i].name, what)
			lively++
		}
	}
	for i := range listed {
		m := &listed[i]
		if what, _ := m.noticed(t); what != "" {
			t.Errorf("noticed, although %s: %s, in %s", harmless[m.listed()].why, m.name, what)
		}
	}
	fmt.Printf("%d of the pairs that make the same are noticed without a kill; of the %d in the list none is\n", lively, len(listed))
}

// spread looks for files in which no mistake was noticed.
func (c *counted) spread(t *testing.T, noticed []string) {
	files := make(map[string]int)
	for _, name := range noticed {
		for _, file := range fileOf.FindAllString(name, -1) {
			files[file]++
		}
	}
	for at := range c.stores {
		if file := fileOf.FindString(string(at)); files[file] == 0 {
			t.Errorf("no mistake in %s was noticed", file)
		}
	}
	t.Logf("noticed, by file: %v", files)
}

var fileOf = regexp.MustCompile(`\b[a-z_]+\.go`)

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
