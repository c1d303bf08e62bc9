// SPDX-License-Identifier: Apache-2.0

package model

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

var update = flag.Bool("update", false, "write paths.txt anew from what the models find")

// models are the names of all of them.
var models = []string{"data", "table", "move"}

// TestModels explores every state of the variants that must hold, and compares the paths that it finds with the table. The
// whole of it takes two to three minutes of two processors.
func TestModels(t *testing.T) {
	needPrograms(t, "spin", "gcc")
	var mu sync.Mutex
	found, missing := make(map[path]bool), make(map[string]int) // variants that have not run
	for _, v := range sound {
		missing[v.model]++
	}
	t.Run("holds", func(t *testing.T) {
		for _, v := range sound {
			t.Run(v.model+" "+v.name, func(t *testing.T) {
				t.Parallel()
				r := v.search(t, false)
				t.Logf("%s, %s: %d states, depth %d, %v", v.model, v.name, r.states, r.depth, r.seconds.Round(1e8))
				if r.wrong != "" {
					t.Errorf("does not hold: %s", r.wrong)
				}
				mu.Lock()
				defer mu.Unlock()
				missing[v.model]--
				for _, p := range r.paths {
					p.model = v.finds()
					found[p] = true
				}
			})
		}
	})
	if t.Failed() {
		return
	}
	is, err := KnownPaths()
	if err != nil {
		t.Fatal(err)
	}
	missing[withMemory] = missing["data"] // which is taken from it
	maps.DeleteFunc(found, func(p path, _ bool) bool {
		also := p
		also.model = "data"
		return p.model == withMemory && found[also]
	})
	maps.DeleteFunc(is.all, func(p path, _ bool) bool { return missing[p.model] == 0 })
	maps.DeleteFunc(found, func(p path, _ bool) bool { return missing[p.model] != 0 })
	maps.Copy(is.all, found)
	lines := strings.Join(is.lines(), "\n") + "\n"
	const head = "# What the models found, by go test -run TestModels -update: see paths.go.\n" +
		"# model, where the predecessor died, what the last system call brought, a point, one that may follow it\n"
	if *update {
		if err := os.WriteFile("paths.txt", []byte(head+lines), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if head+lines != table {
		t.Error("paths.txt is not what the models find: go test -run TestModels -update, and look at the difference")
	}
}

// TestModelsEnd looks for a cycle of states: as there is none, every run comes to its end, where the models want all to have
// been delivered.
func TestModelsEnd(t *testing.T) {
	needPrograms(t, "spin", "gcc")
	for _, v := range ending {
		t.Run(v.model+" "+v.name, func(t *testing.T) {
			t.Parallel()
			r := v.search(t, true)
			t.Logf("%s, %s: %d states, depth %d, %v", v.model, v.name, r.states, r.depth, r.seconds.Round(1e8))
			if r.wrong != "" {
				t.Errorf("does not end: %s", r.wrong)
			}
		})
	}
}

// TestBrokenModelsFail breaks one rule of the protocol after the other.
func TestBrokenModelsFail(t *testing.T) {
	needPrograms(t, "spin", "gcc")
	for _, v := range broken {
		t.Run(v.model+" "+v.name, func(t *testing.T) {
			t.Parallel()
			r := v.search(t, false)
			if !strings.HasPrefix(r.wrong, "assertion violated") {
				t.Errorf("%d states explored, and %q: it should not hold", r.states, r.wrong)
			}
			t.Logf("%s, %s: found after %d states: %.120s", v.model, v.name, r.states, r.wrong)
		})
	}
}

// notInModels are the seams that no model has, with the reason.
var notInModels = map[string]string{
	"aside.filled":    "a ring that is set aside is replaced in the steps of a move, with sinks and without messages",
	"aside.published": "as of aside.filled",
}

// TestModelsNameTheSource: the models and the program have the same seams, system calls and operations.
func TestModelsNameTheSource(t *testing.T) {
	source, err := ReadSource(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	if len(source.Seams) < 40 || len(source.Calls) < 4 || len(source.Operations) < 11 {
		t.Fatalf("found only %+v in the source", source)
	}
	var seams, calls, operations []string
	reached, err := KnownPaths()
	if err != nil {
		t.Fatal(err)
	}
	for _, model := range models {
		text := read(t, model+".pml")
		marked := make(map[string]bool)
		for _, m := range seamMarked.FindAllStringSubmatch(text, -1) {
			marked[m[1]+"."+m[2]] = true
			seams = append(seams, m[1]+"."+m[2])
		}
		for _, m := range momentMarked.FindAllStringSubmatch(text, -1) {
			marked[m[1]+" "+m[2]] = true
			calls = append(calls, m[1])
		}
		for _, name := range points(t, model)[1:] {
			if !marked[name] || !reached.points[model][name] {
				t.Errorf("%s.pml declares %s; passed: %t, reached in some variant: %t", model, name, marked[name], reached.points[model][name])
			}
		}
		for _, m := range regexp.MustCompile(`\blog\(([A-Z]+), `).FindAllStringSubmatch(text, -1) {
			operations = append(operations, m[1])
		}
	}
	for _, c := range []struct {
		what           string
		models, source []string
	}{{"seam", seams, source.Seams}, {"call", calls, source.Calls}, {"operation", operations, source.Operations}} {
		for _, name := range c.source {
			if _, left := notInModels[name]; !left && !slices.Contains(c.models, name) {
				t.Errorf("no model has the %s %s of the source", c.what, name)
			}
		}
		for _, name := range c.models {
			if _, left := notInModels[name]; left || !slices.Contains(c.source, name) {
				t.Errorf("the source has no %s %s, which a model has", c.what, name)
			}
		}
	}
}
