// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/ring/model"
)

// tracing has the brokers of a channel write down what they come by. It is to be called before the first of them starts; the
// function that it returns says whether the models know each step, and how many there were. memory says that clients share memory with the
// broker.
func tracing(t *testing.T, k *Keeper, memory bool) (known func()) {
	t.Helper()
	k.Setup.Trace = filepath.Join(k.Setup.Dir, "trace")
	return func() {
		t.Helper()
		text, err := os.ReadFile(k.Setup.Trace)
		if err != nil {
			t.Fatal(err)
		}
		lives, err := model.ReadLives(string(text))
		if err != nil {
			t.Fatal(err)
		}
		paths, err := model.KnownPaths()
		if err != nil {
			t.Fatal(err)
		}
		steps, err := paths.Check(lives, memory)
		if err != nil {
			t.Errorf("a broker went where no model goes: %v", err)
		}
		t.Logf("%d brokers, %d steps", len(lives), steps)
		if steps < 1000 {
			t.Errorf("only %d steps: that shows little", steps)
		}
	}
}

// TestPromise7_TracesArePathsOfTheModel kills brokers under load as other tests do, and compares what each came by, between
// its start and its end, with what the models of the crash protocol allow.
func TestPromise7_TracesArePathsOfTheModel(t *testing.T) {
	random := rand.New(rand.NewPCG(seed(t), 0))
	s := settings[0]
	setQueueLength(t, s.queue)
	k, err := NewKeeper(s.setup())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	known := tracing(t, k, false)
	l, err := NewLoad(k, s.traffic(random.Uint64()), Shape{Sources: everyWay, Comers: 6, Abrupt: true})
	if err != nil {
		t.Fatalf("%v\n%s", err, k.Log())
	}
	killAtRandom(t, l, random, 30)
	for _, seam := range seamsInCode(t) {
		if strings.HasPrefix(seam, "take.") || strings.HasPrefix(seam, "put.") || strings.HasPrefix(seam, "move.") {
			continue
		}
		if err := k.Kill(); err != nil {
			t.Fatal(err)
		}
		die(t, k, Death{Point{seam, ""}, 1 + random.Uint64N(5)}, 100*time.Millisecond)
		up(t, k, Death{})
	}
	if err := k.Kill(); err != nil {
		t.Fatal(err)
	}
	k.Setup.Geometry = other(k.Setup.Geometry) // the ring moves, once it is empty enough
	calmDown(t, l)
	up(t, k, Death{})
	balance(t, l)
	known()
}
