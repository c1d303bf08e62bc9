// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// everybody is a channel all of whose users can be killed.
type everybody struct {
	t       *testing.T
	k       *Keeper
	traffic Traffic
	sources []*End
	sinks   []*End // each has all messages, but those that may be left behind; the first stores its place
	crew    []*End // of a share: they have them together
	kills   int
	all     []*End
}

// memory says that some share memory with the broker.
func newEverybody(t *testing.T, seed uint64, memory bool) *everybody {
	t.Helper()
	s := settings[0]
	setQueueLength(t, s.queue)
	k, err := NewKeeper(s.setup())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	e := &everybody{t: t, k: k, traffic: Traffic{Seed: seed, Largest: 8 << 10}}
	dir := k.Setup.Dir
	sink := func(name string, stored bool, o wire.Options) *End {
		o.Label, o.Ack, o.Keep = name, true, 10*time.Minute
		o.Replace = o.Share == ""
		return &End{Dir: dir, Traffic: e.traffic, Options: o, Stored: stored, File: filepath.Join(dir, "did-"+name)}
	}
	viewing := func(o wire.Options) wire.Options { o.View = memory; return o }
	e.sinks = []*End{sink("stored", true, forever()), sink("kept", false, forever()), sink("viewing", false, viewing(forever())),
		sink("viewing-stored", true, viewing(forever())), sink("viewing-behind", true, viewing(within(20*time.Millisecond))), sink("behind", true, within(20*time.Millisecond))}
	for i := range 3 {
		o := forever()
		o.Share, o.Batch = "crew", uint32(i)
		e.crew = append(e.crew, sink(fmt.Sprint("crew-", i), false, o))
	}
	for i := range 4 {
		o := wire.Options{Label: fmt.Sprint("source-", i), Mark: true, Keep: 10 * time.Minute, Replace: true, Stage: memory && i%2 == 1}
		e.sources = append(e.sources, &End{Dir: dir, Traffic: e.traffic, Options: o, Number: Polite + i, Source: true, File: filepath.Join(dir, fmt.Sprint("limit-", i))})
	}
	e.all = append(append(append(e.all, e.sinks...), e.crew...), e.sources...)
	return e
}

// begin starts everybody. Nobody sends before all sinks are there.
func (e *everybody) begin() {
	e.t.Helper()
	up(e.t, e.k, Death{})
	for i, end := range e.all {
		if err := end.Start(); err != nil {
			e.t.Fatal(err)
		}
		if i == len(e.all)-len(e.sources)-1 {
			err := until(patience, func() (bool, error) {
				_, sinks, err := e.k.List()
				return len(sinks) == len(e.sinks)+len(e.crew), err
			})
			if err != nil {
				e.t.Fatalf("not all sinks have come: %v\n%s", err, e.k.Log())
			}
		}
	}
}

// mayLose says whether others do not wait for it for ever.
func (e *End) mayLose() bool { return e.Options.Patience != wire.Forever }

// kill kills some at the same moment, and starts them again. A broker may be killed again while it takes over.
func (e *everybody) kill(random *rand.Rand) {
	e.t.Helper()
	var who []*End
	broker := random.IntN(3) > 0
	for most := random.IntN(4); len(who) < most || !broker && len(who) == 0; {
		if end := e.all[random.IntN(len(e.all))]; !slices.Contains(who, end) {
			who = append(who, end)
		}
	}
	for _, end := range who {
		end.Kill()
	}
	if broker {
		if err := e.k.Kill(); err != nil {
			e.t.Fatal(err)
		}
		e.kills++
	}
	var later []*End
	for _, end := range who {
		e.kills++
		if err := end.Wait(); err != nil {
			e.t.Fatalf("%s: %v\n%s", end.Options.Label, err, e.k.Log())
		}
		if broker && random.IntN(4) == 0 {
			later = append(later, end)
		} else if err := end.Start(); err != nil {
			e.t.Fatal(err)
		}
	}
	if broker && random.IntN(3) == 0 {
		die(e.t, e.k, Death{}, between(random, 0, 30*time.Millisecond))
		e.kills++
	}
	if broker {
		up(e.t, e.k, Death{})
	}
	for _, end := range later { // to the successor
		if err := end.Start(); err != nil {
			e.t.Fatal(err)
		}
	}
	time.Sleep(between(random, 0, 25*time.Millisecond))
	for _, end := range e.all {
		if end.Ended() {
			e.t.Fatalf("%s has ended: %v\n%s", end.Options.Label, end.Wait(), e.k.Log())
		}
	}
}

