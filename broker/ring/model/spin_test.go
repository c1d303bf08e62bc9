// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/internal/need"
)

// needPrograms are for the models alone.
func needPrograms(t *testing.T, programs ...string) {
	t.Helper()
	for _, program := range programs {
		need.Program(t, "proof", program, "spin gcc libc6-dev")
	}
}

// result is what a search has found.
type result struct {
	states  int
	depth   int
	seconds time.Duration
	wrong   string // the assertion that does not hold; "" for none
	paths   []path
}

// limit is how deep a search may go; the deepest of these models takes 1,100 steps.
const limit = 20000

var (
	statesFound = regexp.MustCompile(`(?m)^ *([0-9.e+]+) states, stored`)
	depthFound  = regexp.MustCompile(`depth reached ([0-9]+), errors: ([0-9]+)`)
	errorFound  = regexp.MustCompile(`(?m)^pan:1: (.*) \(at depth`)
	pathFound   = regexp.MustCompile(`(?m)^path ([0-9]+) ([0-9]+) ([0-9]+) ([0-9]+)$`)
)

// search explores all states of a variant, or all until something is wrong. cycles looks for a cycle instead.
func (v *variant) search(t *testing.T, cycles bool) (r result) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"common.pml", v.model + ".pml"} {
		text, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, args ...string) string {
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("cannot run %s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	args := []string{"-a"}
	for _, d := range v.defines {
		args = append(args, "-D"+d)
	}
	run("spin", append(args, v.model+".pml")...)
	// Not optimized: that takes longer than it saves.
	compile, explore := []string{"-w", "-DCOLLAPSE", "-o", "pan", "pan.c"}, []string{"-w23", fmt.Sprint("-m", limit)}
	if cycles {
		compile, explore = append(compile, "-DNP"), append(explore, "-l")
	} else {
		compile = append(compile, "-DSAFETY")
	}
	run("gcc", compile...)
	began := time.Now()
	out := run("./pan", explore...)
	r.seconds = time.Since(began)
	r.read(t, out, points(t, v.model))
	return r
}

func (r *result) read(t *testing.T, out string, names []string) {
	t.Helper()
	states, depth := statesFound.FindStringSubmatch(out), depthFound.FindStringSubmatch(out)
	if states == nil || depth == nil || strings.Contains(out, "max search depth too small") {
		t.Fatalf("the search was not made:\n%s", out)
	}
	n, err := strconv.ParseFloat(states[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	r.states = int(n)
	r.depth, _ = strconv.Atoi(depth[1])
	if depth[2] != "0" {
		r.wrong = "error of an unknown kind"
		if found := errorFound.FindStringSubmatch(out); found != nil {
			r.wrong = found[1]
		}
	}
	for _, found := range pathFound.FindAllStringSubmatch(out, -1) {
		var p [4]string
		for i, text := range found[1:] {
			n, _ := strconv.Atoi(text)
			if p[i] = none; n > 0 {
				p[i] = names[n]
			}
		}
		r.paths = append(r.paths, path{"", p[0], p[1], p[2], p[3]})
	}
}

var (
	pointsDeclared = regexp.MustCompile(`(?s)mtype:point = \{(.*?)\}`)
	momentMarked   = regexp.MustCompile(`\bmoment\(([a-z]+)_([a-z]+)\)`)
	seamMarked     = regexp.MustCompile(`\b(?:seam|gate|done|pass|log)\((?:[A-Z]+, )?([a-z]+)_([a-z]+)\)`)
)

// points are the names of a model's points, by their numbers: spin gives the highest to the first.
func points(t *testing.T, model string) []string {
	t.Helper()
	text := read(t, model+".pml")
	moments := make(map[string]bool)
	for _, m := range momentMarked.FindAllStringSubmatch(text, -1) {
		moments[m[1]+"_"+m[2]] = true
	}
	names := []string{none}
	for name := range strings.SplitSeq(pointsDeclared.FindStringSubmatch(text)[1], ",") {
		name = strings.TrimSpace(name)
		if moments[name] {
			name = strings.Replace(name, "_", " ", 1)
		}
		names = append(names, strings.Replace(name, "_", ".", 1))
	}
	slices.Reverse(names[1:])
	return names
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
