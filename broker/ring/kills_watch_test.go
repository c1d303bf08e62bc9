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
	"time"
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

// census plays every scene once, and counts where in the code stores are made, and which follow each other.
func census(t *testing.T) (sites map[site][]scene, pairs map[[2]site][]scene) {
	t.Helper()
	sites, pairs = make(map[site][]scene), make(map[[2]site][]scene)
	for _, s := range scenes() {
		m := &mutation{count: make(map[site]int), next: make(map[[2]site]int)}
		t.Run(s.name, func(t *testing.T) { report(t, play(t, s, 1, m)) })
		for at := range m.count {
			sites[at] = append(sites[at], s)
		}
		for pair := range m.next {
			pairs[pair] = append(pairs[pair], s)
		}
	}
	return sites, pairs
}

// storing are the methods of package mem that store.
var storing = []string{"Store", "Add", "Preset", "SetLen", "SetFlags", "PutUint32", "Copy"}

// unplayed are stores that no scene comes by, with the reason.
var unplayed = map[string]string{
	"Create":   "a file without its magic is no ring, and that is stored last",
	"Reserve":  "ids of sinks out of a ring that was set aside",
	"adoptAll": "entries whose bytes have fallen, which no kill brings about",
}

// TestEveryStoreIsPlayed finds every store to the ring's files in the code, by the types, and holds the scenes to them: what
// is not played is not tried.
func TestEveryStoreIsPlayed(t *testing.T) {
	sites, _ := census(t)
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

// mistake is a mutation with its name, and the scenes that come by it.
type mistake struct {
	name   string
	make   func() *mutation
	scenes []scene
}

func mistakes(t *testing.T) (all []mistake) {
	sites, pairs := census(t)
	for at, in := range sites {
		all = append(all, mistake{"without " + string(at), func() *mutation { return &mutation{drop: at} }, in})
	}
	for pair, in := range pairs {
		if pair[0] != pair[1] {
			all = append(all, mistake{string(pair[1]) + " before " + string(pair[0]), func() *mutation { return &mutation{swap: pair} }, in})
		}
	}
	slices.SortFunc(all, func(a, b mistake) int { return strings.Compare(a.name, b.name) })
	return all
}

// caughtIn says by which scene a mistake was noticed; "" is by none. made says whether it was made at all.
func (m *mistake) caughtIn(t *testing.T) (name string, made bool) {
	for _, s := range m.scenes {
		mut, problems := m.make(), 0
		t.Run(m.name, func(t *testing.T) { problems = len(play(t, s, 2, mut).problems) })
		made = made || mut.made > 0
		if problems > 0 {
			return s.name, true
		}
	}
	return "", made
}

// TestMistakesAreCaught makes mistakes in the code, one at a time: a store is left out, or changes places with the one
// behind it. Each is noticed, or stands in a short list with the reason why it makes no difference.
// MSGMUX_MUTANTS is how many are made, chosen by MSGMUX_SEED; 0 is all.
func TestMistakesAreCaught(t *testing.T) {
	all := mistakes(t)
	n, seed := number("MSGMUX_MUTANTS", 60), number("MSGMUX_SEED", int(time.Now().UnixNano()&0xffffff))
	chosen := slices.Clone(all)
	if n > 0 {
		rng := rand.New(rand.NewPCG(uint64(seed), 0))
		rng.Shuffle(len(chosen), func(i, k int) { chosen[i], chosen[k] = chosen[k], chosen[i] })
		chosen = chosen[:min(n, len(chosen))]
	}
	var noticed, harmless, unmade int
	reasons := make(map[string]int)
	for i := range chosen {
		m := &chosen[i]
		switch by, made := m.caughtIn(t); {
		case by != "":
			noticed++
		case !made:
			unmade++
		default:
			if why := makesNoDifference(m.name); why != "" {
				harmless++
				reasons[why]++
				continue
			}
			t.Errorf("nobody notices: %s (in %d scenes)", m.name, len(m.scenes))
		}
	}
	t.Logf("seed %d: %d of %d mistakes made: %d noticed, %d make no difference, %d came about no more", seed, len(chosen), len(all), noticed, harmless, unmade)
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

// noDifference are the mistakes that nobody can notice, by what they read like, with the reason.
var noDifference = []struct{ like, why string }{}

func makesNoDifference(name string) string {
	for _, n := range noDifference {
		if regexp.MustCompile(n.like).MatchString(name) {
			return n.why
		}
	}
	return ""
}