// settle ends the sources, and waits until all is done.
func (e *everybody) settle() (st *wire.Status, sinks []wire.Sink, total uint64) {
	e.t.Helper()
	for _, s := range e.sources {
		if err := os.WriteFile(s.File, nil, 0o600); err != nil {
			e.t.Fatal(err)
		}
	}
	for _, s := range e.sources {
		if err := s.Wait(); err != nil {
			e.t.Fatal(err)
		}
		text, err := os.ReadFile(s.File + ".sent")
		if err != nil {
			e.t.Fatal(err)
		}
		n, err := strconv.ParseUint(string(text), 10, 64)
		if err != nil {
			e.t.Fatal(err)
		}
		total += n
	}
	err := until(patience, func() (ok bool, err error) {
		st, sinks, err = e.k.List()
		if err != nil || st.Entered < total {
			return false, err
		}
		for i := range sinks {
			// What was said last may be behind what was done last: see beSink.
			if sinks[i].Waiting > sinks[i].Unacknowledged {
				return false, nil
			}
		}
		return e.haveAll(total), nil
	})
	if err != nil {
		e.t.Fatalf("not at rest: %v, %+v\n%+v\n%s", err, st, sinks, e.k.Log())
	}
	return st, sinks, total
}

// haveAll says whether the last message is in the files of all who are to have it.
func (e *everybody) haveAll(total uint64) bool {
	has := func(ends ...*End) bool {
		for _, end := range ends {
			for _, d := range e.did(end) {
				if d.seq+1 == total {
					return true
				}
			}
		}
		return false
	}
	all := total == 0 || has(e.crew...)
	for _, s := range e.sinks {
		all = all && has(s)
	}
	return all
}

func (e *everybody) did(end *End) []done {
	e.t.Helper()
	all, _, err := end.read()
	if err != nil {
		e.t.Fatal(err)
	}
	return all
}

// balance compares what everybody did. It returns how many messages there were, and how often one was done again.
func (e *everybody) balance() (total, again uint64) {
	t := e.t
	t.Helper()
	st, listed, total := e.settle()
	if st.Entered != total || st.Received != total {
		t.Errorf("%d messages were sent, %d received and %d entered", total, st.Received, st.Entered)
	}
	for _, end := range append(e.sinks, e.crew...) {
		end.Kill()
		if err := end.Wait(); err != nil {
			t.Fatalf("%s: %v", end.Options.Label, err)
		}
	}
	// The order is the one of who stores his place: each number once, and each source's messages once, in their order.
	order := e.did(e.sinks[0])
	next := make(map[int]uint64)
	for i, d := range order {
		if d.seq != uint64(i) {
			t.Fatalf("line %d of who stores his place is message %d", i, d.seq)
		}
		if d.key == Nobody {
			continue
		}
		from := d.key.Source()
		for ; next[from] < d.key.Index() && e.traffic.Size(from, next[from]) == 0; next[from]++ {
		}
		if next[from] != d.key.Index() {
			t.Fatalf("message %d is %s, and %d of that source is next", i, d.key, next[from])
		}
		next[from]++
	}
	if uint64(len(order)) != total {
		t.Errorf("who stores his place did %d messages of %d", len(order), total)
	}
	count := func(name string, lists ...[]done) (missing uint64) {
		times := make([]uint64, total)
		for _, list := range lists {
			for _, d := range list {
				if d.seq >= total || order[d.seq].key != d.key {
					t.Fatalf("%s did %d, %s, which is something else", name, d.seq, d.key)
				}
				times[d.seq]++
			}
		}
		for _, n := range times {
			if n == 0 {
				missing++
			} else {
				again += n - 1
			}
		}
		return missing
	}
	lost := make(map[string]uint64)
	for _, s := range e.sinks[1:] {
		label, did, repeated := s.Options.Label, e.did(s), again
		lost[label] = count(label, did)
		if !s.mayLose() && lost[label] > 0 {
			t.Errorf("%d messages never came to %s", lost[label], label)
		}
		if !s.Stored {
			continue
		}
		if again != repeated {
			t.Errorf("%s, which stores its place, did %d messages again", label, again-repeated)
		}
		for i := 1; i < len(did); i++ {
			if did[i].seq <= did[i-1].seq {
				t.Fatalf("%s did %d after %d", label, did[i].seq, did[i-1].seq)
			}
		}
	}
	var crew [][]done
	for _, m := range e.crew {
		crew = append(crew, e.did(m))
	}
	if n := count("crew", crew...); n > 0 {
		t.Errorf("%d messages never came to any of the share", n)
	}
	for i := range listed {
		s := &listed[i]
		if s.Share == "" && s.Accepted+s.Lost+s.Waiting != st.Entered-s.Start { // of a member they are its own
			t.Errorf("sink %s: accepted %d + lost %d + waiting %d is not %d - %d", s.Label, s.Accepted, s.Lost, s.Waiting, st.Entered, s.Start)
		}
		if missing, may := lost[s.Label]; may && missing > s.Lost || s.Patience == "forever" && s.Lost > 0 {
			t.Errorf("sink %s has lost %d, and %d are missing", s.Label, s.Lost, missing)
		}
	}
	faults, err := e.k.Faults()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		t.Error(f)
	}
	return total, again
}

