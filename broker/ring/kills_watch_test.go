// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package ring

import (
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestEveryKill plays every scene, and after every store that the broker makes to its files, and every message that the
// kernel takes or gives, has a successor take over a copy: whatever it was killed in, nothing is lost, doubled or reordered,
// and the books are right.
func TestEveryKill(t *testing.T) {
	var kills, again, steps int
	for _, s := range scenes() {
		t.Run(s.name, func(t *testing.T) {
			w := play(t, s, 2, nil)
			report(t, w)
			t.Logf("%d stores, %d kills, %d kills of what took over", w.steps, w.points[1], w.points[2])
			kills, again, steps = kills+w.points[1], again+w.points[2], steps+w.steps
		})
	}
	t.Logf("%d stores; killed after each: %d moments; killed again after each store of the recovery: %d moments", steps, kills, again)
}

func report(t *testing.T, w *world) {
	t.Helper()
	for i, p := range slices.Sorted(maps.Keys(w.problems)) {
		if i == 20 {
			t.Errorf("and %d more", len(w.problems)-i)
			break
		}
		t.Errorf("%d times: %s", w.problems[p], p)
	}
}

// counted is what was found out by playing every scene once.
type counted struct {
	sites   map[site][]scene
	pairs   map[[2]site][]scene // that follow each other
	classes map[site]map[class]bool
}

func census(t *testing.T) counted {
	t.Helper()
	c := counted{make(map[site][]scene), make(map[[2]site][]scene), make(map[site]map[class]bool)}
	for _, s := range scenes() {
		m := &mutation{count: make(map[site]int), next: make(map[[2]site]int), classes: c.classes}
		t.Run(s.name, func(t *testing.T) { report(t, play(t, s, 1, m)) })
		for at := range m.count {
			c.sites[at] = append(c.sites[at], s)
		}
		for pair := range m.next {
			c.pairs[pair] = append(c.pairs[pair], s)
		}
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

// storing are the methods of package mem that store.
var storing = []string{"Store", "Add", "Preset", "SetLen", "SetFlags", "PutUint32", "Copy"}

// unplayed are stores that no scene comes by, with the reason.
var unplayed = map[string]string{
	"Create":   "a file without its magic is no ring, and that is stored last",
	"Reserve":  "ids of sinks out of a ring that was set aside",
	"adoptAll": "entries whose bytes have fallen, which no kill brings about",
	"giveUp":   "as of adoptAll",

	"AddAttached": "a new ring in place of one that was set aside, which the set-aside tests come by with real processes",

	"takeFrom":   "into a ring without its magic, from one that stays as it is: layout2 and its writer have scenes of their own",
	"takeTables": "as of takeFrom",
	"fill":       "as of takeFrom",
	"takeLanded": "as of takeFrom",
}

// TestEveryStoreIsPlayed finds every store to the ring's files in the code, by the types, and holds the scenes to them: what
// is not played is not tried.
func TestEveryStoreIsPlayed(t *testing.T) {
	sites := census(t).sites
	played := make(map[string]bool)
	line := regexp.MustCompile(`([a-z_]+\.go:[0-9]+)\(`)
	for at := range sites {
		for _, m := range line.FindAllStringSubmatch(string(at), -1) {
			played[m[1]] = true
		}
	}
	stores := storesInCode(t)
	if len(stores) < 80 {
		t.Fatalf("only %d stores were found in the code", len(stores))
	}
	for where, function := range stores {
		if why, exempt := unplayed[function]; !played[where] && !exempt {
			t.Errorf("%s in %s: no scene comes by this store", where, function)
		} else if played[where] && exempt && why == "" {
			t.Errorf("%s is played, and stands among those that are not", function)
		}
	}
	t.Logf("%d stores in the code, all played", len(stores))
}

// storesInCode are the calls that store to the files, with the functions that they stand in.
func storesInCode(t *testing.T) map[string]string {
	t.Helper()
	fset := token.NewFileSet()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") || name == "layout_number_next.go" {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := &types.Info{Selections: make(map[*ast.SelectorExpr]*types.Selection)}
	conf := types.Config{Importer: importer.ForCompiler(fset, "source", nil)}
	if _, err := conf.Check("github.com/msgmux/msgmux/broker/ring", fset, files, info); err != nil {
		t.Fatal(err)
	}
	stores := make(map[string]string)
	for _, f := range files {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok || info.Selections[sel] == nil || !slices.Contains(storing, sel.Sel.Name) {
					return true
				}
				if of := info.Selections[sel].Obj().Pkg(); of != nil && strings.HasSuffix(of.Path(), "ring/mem") {
					at := fset.Position(sel.Sel.Pos())
					stores[fmt.Sprintf("%s:%d", filepath.Base(at.Filename), at.Line)] = fn.Name.Name
				}
				return true
			})
		}
	}
	return stores
}

