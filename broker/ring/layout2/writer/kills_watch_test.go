// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package writer

import (
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestEveryKill plays every scene, and after every store that the broker makes to its files, and every message that the
// kernel takes or gives, has package layout2 read them: whatever the broker was killed in, nothing is lost, doubled or
// reordered, and the books are right. The same holds after every store of a successor of the broker's own kind. What is not
// played is not tried, so every store in the code has to be.
func TestEveryKill(t *testing.T) {
	var kills, again, steps int
	played := make(map[string]bool)
	for _, s := range scenes() {
		t.Run(s.name, func(t *testing.T) {
			w := play(t, s, played)
			report(t, w)
			t.Logf("%d stores, %d kills, %d kills of what took over", w.steps, w.points[0], w.points[1])
			kills, again, steps = kills+w.points[0], again+w.points[1], steps+w.steps
		})
	}
	stores := storesInCode(t)
	if len(stores) < 100 {
		t.Fatalf("only %d stores were found in the code", len(stores))
	}
	for where, function := range stores {
		if _, exempt := unplayed[function]; !played[where] && !exempt {
			t.Errorf("%s in %s: no scene comes by this store", where, function)
		}
	}
	t.Logf("%d stores in the code, all played; %d made; killed after each: %d moments; killed after each store of the writer's own recovery: %d moments",
		len(stores), steps, kills, again)
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
var storing = []string{"Store", "Add", "Preset", "SetLen", "SetFlags", "PutUint32", "Copy"}

// unplayed are stores that no scene comes by, with the reason.
var unplayed = map[string]string{
	"Create":   "a file without its magic is no ring, and that is stored last",
	"Reserve":  "ids of sinks out of a ring that was set aside",
	"adoptAll": "entries whose bytes have fallen, which no kill brings about",
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
		if strings.HasSuffix(name, "_test.go") {
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
	if _, err := conf.Check("github.com/msgmux/msgmux/broker/ring/layout2/writer", fset, files, info); err != nil {
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

// site is where in the code the store stands that is being made.
func site() string {
	var pcs [16]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		if !strings.Contains(f.File, "/ring/mem/") && !strings.HasSuffix(f.File, "_watch_test.go") || !more {
			return fmt.Sprintf("%s:%d", filepath.Base(f.File), f.Line)
		}
	}
}
