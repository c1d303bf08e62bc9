// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestQuartiles(t *testing.T) {
	for _, c := range []struct {
		list []float64
		want quartiles
	}{
		{nil, quartiles{}},
		{[]float64{3}, quartiles{3, 3, 3}},
		{[]float64{9, 1, 5, 7, 3}, quartiles{3, 5, 7}},
		{[]float64{4, 1, 3, 2}, quartiles{1.75, 2.5, 3.25}},
	} {
		if got := quartilesOf(c.list); got != c.want {
			t.Errorf("quartiles of %v are %v, want %v", c.list, got, c.want)
		}
	}
}

func TestFlagsMayFollowWords(t *testing.T) {
	o, words, err := parse(strings.Fields("pair a b -n 3 -sinks 1,16 -qlen 10 -mode paced"))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(words, []string{"pair", "a", "b"}) || o.n != 3 || !reflect.DeepEqual(o.sinks, []int{1, 16}) {
		t.Errorf("got words %v, flags %+v", words, o)
	}
	if rate, length, _ := o.pace(); rate != 10_000 || length != time.Second {
		t.Errorf("paced is %d messages a second for %v", rate, length)
	}
	for _, bad := range []string{"run a -sinks 0", "run a -sinks x", "run a -size 8", "run a -mode slow"} {
		if _, _, err := parse(strings.Fields(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestChooseByNameAndGroup(t *testing.T) {
	chosen, err := choose([]string{"msgmux", "floor"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, a := range chosen {
		names = append(names, a.name)
	}
	if want := []string{"msgmux", "floor-dgram", "floor-pack", "floor-batch"}; !reflect.DeepEqual(names, want) {
		t.Errorf("chosen %v, want %v", names, want)
	}
	if _, err := choose([]string{"nobody"}); err == nil {
		t.Error("an unknown adapter is taken")
	}
}

// TestEveryProgramHasARecipe keeps an adapter from failing only when it is run.
func TestEveryProgramHasARecipe(t *testing.T) {
	for _, a := range adapters {
		for _, name := range []string{a.source.name, a.sink.name, a.built()} {
			r, ok := recipes[name]
			if name != "" && !ok {
				t.Errorf("%s: no recipe for %s", a.name, name)
			}
			if name == "" || r.pkg != "" {
				continue
			}
			if _, err := os.Stat("../c/" + name + ".c"); err != nil {
				t.Errorf("%s: %v", a.name, err)
			}
		}
	}
}

// rig is a bench in a network namespace of the test's own thread, with the
// floors built.
func rig(t *testing.T, words ...string) (*bench, []*adapter) {
	if os.Getuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("the clients need gcc")
	}
	// Never unlocked: the thread, and the namespace with it, ends with the test.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("no network namespace: %v", err)
	}
	t.Chdir("..")
	o, _, err := parse([]string{"run", "-time", "100ms"})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{options: o, bin: t.TempDir()}
	if b.out, err = os.Create(filepath.Join(b.bin, "results")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.out.Close() })
	chosen, err := choose(words)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.build(chosen); err != nil {
		t.Fatal(err)
	}
	return b, chosen
}

func TestFloorsDeliverEverything(t *testing.T) {
	b, floors := rig(t, "floor")
	for _, mode := range []string{"flood", "latency"} {
		for _, a := range floors {
			b.mode = mode
			r, err := b.newCell(a, 3, 10).once()
			if err != nil {
				t.Fatal(err)
			}
			if r.Sent == 0 || r.Delivered != 3*r.Sent || r.Lost+r.Bad+r.Reordered+r.Backlog > 0 {
				t.Errorf("%s, %s: %+v", a.name, mode, r)
			}
			if r.CPUSource <= 0 || r.CPUBroker <= 0 || r.CPUSinks <= 0 {
				t.Errorf("%s, %s: a CPU clock stands still: %+v", a.name, mode, r)
			}
			if (mode == "latency") != (r.P50 > 0) {
				t.Errorf("%s, %s: p50 is %v", a.name, mode, r.P50)
			}
		}
	}
}

// TestOneProcessServesManySinks with fewer processes than sinks.
func TestOneProcessServesManySinks(t *testing.T) {
	b, floors := rig(t, "floor-dgram")
	b.procs = 2
	r, err := b.newCell(floors[0], 7, 512).once()
	if err != nil {
		t.Fatal(err)
	}
	if r.Procs != 2 || r.Sent == 0 || r.Delivered != 7*r.Sent {
		t.Errorf("%+v", r)
	}
}

func TestADeadBrokerIsAnError(t *testing.T) {
	b, floors := rig(t, "floor-dgram")
	dead := *floors[0]
	dead.broker = func(*cell) []string { return []string{"sh", "-c", "echo out of luck; exit 3"} }
	c := b.newCell(&dead, 1, 512)
	_, err := c.once()
	if err == nil || !strings.Contains(err.Error(), "out of luck") {
		t.Errorf("error is %v, want the broker's last words", err)
	}
	if _, err := os.Stat(c.dir); err == nil {
		t.Errorf("%s is left over", c.dir)
	}
}
