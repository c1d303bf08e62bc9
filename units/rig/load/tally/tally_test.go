// SPDX-License-Identifier: Apache-2.0

package tally

import (
	"bytes"
	"reflect"
	"testing"
)

func TestMessageIsSeenToBeWhole(t *testing.T) {
	for _, size := range []int{MinMessage, MinMessage + 1, 300, 70000} {
		b := make([]byte, size)
		Put(b, 7, 1<<40)
		if source, number, ok := Get(b); !ok || source != 7 || number != 1<<40 {
			t.Errorf("size %d: got %d, %d, %t", size, source, number, ok)
		}
		for name, spoiled := range map[string][]byte{
			"cut":            b[:size-1],
			"lengthened":     append(bytes.Clone(b), 0),
			"one bit wrong":  append(bytes.Clone(b[:size-1]), b[size-1]^1),
			"of other magic": append([]byte{0}, b[1:]...),
			"empty":          nil,
		} {
			if _, _, ok := Get(spoiled); ok {
				t.Errorf("size %d: a message that is %s is taken for whole", size, name)
			}
		}
	}
}

func TestTally(t *testing.T) {
	for _, test := range []struct {
		name    string
		numbers []uint64
		want    Source
	}{
		{"in order", []uint64{1, 2, 3}, Source{First: 1, Last: 3, Count: 3}},
		{"from the middle", []uint64{5, 6}, Source{First: 5, Last: 6, Count: 2}},
		{"twice", []uint64{1, 2, 2, 3, 1}, Source{First: 1, Last: 3, Count: 3, Duplicates: 2}},
		{"lost", []uint64{1, 4, 5, 9}, Source{First: 1, Last: 9, Count: 4, Missing: 5, Gaps: [][2]uint64{{2, 3}, {6, 8}}}},
		{"late", []uint64{1, 3, 2}, Source{First: 1, Last: 3, Count: 3, Reordered: 1}},
		{"late from the middle of a gap", []uint64{1, 9, 5}, Source{First: 1, Last: 9, Count: 3, Reordered: 1, Missing: 6, Gaps: [][2]uint64{{2, 4}, {6, 8}}}},
		{"late and twice", []uint64{1, 3, 2, 2}, Source{First: 1, Last: 3, Count: 3, Reordered: 1, Duplicates: 1}},
		{"the first too late", []uint64{5, 2}, Source{First: 2, Last: 5, Count: 2, Reordered: 1, Missing: 2, Gaps: [][2]uint64{{3, 4}}}},
	} {
		var tally Tally
		for _, number := range test.numbers {
			tally.Note(1, number)
			tally.Note(2, uint64(len(tally.streams))) // another source in between disturbs nothing
		}
		if got := tally.Report("").Sources[1]; !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestOrderTellsSequencesApart(t *testing.T) {
	var one, same, swapped Tally
	for _, tally := range []*Tally{&one, &same} {
		tally.Note(1, 1)
		tally.Note(2, 1)
	}
	swapped.Note(2, 1)
	swapped.Note(1, 1)
	if one.Report("").Order != same.Report("").Order || one.Report("").Order == swapped.Report("").Order {
		t.Errorf("orders are %s, %s and %s", one.Report("").Order, same.Report("").Order, swapped.Report("").Order)
	}
}

func TestProblemsAreSeen(t *testing.T) {
	three := Sender{Source: 1, Sent: 3}
	for _, test := range []struct {
		name    string
		numbers []uint64
		senders []Sender
		want    bool
	}{
		{"exactly once", []uint64{1, 2, 3}, []Sender{three}, false},
		{"nothing of a sender that sent nothing", []uint64{1, 2, 3}, []Sender{three, {Source: 2}}, false},
		{"the last is missing", []uint64{1, 2}, []Sender{three}, true},
		{"the first is missing", []uint64{2, 3}, []Sender{three}, true},
		{"one twice", []uint64{1, 2, 2, 3}, []Sender{three}, true},
		{"out of order", []uint64{1, 3, 2}, []Sender{three}, true},
		{"more than was sent", []uint64{1, 2, 3, 4}, []Sender{three}, true},
		{"of nobody", []uint64{1, 2, 3}, nil, true},
		{"all of one, nothing of another", []uint64{1, 2, 3}, []Sender{three, {Source: 2, Sent: 1}}, true},
		{"errors of the sender", []uint64{1, 2, 3}, []Sender{{Source: 1, Sent: 3, Errors: map[string]uint64{"EPIPE": 1}}}, true},
	} {
		var tally Tally
		for _, number := range test.numbers {
			tally.Note(1, number)
		}
		if got := tally.Report("sink").Problems(test.senders...); (len(got) > 0) != test.want {
			t.Errorf("%s: problems are %v", test.name, got)
		}
	}
	var tally Tally
	tally.Add([]byte("not a message"))
	if got := tally.Report("sink").Problems(); len(got) != 1 {
		t.Errorf("a spoiled message: problems are %v", got)
	}
}
