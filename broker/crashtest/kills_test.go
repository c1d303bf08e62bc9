// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// kills is how many random kills a test makes: $MSGMUX_SOAK_KILLS, or 300.
func kills(t *testing.T) int {
	t.Helper()
	text := os.Getenv("MSGMUX_SOAK_KILLS")
	if text == "" {
		return 300
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("MSGMUX_SOAK_KILLS=%s is no number of kills", text)
	}
	return n
}

// episode is how many kills one channel lives through before its books are compared.
const episode = 50

// killAtRandom kills n brokers at random moments: while they start, some milliseconds after they are ready, seldom later
// when the rule of patience has something to do; and a few are stopped in good order. It returns with a broker running.
func killAtRandom(t *testing.T, l *Load, random *rand.Rand, n int) (landed int) {
	t.Helper()
	k := l.Keeper
	if err := k.Kill(); err != nil {
		t.Fatal(err)
	}
	sent, moved := l.Sent(), time.Now()
	for k.Deaths < n {
		// On a machine that has much else to do, brokers may die so young that nothing moves for long. Then one is left
		// alone: if nothing moves now, it hangs.
		if is := l.Sent(); is != sent {
			sent, moved = is, time.Now()
		} else if time.Since(moved) > patience/5 {
			up(t, k, Death{})
			alone := time.Now()
			if err := until(patience, func() (bool, error) { return l.Sent() != sent, nil }); err != nil {
				t.Fatalf("no source gets rid of anything: %v\n%s", err, k.Autopsy())
			}
			t.Logf("nothing moved for %v; left alone, a broker took a message after %v", alone.Sub(moved), time.Since(alone))
			if err := k.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		if random.IntN(15) == 0 {
			k.Setup.Geometry = other(k.Setup.Geometry) // an upgrade, as far as the ring can tell
		}
		if random.IntN(4) == 0 {
			// Young: in the middle of recovery, or before it.
			die(t, k, Death{}, between(random, 0, 40*time.Millisecond))
			continue
		}
		up(t, k, Death{})
		if random.IntN(10) == 0 {
			time.Sleep(between(random, 20*time.Millisecond, 250*time.Millisecond))
			if st, _, err := k.List(); err != nil {
				t.Fatal(err)
			} else if st.Landed > 0 {
				landed++
			}
		} else {
			time.Sleep(between(random, 0, 12*time.Millisecond))
		}
		end := k.Kill
		if random.IntN(20) == 0 {
			end = k.Stop
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
	}
	up(t, k, Death{})
	return landed
}

// TestPromise7_RestartIsInvisible is promise 7 under full load, and the promises 1, 2, 3 and 5 with it: the books of
// sources, sinks, broker and service manager balance after hundreds of kills.
func TestPromise7_RestartIsInvisible(t *testing.T) {
	from, total, landed := seed(t), kills(t), 0
	for done, n := 0, 0; done < total; n++ {
		random := rand.New(rand.NewPCG(from, uint64(n)))
		l := newLoad(t, &settings[n%len(settings)], random.Uint64(), Shape{Sources: everyWay, Comers: 3, Abrupt: n%2 == 1})
		landed += killAtRandom(t, l, random, min(episode, total-done))
		done += l.Keeper.Deaths
		b := balance(t, l)
		t.Logf("episode %d: %d kills so far; %d messages, %d deliveries, %d lost by those who may, %d visitors, %d passing sources",
			n, done, b.Status.Entered, b.Status.Accepted, b.Status.Lost, len(b.Departed), len(l.passed))
		for _, s := range b.Standing {
			if s.Options.Meta || s.Options.Credentials {
				t.Logf("sink %s was told of %d messages whose they are, and of %d not", s.Name, s.Told, s.Untold)
			}
		}
		l.Keeper.Close()
		if t.Failed() {
			t.FailNow()
		}
	}
	if landed == 0 {
		t.Error("the ring was never so full that what had landed had to wait: the load is too light to show anything")
	}
}

// TestPromise7_NeedsTheRecords runs the same without the commit records, and wants it to fail: a test that finds
// nothing there would find nothing anywhere.
func TestPromise7_NeedsTheRecords(t *testing.T) {
	random := rand.New(rand.NewPCG(seed(t), 0))
	s := settings[0]
	setQueueLength(t, s.queue)
	setup := s.setup()
	setup.IgnoreRecords = true
	k, err := NewKeeper(setup)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	l, err := NewLoad(k, s.traffic(random.Uint64()), Shape{Sources: everyWay})
	if err != nil {
		t.Fatal(err)
	}
	killAtRandom(t, l, random, 40)
	found := 0
	for _, err := range l.Quiesce() {
		found++
		t.Log("found:", err)
	}
	b, err := l.Books()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range b.Violations() {
		found++
		t.Log("found:", v)
	}
	if found == 0 {
		t.Error("40 kills without commit records, and nothing was found to be wrong")
	}
}
