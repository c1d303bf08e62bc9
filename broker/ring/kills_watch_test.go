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
	"path/filepath"
	"regexp"
	"slices"
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

// storing are the methods of package mem that store.
var storing = []string{"Store", "Add", "Preset", "SetLen", "SetFlags", "SetControlLen", "PutUint32", "Copy"}

// unplayed are functions with stores that no scene comes by, with the reason.
var unplayed = map[string]string{}

// TestEveryStoreIsPlayed finds every store to the ring's files in the code, by the types, and holds the scenes to them: what
// is not played is not tried.
func TestEveryStoreIsPlayed(t *testing.T) {
	played := make(map[string]bool)
	line := regexp.MustCompile(`([a-z_]+\.go:[0-9]+)\(`)
	for at := range census(t, false, 0).stores {
		for _, m := range line.FindAllStringSubmatch(string(at), -1) {
			played[m[1]] = true
		}
	}
	stores := storesInCode(t)
	if len(stores) < 80 {
		t.Fatalf("only %d stores were found in the code", len(stores))
	}
	needed := make(map[string]bool)
	for where, function := range stores {
		if played[where] {
			continue
		}
		if needed[function] = true; unplayed[function] == "" {
			t.Errorf("%s in %s: no scene comes by this store", where, function)
		}
	}
	for function := range unplayed {
		if !needed[function] {
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
