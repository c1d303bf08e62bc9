// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
	"slices"
	"testing"
)

// TestNumberSources: a source keeps its number, whoever comes and goes beside it, over restarts and moves.
func TestNumberSources(t *testing.T) {
	g := newRig(t, small())
	r := g.r
	number := func(names ...string) []uint32 {
		t.Helper()
		numbers, err := r.NumberSources(names)
		if err != nil {
			t.Fatal(err)
		}
		return numbers
	}
	is := func(got []uint32, want ...uint32) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("numbers %d, want %d", got, want)
		}
	}
	is(number("/run/source", "/a"), 1, 2)
	is(number("/0", "/run/source", "/a"), 3, 1, 2)
	is(number("/a"), 2)
	is(number("/b", "/b", "/run/source"), 4, 4, 1)

	r, err := g.moved(Geometry{Size: 2 * MinSize, MaxMessage: 64 << 10, MaxSinks: 9})
	if err != nil {
		t.Fatal(err)
	}
	is(number("/a", "/0", "/new"), 2, 3, 5)

	// Whoever has used them up gets those of names that are gone.
	var many []string
	for i := range MaxSources - 1 {
		many = append(many, fmt.Sprint(i))
	}
	many = append(many, "/run/source")
	numbers := number(many...)
	if numbers[len(numbers)-1] != 1 {
		t.Errorf("the number became %d", numbers[len(numbers)-1])
	}
	slices.Sort(numbers)
	if len(slices.Compact(numbers)) != MaxSources {
		t.Errorf("numbers are given twice: %d", numbers)
	}
	if _, err := r.NumberSources(append(many, "one more")); err == nil {
		t.Error("there is room for more names than numbers")
	}
}
