// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/wire"
)

// TestPromise9_PoisonKillsNobodyForEver lets one registration end three brokers. The fourth one must not look at it, and
// serves the next.
func TestPromise9_PoisonKillsNobodyForEver(t *testing.T) {
	for _, at := range []string{"register.proven", "register.stored", "register.barrier", "add.filled"} {
		t.Run(at, func(t *testing.T) {
			k := newKeeper(t)
			death := Death{Point{at, ""}, 1}
			up(t, k, death)
			poison(t, k)
			for range 3 {
				if !k.AwaitDeath(patience) {
					t.Fatal("the registration does not kill the broker")
				}
				if err := k.Kill(); err != nil {
					t.Fatal(err)
				}
				if err := k.Start(death); err != nil {
					t.Fatal(err)
				}
			}
			if err := k.AwaitReady(); err != nil {
				t.Fatalf("the fourth broker: %v\n%s", err, k.Log())
			}
			err := until(patience, func() (bool, error) {
				st, sinks, err := k.List()
				return err == nil && st.Registrations[wire.CodePoison] == 1 && len(sinks) == 0, err
			})
			if err != nil {
				t.Fatalf("the registration is not counted as poison: %v\n%s", err, k.Log())
			}
			if err := k.Stop(); err != nil {
				t.Fatalf("the fourth broker: %v", err)
			}
			up(t, k, Death{})
			works(t, k, "other")
			if stored, _, err := k.Stored(); err != nil || len(stored) > 1 {
				t.Errorf("the store holds %v: what the dead brokers put there is left (%v)", stored, err)
			}
		})
	}
}

// TestPromise9_OneIsNotPunishedForAnother kills brokers when a registration is just taken from its queue, three times,
// with three registrations. The fourth must not pass for one that kills brokers.
func TestPromise9_OneIsNotPunishedForAnother(t *testing.T) {
	k := newKeeper(t)
	for range 3 {
		up(t, k, Death{Point{"consume.taken", ""}, 1})
		poison(t, k)
		if !k.AwaitDeath(patience) {
			t.Fatal("the broker does not come by")
		}
		if err := k.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	up(t, k, Death{})
	works(t, k, "other")
	st, _, err := k.List()
	if err != nil {
		t.Fatal(err)
	}
	if st.Registrations[wire.CodePoison] != 0 || st.Registrations["ok"] != 1 {
		t.Errorf("registrations, by outcome: %v", st.Registrations)
	}
}

// poison sends a registration and waits for nothing. The socket lives as long as the test.
func poison(t *testing.T, k *Keeper) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	name := fmt.Sprintf("@%s/poison-%d", k.Setup.Dir, stamp.Add(1))
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendto(fd, []byte(name), 0, &unix.SockaddrUnix{Name: filepath.Join(k.Setup.Dir, "register")}); err != nil {
		t.Fatal(err)
	}
}

// TestPromise7_KilledBeforeThereIsAnything kills the very first brokers of a channel, before and while the ring is made
// and stored, with a source and a declared sink that are there already: nothing may be received into a ring that no
// successor will find.
func TestPromise7_KilledBeforeThereIsAnything(t *testing.T) {
	random := rand.New(rand.NewPCG(seed(t), 0))
	for range 8 {
		k := newKeeper(t)
		l := &Load{Keeper: k, Traffic: Traffic{Seed: random.Uint64(), Largest: 4 << 10}}
		s, err := NewSink(k.Setup.Dir, &l.Traffic, "declared", Static, forever(), Fast)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Join(); err != nil {
			t.Fatal(err)
		}
		l.Standing = []*Sink{s}
		l.Sources = []*Source{StartSource(k.Setup.Dir, &l.Traffic, 0, Blocking)}
		for range 5 {
			// Before anything is stored, or with one of the two files in the store.
			die(t, k, Death{}, between(random, 0, 40*time.Millisecond))
		}
		up(t, k, Death{})
		time.Sleep(between(random, 0, 20*time.Millisecond))
		balance(t, l)
		k.Close()
	}
}