// mistake is a mutation with its name, the scenes that come by it, and why nobody can notice it, if so.
type mistake struct {
	name   string
	make   func() *mutation
	scenes []scene
	why    string
}

func mistakes(t *testing.T) (all []mistake) {
	c := census(t)
	for at, in := range c.sites {
		m := mistake{"without " + string(at), func() *mutation { return &mutation{drop: at} }, in, ""}
		if c.always(at) == readers {
			m.why = string(readers)
		}
		all = append(all, m)
	}
	for pair, in := range c.pairs {
		if pair[0] == pair[1] {
			continue
		}
		m := mistake{string(pair[1]) + " before " + string(pair[0]), func() *mutation { return &mutation{swap: pair} }, in, ""}
		switch a, b := c.always(pair[0]), c.always(pair[1]); {
		case a == readers || b == readers:
			m.why = string(readers)
		case b == unborn:
			m.why = string(unborn)
		case a == b || a == unborn && b == unread:
			m.why = string(b)
		case b == unread && !strings.Contains(string(pair[0]), "(done)"):
			m.why = string(unread)
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b mistake) int { return strings.Compare(a.name, b.name) })
	return all
}

// noticed says whether a mistake was noticed in a scene that comes by it, and whether it was made at all.
func (m *mistake) noticed(t *testing.T) (yes, made bool) {
	for _, levels := range []int{1, 2} {
		for _, s := range m.scenes {
			if levels == 2 && s.long {
				continue // killing a successor, too, takes its time
			}
			mut, problems := m.make(), 0
			t.Run(m.name, func(t *testing.T) { problems = len(play(t, s, levels, mut).problems) })
			made = made || mut.made > 0
			if problems > 0 {
				return true, true
			}
		}
	}
	return false, made
}

// harmless are the mistakes that make no difference for a reason of their own.
var harmless = []struct{ like, why string }{
	{`r.done\(.* before .*\(log\) r.c.Log.Phase.Store\(phase\)`, "an operation that the kernel gave nothing to do: it does nothing again"},
	{`\(Empty\) .* before .*\(done\)`, "the end of a connection is no message, whether it is landed or not"},
	{`\(done\) .* before .*\(redoRemove\) e.State.Store\(free\) < op_remove.go:\d+\(remove\) _ = r.redoRemove`, "what counts nothing is gone now or a moment later"},
	{`r.log\(op(Greet|Recv|Send|Take), .* before .* (l|fieldsOf.*)\.(Client|From|Maybe)\.Store`, "the kernel was not asked yet, and its records, which say so, are all that is looked at then"},
	{`r.log\(opUpdate, .* before .* l.Reading.Store`, "what is behind the end of a name"},
	{`\(done\) .* before .*\(applyAccepted\) c.Flags.Store`, "the next message that it takes clears the flag"},
}

func (m *mistake) harmless() string {
	if m.why != "" {
		return m.why
	}
	for _, n := range harmless {
		if regexp.MustCompile(n.like).MatchString(m.name) {
			return n.why
		}
	}
	return ""
}

// TestMistakesAreCaught makes mistakes in the code, one at a time: a store is left out, or changes places with the one
// behind it. Each is noticed, or makes no difference, for a reason that is found by what the stores are or stands in a short
// list. MSGMUX_MUTANTS is how many are made, chosen by MSGMUX_SEED (1, so that a change is judged by itself); 0 is all. MSGMUX_MISTAKE is an expression for their names.
func TestMistakesAreCaught(t *testing.T) {
	all := mistakes(t)
	n, seed := number("MSGMUX_MUTANTS", 30), number("MSGMUX_SEED", 1)
	reasons := make(map[string]int)
	var chosen []mistake
	only := regexp.MustCompile(os.Getenv("MSGMUX_MISTAKE"))
	for _, m := range all {
		if !only.MatchString(m.name) {
			continue
		}
		if why := m.harmless(); why != "" {
			reasons[why]++
			continue
		}
		chosen = append(chosen, m)
	}
	possible := len(chosen)
	if n > 0 {
		rng := rand.New(rand.NewPCG(uint64(seed), 0))
		rng.Shuffle(len(chosen), func(i, k int) { chosen[i], chosen[k] = chosen[k], chosen[i] })
		chosen = chosen[:min(n, len(chosen))]
	}
	var noticed, unmade int
	for i := range chosen {
		switch yes, made := chosen[i].noticed(t); {
		case yes:
			noticed++
		case !made:
			unmade++ // an earlier mistake of its own kept it from coming about
		default:
			t.Errorf("nobody notices: %s (in %d scenes)", chosen[i].name, len(chosen[i].scenes))
		}
	}
	t.Logf("seed %d: %d of %d mistakes made, %d noticed, %d came about no more; %d others make no difference", seed, len(chosen), possible,
		noticed, unmade, len(all)-possible)
	for _, why := range slices.Sorted(maps.Keys(reasons)) {
		t.Logf("%4d make no difference: %s", reasons[why], why)
	}
}

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}
