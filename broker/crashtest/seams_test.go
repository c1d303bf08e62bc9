// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/broker/ring/model"
)

// unreached are seams that the usual load does not come by, with the reason. One that it reaches all the same does not
// belong here.
var unreached = func() map[string]string {
	m := make(map[string]string)
	for _, name := range queueSeams {
		m[name] = "message queues have a rule, and a test, of their own"
	}
	for _, name := range asideSeams {
		m[name] = "a broken ring has a test of its own"
	}
	for _, name := range endSeams {
		m[name] = "those who acknowledge have a test of their own"
	}
	return m
}()

// essential are the moments of system calls that a load must bring about, or it shows little. What else it brings is
// tried too.
var essential = []Point{
	{"recv", Before}, {"recv", None}, {"recv", Part}, {"recv", All},
	{"send", Before}, {"send", None}, {"send", Part}, {"send", All},
	{"consume", Before}, {"consume", All}, {"greet", Before}, {"greet", All}, {"poll", Before}, {"poll", Part},
}

// seamsInCode are the names of all seams, as they stand in the code of the broker.
func seamsInCode(t *testing.T) []string {
	t.Helper()
	source, err := model.ReadSource("..")
	if err != nil {
		t.Fatal(err)
	}
	if len(source.Seams) < 20 {
		t.Fatalf("only these seams were found in the code: %v", source.Seams)
	}
	return source.Seams
}

// other is a second shape for a channel: going over to it and back moves the ring.
func other(g ring.Geometry) ring.Geometry {
	if g.MaxSinks%2 == 0 {
		g.MaxSinks++
	} else {
		g.MaxSinks--
	}
	return g
}

// record lets brokers run under the load, some of them not for long, and returns the points that they came by.
func record(t *testing.T, l *Load) (points []Point) {
	t.Helper()
	k := l.Keeper
	k.Setup.Record = filepath.Join(k.Setup.Dir, "points")
	defer func() { k.Setup.Record = "" }()
	for range 8 {
		if err := k.Kill(); err != nil {
			t.Fatal(err)
		}
		k.Setup.Geometry = other(k.Setup.Geometry)
		up(t, k, Death{})
		time.Sleep(400 * time.Millisecond)
	}
	text, err := os.ReadFile(k.Setup.Record)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[Point]bool)
	for line := range strings.Lines(string(text)) {
		found[ParsePoint(strings.TrimSuffix(line, "\n"))] = true
	}
	for _, name := range seamsInCode(t) {
		why, exempt := unreached[name]
		switch hit := found[Point{name, ""}]; {
		case hit && exempt:
			t.Errorf("seam %s is reached, and stands among those that are not (%s)", name, why)
		case !hit && !exempt:
			// Not recorded, which may be chance: it is tried all the same.
			t.Logf("seam %s was not recorded", name)
			found[Point{name, ""}] = true
		}
	}
	for _, p := range essential {
		found[p] = true
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b Point) int { return strings.Compare(a.String(), b.String()) })
}

// calmDown lets a broker run until nothing that has landed waits for room: only then a ring can move.
func calmDown(t *testing.T, l *Load) {
	t.Helper()
	l.Calm(true)
	up(t, l.Keeper, Death{})
	err := until(3*patience, func() (bool, error) {
		st, _, err := l.Keeper.List()
		return err == nil && st.Used < st.Buffer/4, err
	})
	if err != nil {
		t.Fatalf("the ring stays full: %v", err)
	}
	if err := l.Keeper.Kill(); err != nil {
		t.Fatal(err)
	}
}

// TestPromise7_EverySeam kills a broker at every point that it comes by, and its successor a few points later, which is
// within recovery mostly. Points are found in the code and by recording, so that a new seam needs no word here.
func TestPromise7_EverySeam(t *testing.T) {
	random := rand.New(rand.NewPCG(seed(t), 0))
	l := newLoad(t, &settings[1], random.Uint64(), Shape{Sources: everyWay, Comers: 6})
	k := l.Keeper
	points := record(t, l)
	if err := k.Kill(); err != nil {
		t.Fatal(err)
	}
	in := func(p Point, limit time.Duration, hit uint64) bool {
		if strings.HasPrefix(p.Seam, "move.") {
			k.Setup.Geometry = other(k.Setup.Geometry)
		}
		return die(t, k, Death{p, hit}, limit)
	}
	rounds := uint64(max(2, kills(t)/500))
	before, missed := k.Deaths, 0
	for _, p := range points {
		if strings.HasPrefix(p.Seam, "move.") {
			calmDown(t, l)
		}
		hit := false
		for try := 0; try < 10 && !hit; try++ {
			if try == 5 {
				l.Calm(true) // on a machine that is busy, a source has always something, for one
			}
			hit = in(p, 3*time.Second, 1)
		}
		if !hit && (p.Moment == "" || slices.Contains(essential, p)) {
			t.Errorf("no broker came by %s", p)
		}
		if !hit {
			missed++
		}
		for n := uint64(0); hit && n < rounds; n++ {
			die(t, k, Anywhere(1+random.Uint64N(12)), time.Second)
			in(p, 200*time.Millisecond, 1+random.Uint64N(5+20*n)) // the first hits are those of the start, mostly
		}
		l.Calm(false)
	}
	t.Logf("%d points, %d of them not met again; %d kills", len(points), missed, k.Deaths-before)
	up(t, k, Death{})
	balance(t, l)
}
