// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestPromise8_LabelSquatting: a declared sink has its name, whoever has it already or wants it later, so that what an
// administrator says about that name is about that sink. Who had it keeps all else.
func TestPromise8_LabelSquatting(t *testing.T) {
	needRoot(t)
	options, change := optionsIn(t)
	b := brokertest.Start(t, change)
	openToAll(t, b.Dir)
	kind := func(label string) (kind string, uid uint32) {
		_, sinks := b.Channel.List()
		for _, s := range sinks {
			if s.Label == label {
				return s.Kind, s.UID
			}
		}
		return "", 0
	}
	squat := func(label string) *brokertest.Sink {
		t.Helper()
		s := strangersSocket(t, brokertest.Name())
		if r := registerAs(t, b.Dir, stranger, nil, s.Name, "label="+label); r.Err != nil {
			t.Fatal(r.Err)
		}
		return s
	}
	before, framed := squat("archive"), brokertest.NewSubscriber(t, b.Dir, "label=archive-2")
	declared := brokertest.NewSocket(t, b.Dir+"/sinks/archive")
	becomes(t, b, "archive", "ready")
	squat("archive")
	for label, want := range map[string]string{"archive": "static", "archive-2": "framed", "archive-3": "dynamic", "archive-4": "dynamic"} {
		if got, _ := kind(label); got != want {
			t.Errorf("%s is %q, want %s", label, got, want)
		}
	}
	if err := brokertest.NewSource(t, b.Dir).Send(stamped(1, 0, 20)); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*brokertest.Sink{declared, before} {
		receiveSeq(t, s, 1, 0, 1)
	}
	if _, err := framed.Receive(); err != nil {
		t.Error(err)
	}
	if e := b.Channel.SetPatience(0, "archive", time.Minute); e != nil {
		t.Fatal(e)
	}
	_, sinks := b.Channel.List()
	for _, s := range sinks {
		if long := s.Patience == wire.FormatPatience(time.Minute); long != (s.Kind == "static") {
			t.Errorf("the %s sink %s has a patience of %s", s.Kind, s.Label, s.Patience)
		}
	}

	// A label that its options give to a static sink is declared, too.
	squat("other")
	writeFile(t, options+"/archive.conf", "label=other\n")
	b.Channel.Rescan()
	becomes(t, b, "other", "ready")
	if got, _ := kind("other"); got != "static" {
		t.Errorf("other is %q", got)
	}
	if got, uid := kind("other-2"); got != "dynamic" || uid != stranger {
		t.Errorf("other-2 is %q of %d", got, uid)
	}
	// Another static one is not pushed aside.
	brokertest.NewSocket(t, b.Dir+"/sinks/other")
	becomes(t, b, "other-3", "ready")
	if _, uid := kind("archive"); uid != 0 {
		t.Error("the name that was given up is the stranger's")
	}
}

// TestPromise10_DeclaredName: a kept sink whose name is declared while it is away is kept under another one, is told by which, and
// misses nothing; nor does it get in the declared one's way.
func TestPromise10_DeclaredName(t *testing.T) {
	log := &keptLog{}
	b := brokertest.Start(t, keepLog(log))
	source := brokertest.NewSource(t, b.Dir)
	becomes := func(label, state string) {
		t.Helper()
		test.Eventually(t, label+" "+state, func() bool {
			_, sinks := b.Channel.List()
			return slices.ContainsFunc(sinks, func(s wire.Sink) bool { return s.Label == label && s.State == state })
		})
	}
	c := brokertest.NewSubscriber(t, b.Dir, "label=db", "ack=yes", "keep=1h")
	id := c.ID
	c.Close()
	becomes("db", "absent")
	declared := brokertest.NewSocket(t, b.Dir+"/sinks/db")
	becomes("db", "ready")
	becomes("db-2", "absent")
	log.logged(t, 1, "another name", "sink=db-2")
	if err := source.Send(stamped(1, 0, 20)); err != nil {
		t.Fatal(err)
	}
	receiveSeq(t, declared, 1, 0, 1)
	for range 2 { // and nothing is taken from anybody by asking
		_, r := brokertest.Greet(t, b.Dir, "subscribe", "label=db", "ack=yes", "keep=1h", "replace=yes")
		if codeOf(r.Err) != wire.CodeInUse || !strings.Contains(r.Err.Text, `"db-2"`) {
			t.Fatalf("by the name that was declared: %+v", r)
		}
	}
	back, r := brokertest.Greet(t, b.Dir, "subscribe", "label=db-2", "ack=yes", "keep=1h")
	if r.Err != nil || sinkOf(t, b, id).State != "ready" {
		t.Fatalf("by the name that it was told: %+v", r)
	}
	p, err := back.Receive()
	if err != nil || p.Count != 1 || p.Lost != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	// Without keep, it is a new sink, with a name of its own.
	if _, r := brokertest.Greet(t, b.Dir, "subscribe", "label=db"); r.Err != nil {
		t.Errorf("%+v", r)
	}
	becomes("db-3", "ready")
}