// TestPromise10_Everybody kills sources, broker, sinks and members of a share, some of them at the same moment.
func TestPromise10_Everybody(t *testing.T) {
	from, total := seed(t), kills(t)
	for n, did := 0, 0; did < total; n++ {
		random := rand.New(rand.NewPCG(from, uint64(n)))
		e := newEverybody(t, random.Uint64(), true)
		e.begin()
		for e.kills < min(100, total-did) {
			e.kill(random)
		}
		messages, again := e.balance()
		did += e.kills
		t.Logf("episode %d: %d kills so far; %d messages, %d done again by those who store no place", n, did, messages, again)
		e.k.Close()
		if t.Failed() {
			t.FailNow()
		}
	}
}

// endSeams are those that only a channel comes by whose sinks acknowledge, and go and come back.
var endSeams = []string{
	"ack.logged", "ack.taken", "ack.done", "done.logged", "done.sent", "done.done", "send.member", "send.offered",
	"leave.logged", "leave.sent", "leave.done", "rejoin.logged", "rejoin.identity", "rejoin.done",
}

// TestPromise10_EverySeam kills brokers at the moments of what those ask for who acknowledge, and the ends as well.
func TestPromise10_EverySeam(t *testing.T) {
	random := rand.New(rand.NewPCG(seed(t), 0))
	e := newEverybody(t, random.Uint64(), true)
	e.begin()
	points := []Point{{"ack", Before}, {"ack", None}, {"ack", Part}}
	for _, name := range endSeams {
		points = append(points, Point{name, ""})
	}
	for _, p := range points {
		hit := false
		for try := uint64(0); try < 10 && !hit; try++ {
			if err := e.k.Kill(); err != nil {
				t.Fatal(err)
			}
			// Somebody who goes, and comes back while the broker is up.
			end := append(e.sinks, e.crew...)[random.IntN(len(e.sinks)+len(e.crew))]
			end.Kill()
			if err := end.Wait(); err != nil {
				t.Fatal(err)
			}
			if err := e.k.Start(Death{p, 1 + try%3}); err != nil {
				t.Fatal(err)
			}
			if err := end.Start(); err != nil {
				t.Fatal(err)
			}
			hit = e.k.AwaitDeath(3 * time.Second)
		}
		if !hit {
			t.Errorf("no broker came by %s", p)
		}
		if err := e.k.Kill(); err != nil {
			t.Fatal(err)
		}
		e.kills += 2
		up(t, e.k, Death{})
	}
	messages, again := e.balance()
	t.Logf("%d kills, %d messages, %d done again by those who store no place", e.kills, messages, again)
}

// TestPromise10_TracesArePathsOfTheModel kills everybody, and compares what each broker came by with what the models allow.
func TestPromise10_TracesArePathsOfTheModel(t *testing.T) { tracesOfEverybody(t, false) }

// TestPromise12_TracesArePathsOfTheModel is the same where some share memory with the broker, by their pages and stages.
func TestPromise12_TracesArePathsOfTheModel(t *testing.T) { tracesOfEverybody(t, true) }

func tracesOfEverybody(t *testing.T, memory bool) {
	random := rand.New(rand.NewPCG(seed(t), 0))
	e := newEverybody(t, random.Uint64(), memory)
	known := tracing(t, e.k, memory)
	e.begin()
	for e.kills < 40 {
		e.kill(random)
	}
	e.balance()
	known()
}
