// SPDX-License-Identifier: Apache-2.0

package activation_test

import (
	"testing"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/activation/activationtest"
	"github.com/msgmux/msgmux/internal/test"
)

// TestWitness: it holds while it is under way and while the store has it, whatever else comes and goes, and no longer.
func TestWitness(t *testing.T) {
	m, err := activationtest.New(test.Folder(t))
	must(t, err)
	t.Cleanup(func() { m.Close() })
	n := notifier(t, m)
	m.Pause()
	w, err := n.Witness(activation.FirstWitness)
	must(t, err)
	defer w.Close()
	if !w.Holds() {
		t.Error("it does not hold while its message is under way")
	}
	m.Resume()
	must(t, n.Barrier(10*time.Second))
	if !w.Holds() {
		t.Error("it does not hold in the store")
	}
	last, err := n.Witness(activation.LastWitness)
	must(t, err)
	defer last.Close()
	again, err := n.Witness(activation.LastWitness) // in the place of the one before
	must(t, err)
	defer again.Close()
	must(t, n.Barrier(10*time.Second))
	if last.Holds() || !again.Holds() || len(m.Stored()) != 2 {
		t.Errorf("the one before holds: %v, the new one: %v; stored are %v", last.Holds(), again.Holds(), m.Stored())
	}
	inherited, err := m.Copy(activation.FirstWitness)
	must(t, err)
	adopted, err := activation.AdoptWitness(inherited)
	must(t, err)
	defer adopted.Close()
	if !adopted.Holds() {
		t.Error("an adopted one does not hold")
	}
	m.Reload(1, false) // the oldest goes
	if adopted.Holds() {
		t.Error("an adopted one holds that is not in the store")
	}
	if w.Holds() || !again.Holds() {
		t.Errorf("the first holds: %v, the last: %v", w.Holds(), again.Holds())
	}
	m.EmptyStore()
	if again.Holds() {
		t.Error("it holds in an empty store")
	}
	m.SetStoreMax(0)
	none, err := n.Witness(activation.FirstWitness)
	must(t, err)
	defer none.Close()
	must(t, n.Barrier(10*time.Second))
	if none.Holds() {
		t.Error("it holds in a store that takes nothing")
	}
}

// TestNoWitness: without a service manager nothing is told, and nothing is lost.
func TestNoWitness(t *testing.T) {
	var n *activation.Notifier
	w, err := n.Witness(activation.FirstWitness)
	must(t, err)
	defer w.Close()
	if !w.Holds() {
		t.Error("it does not hold")
	}
}
