// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Broker is a msgmuxd that was started by hand.
type Broker struct {
	*Program
	Dir string // of its sockets

	t testing.TB
}

// Folder makes a folder with a name that is short enough for sockets, and removes it with the test.
func Folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	// Programs that give up root must be able to pass.
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// StartBroker starts a broker with flags beside --runtime-dir, and makes it the one that msgmux finds.
func StartBroker(t testing.TB, flags ...string) *Broker {
	t.Helper()
	dir := Folder(t)
	return StartBrokerBy(t, dir, append([]string{"msgmuxd", "--runtime-dir", dir}, flags...))
}

// StartBrokerBy starts a broker with its sockets in dir by a command of the test's own, and waits for it.
func StartBrokerBy(t testing.TB, dir string, argv []string) *Broker {
	t.Helper()
	t.Setenv("MSGMUX_RUNTIME_DIR", dir)
	b := &Broker{Program: Start(t, argv), Dir: dir, t: t}
	Until(t, "the broker's start", func() bool {
		if !b.Running() {
			t.Fatalf("the broker did not start: %s", b.Err())
		}
		return exec.Command("msgmux", "status").Run() == nil
	})
	return b
}

// Status is what the control socket tells, as far as the tests look at it.
type Status struct {
	Received, Accepted, Lost uint64
	Refused                  map[string]uint64
	Sources                  struct{ Blocked bool }
	Sinks                    []Sink `json:"-"`
}

// Sink is a sink in the status.
type Sink struct {
	Label, Kind, State, Patience string
	Accepted, Lost, Waiting      uint64
}

// Status asks the broker.
func (b *Broker) Status() Status {
	b.t.Helper()
	out, err := exec.Command("msgmux", "status", "--json").Output()
	if err != nil {
		b.t.Fatalf("cannot ask for the status: %v", err)
	}
	var answer struct {
		Status Status
		Sinks  []Sink
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		b.t.Fatalf("cannot read the status %q: %v", out, err)
	}
	answer.Status.Sinks = answer.Sinks
	return answer.Status
}

// WaitSink waits until a sink of this label is there and connected.
func (b *Broker) WaitSink(label string) {
	b.t.Helper()
	Until(b.t, "the arrival of sink "+label, func() bool {
		return slices.ContainsFunc(b.Status().Sinks, func(s Sink) bool { return s.Label == label && s.State != "absent" })
	})
}

// WaitForNobody waits until no sink is there that takes anything.
func (b *Broker) WaitForNobody() {
	b.t.Helper()
	Until(b.t, "the absence of sinks", func() bool {
		return !slices.ContainsFunc(b.Status().Sinks, func(s Sink) bool { return s.State != "absent" })
	})
}

// Subscriber is a `msgmux sub` whose messages the test reads.
type Subscriber struct {
	*Program
	t testing.TB
}

// Subscribe starts `msgmux sub` with flags and waits until it is a sink.
func (b *Broker) Subscribe(label string, flags ...string) *Subscriber {
	b.t.Helper()
	s := &Subscriber{t: b.t}
	// Messages end with NUL, which none of the tests sends: lines may be part of a message.
	s.Program = Start(b.t, append([]string{"msgmux", "sub", "-o", "nul", "--label", label}, flags...))
	b.WaitSink(label)
	return s
}

// Messages are those that have come so far.
func (s *Subscriber) Messages() []string {
	out := s.Out()
	return strings.SplitN(strings.TrimSuffix(out, "\x00"), "\x00", -1)[:strings.Count(out, "\x00")]
}

// WaitFor waits for n messages and returns all there are.
func (s *Subscriber) WaitFor(n int) []string {
	s.t.Helper()
	Until(s.t, "the arrival of the messages", func() bool { return strings.Count(s.Out(), "\x00") >= n })
	return s.Messages()
}

// Sock is the path of one of the broker's sockets.
func (b *Broker) Sock(name string) string { return filepath.Join(b.Dir, name) }
