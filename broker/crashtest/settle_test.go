// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation"
)

// member registers a sink, which is closed at the end.
func member(t *testing.T, k *Keeper, name string) *Sink {
	t.Helper()
	s, err := NewSink(k.Setup.Dir, &Traffic{Largest: 1 << 10}, name, ByName, forever(), Fast)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	if err := s.Register(); err != nil {
		t.Fatalf("%v\n%s", err, k.Log())
	}
	return s
}

// TestPromise7_StoreAndTableAreSettled gives a broker a store that does not agree with its table: a descriptor without an
// entry, an entry without a descriptor, and one sink twice. It keeps what is whole, once, and nothing else.
func TestPromise7_StoreAndTableAreSettled(t *testing.T) {
	k := newKeeper(t)
	up(t, k, Death{})
	whole, bare := member(t, k, "whole"), member(t, k, "bare")
	// A registration is consumed after it was answered, so that of the one that loses its descriptor may still be there, and
	// would be looked at again. Behind this one it is not.
	if err := whole.Register(); err != nil {
		t.Fatal(err)
	}
	wholeName, bareName := activation.SinkName(activation.DatagramSink, whole.ID), activation.SinkName(activation.DatagramSink, bare.ID)
	if err := k.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := k.Stored(); err != nil { // once it has heard everything
		t.Fatal(err)
	}

	// The store anew: what is kept, a copy of the whole sink's under an id that nobody has, and a stranger.
	kept := map[string]int{}
	for _, name := range k.systemd.Stored() {
		fd, err := k.systemd.Copy(name)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		kept[name] = fd
	}
	if _, ok := kept[wholeName]; !ok {
		t.Fatalf("the store has no %s: %v", wholeName, kept)
	}
	if _, ok := kept[bareName]; !ok {
		t.Fatalf("the store has no %s: %v", bareName, kept)
	}
	kept[activation.SinkName(activation.DatagramSink, 1<<40)] = kept[wholeName]
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	kept[activation.SinkName(activation.DatagramSink, 1<<41)] = pair[0]
	delete(kept, bareName)
	k.systemd.EmptyStore()
	for name, fd := range kept {
		if err := k.systemd.Stash(name, fd); err != nil {
			t.Fatal(err)
		}
	}

	up(t, k, Death{})
	err = until(patience, func() (bool, error) {
		stored, _, err := k.Stored()
		return err == nil && slices.Equal(stored, []string{wholeName}), err
	})
	if stored, _, _ := k.Stored(); err != nil {
		t.Errorf("the store has %v, want %s alone: %v\n%s", stored, wholeName, err, k.Log())
	}
	_, sinks, err := k.List()
	if err != nil || len(sinks) != 1 || sinks[0].ID != whole.ID {
		t.Errorf("the sinks are %+v, want number %d alone (%v)", sinks, whole.ID, err)
	}
	reaches(t, k, whole)
	// Who fell out may come again, by the same socket; it is another sink then.
	bare.ID = 0
	if err := bare.Register(); err != nil {
		t.Errorf("the sink that lost its descriptor cannot register: %v", err)
	}
}

// TestPromise7_NoAnswerBeforeTheBarrier has the service manager read no mail for a while: nobody is told that a sink is
// registered before its descriptor is known to be in the store.
func TestPromise7_NoAnswerBeforeTheBarrier(t *testing.T) {
	k := newKeeper(t)
	up(t, k, Death{})
	s, err := NewSink(k.Setup.Dir, &Traffic{Largest: 1 << 10}, "early", ByName, forever(), Fast)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	k.systemd.Pause()
	answer := make(chan error, 1)
	go func() { answer <- s.Register() }()
	select {
	case err := <-answer:
		t.Errorf("answered while the store is deaf: %v", err)
		answer <- err
	case <-time.After(500 * time.Millisecond):
	}
	if _, sinks, err := k.List(); err != nil || len(sinks) != 0 {
		t.Errorf("in the table while the store is deaf: %+v (%v)", sinks, err)
	}
	k.systemd.Resume()
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	if stored, _, err := k.Stored(); err != nil || len(stored) != 1 {
		t.Errorf("the store has %v (%v)", stored, err)
	}
}
