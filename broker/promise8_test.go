// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// Promise 8 from outside, with a broker that runs. Who owns a socket, and how names are forged, is tested piece by piece
// in ownership_test.go.

// message has the broker deliver one more message, so that whoever is a sink gets something.
func message(t *testing.T, b *brokertest.Broker) {
	t.Helper()
	before := b.Channel.Status().Delivered
	witness := brokertest.NewSink(t, b.Dir)
	if err := brokertest.NewSource(t, b.Dir).Send([]byte("a message")); err != nil {
		t.Fatal(err)
	}
	if _, err := witness.Receive(); err != nil {
		t.Fatal(err)
	}
	test.Eventually(t, "the message is delivered", func() bool { return b.Channel.Status().Delivered == before+1 })
	brokertest.Register(t, b.Dir, witness.Name, "remove")
}

// TestPromise8_SomebodyElsesSink: nobody can make somebody else's socket a sink, by whatever name; root can, and then
// it counts for its owner.
func TestPromise8_SomebodyElsesSink(t *testing.T) {
	needRoot(t)
	b := brokertest.Start(t, func(cfg *broker.Config) { cfg.SinksPerUser = 2 })
	openToAll(t, b.Dir)
	byName, byPath := brokertest.NewSocket(t, brokertest.Name()), brokertest.NewSocket(t, b.Dir+"/victim")
	os.Chmod(byPath.Name, 0o777)
	link := b.Dir + "/link"
	if err := os.Symlink(byPath.Name, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{byName.Name, byPath.Name, link} {
		if r := registerAs(t, b.Dir, stranger, nil, name); codeOf(r.Err) != wire.CodeNotOwner {
			t.Errorf("%s registered by a stranger: %+v", name, r)
		}
	}
	message(t, b)
	receivesNothing(t, byName, "the socket with a name")
	receivesNothing(t, byPath, "the socket with a path")

	theirs := strangersSocket(t, brokertest.Name())
	r := brokertest.Register(t, b.Dir, theirs.Name)
	if r.Err != nil || sinkOf(t, b, r.ID).UID != stranger {
		t.Fatalf("registered by root: %+v", r)
	}
	another, third := strangersSocket(t, brokertest.Name()), strangersSocket(t, brokertest.Name())
	if r := registerAs(t, b.Dir, stranger, nil, another.Name); r.Err != nil {
		t.Errorf("the second of two: %v", r.Err)
	}
	if r := brokertest.Register(t, b.Dir, third.Name); codeOf(r.Err) != wire.CodeQuota {
		t.Errorf("the third of two, by root: %+v", r)
	}
}

// TestPromise8_SomebodyElsesChange: nobody can remove, renew or change somebody else's sink, or take part in somebody
// else's share.
func TestPromise8_SomebodyElsesChange(t *testing.T) {
	needRoot(t)
	b := brokertest.Start(t)
	openToAll(t, b.Dir)
	sink := brokertest.NewSink(t, b.Dir, "label=mine", "share=workers")
	if r := registerAs(t, b.Dir, stranger, nil, sink.Name, "remove"); codeOf(r.Err) != wire.CodeNotFound {
		t.Errorf("removed by a stranger: %+v", r)
	}
	if r := registerAs(t, b.Dir, stranger, nil, sink.Name, "label=theirs", "share=workers"); codeOf(r.Err) != wire.CodeNotOwner {
		t.Errorf("renewed by a stranger: %+v", r)
	}
	if e := b.Channel.Drop(stranger, "mine"); codeOf(e) != wire.CodeDenied {
		t.Errorf("dropped by a stranger: %v", e)
	}
	if e := b.Channel.SetPatience(stranger, "mine", 0); codeOf(e) != wire.CodeDenied {
		t.Errorf("set by a stranger: %v", e)
	}
	theirs := strangersSocket(t, brokertest.Name())
	r := registerAs(t, b.Dir, stranger, nil, theirs.Name, "label=mine", "share=workers")
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	if s := sinkOf(t, b, r.ID); s.Label != "mine-2" || s.Share != "workers" {
		t.Errorf("%+v", s)
	}
	// Each user's share gets every message.
	if err := brokertest.NewSource(t, b.Dir).Send(stamped(1, 0, 20)); err != nil {
		t.Fatal(err)
	}
	receiveSeq(t, sink, 1, 0, 1)
	receiveSeq(t, theirs, 1, 0, 1)
	if s := sinkOf(t, b, sink.ID); s.Label != "mine" || s.Lost != 0 {
		t.Errorf("%+v", s)
	}
	// Its owner may.
	if e := b.Channel.Drop(stranger, "mine-2"); e != nil {
		t.Error(e)
	}
}

// TestPromise8_Replies: an answer goes to its asker or nowhere: not to a socket that the asker's path leads to by now,
// not into the broker, not to a sink, which would take it for a message.
func TestPromise8_Replies(t *testing.T) {
	needRoot(t)
	log := &keptLog{}
	b := brokertest.Start(t, keepLog(log))
	openToAll(t, b.Dir)
	victim := brokertest.NewSocket(t, b.Dir+"/victim")
	os.Chmod(victim.Name, 0o777)
	sink := brokertest.NewSink(t, b.Dir)
	for _, c := range []struct {
		name   string
		uid    uint32
		target string
		logged string
	}{
		{"a stranger's path leads to somebody's socket", stranger, victim.Name, "belongs to uid 0"},
		{"a path leads to source", 0, b.Dir + "/source", "receives from"},
		{"a path leads to register", 0, b.Dir + "/register", ""}, // the same reason, once a minute
		{"a stranger's path leads to source", stranger, b.Dir + "/source", "receives from"},
		{"a path leads to publish", 0, b.Dir + "/publish", "SOCK_DGRAM"},
		{"a path leads to a file", 0, b.Dir + "/.lock", ""},
		{"a path leads nowhere", 0, b.Dir + "/nowhere", "no file"},
	} {
		asker := strangersOrMine(t, c.uid, b.Dir+"/asker")
		removeFile(t, asker.Name)
		if err := os.Symlink(c.target, asker.Name); err != nil {
			t.Fatal(err)
		}
		sendAs(t, b.Dir, c.uid, asker, "@nobody\nreply=yes\n")
		brokertest.Register(t, b.Dir, "@nobody") // is answered behind it
		if c.logged != "" {
			test.Eventually(t, fmt.Sprintf("%s: logged with %q", c.name, c.logged), func() bool {
				return len(log.grep("no answer sent", c.logged)) > 0
			})
		}
		receivesNothing(t, asker, c.name)
		asker.Close()
		removeFile(t, asker.Name)
	}
	receivesNothing(t, victim, "the victim")
	// From the sink's own socket, under its name and under another one.
	for _, line := range []string{sink.Name, "@nobody"} {
		sendAs(t, b.Dir, 0, sink, line+"\nreply=yes\n")
	}
	sendAs(t, b.Dir, 0, sink, "\nreply=yes\nnonsense=1\n")
	brokertest.Register(t, b.Dir, "@nobody")
	receivesNothing(t, sink, "the sink")
	if st := b.Channel.Status(); st.Received != 0 {
		t.Errorf("%d answers came back as messages", st.Received)
	}
	// And one that is all right does come.
	if r := registerAs(t, b.Dir, stranger, nil, "@nobody"); codeOf(r.Err) != wire.CodeNoPeer {
		t.Errorf("%+v", r)
	}
}

// strangersOrMine binds a socket of that user, root or the stranger.
func strangersOrMine(t *testing.T, uid uint32, name string) *brokertest.Sink {
	t.Helper()
	if uid == 0 {
		return brokertest.NewSocket(t, name)
	}
	dir := name[:strings.LastIndex(name, "/")]
	os.Chmod(dir, 0o777)
	s := strangersSocket(t, name)
	os.Chmod(dir, 0o755)
	return s
}

// TestPromise8_IntoTheBroker: no socket that the broker receives from becomes a sink, whoever asks, dynamic or static.
func TestPromise8_IntoTheBroker(t *testing.T) {
	log := &keptLog{}
	b := brokertest.Start(t, keepLog(log))
	for name, code := range map[string]string{
		"source": wire.CodeLoop, "register": wire.CodeLoop,
		"publish": wire.CodeWrongType, "subscribe": wire.CodeWrongType, "control": wire.CodeWrongType,
	} {
		link := b.Dir + "/to-" + name
		if err := os.Symlink(b.Dir+"/"+name, link); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{b.Dir + "/" + name, link} {
			if r := brokertest.Register(t, b.Dir, path); codeOf(r.Err) != code {
				t.Errorf("%s: %+v, want %s", path, r, code)
			}
		}
		if err := os.Symlink(b.Dir+"/"+name, b.Dir+"/sinks/static-"+name); err != nil {
			t.Fatal(err)
		}
		test.Eventually(t, "refused as a static sink", func() bool {
			return len(log.grep("static-sink", "sink=static-"+name)) > 0
		})
	}
	message(t, b)
	if st := b.Channel.Status(); st.Sinks.Absent != 5 || st.Received != 1 {
		t.Errorf("%+v", st)
	}
}

// TestPromise8_LentReach: a declared sink that is a link into somebody's folder leads to that somebody's socket, and not by
// another hop, which he plants there, to one that only the broker may write to.
func TestPromise8_LentReach(t *testing.T) {
	needRoot(t)
	log := &keptLog{}
	b := brokertest.Start(t, keepLog(log))
	openToAll(t, b.Dir)
	for _, dir := range []string{"/private", "/theirs"} {
		if err := os.Mkdir(b.Dir+dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	private := brokertest.NewSocket(t, b.Dir+"/private/in")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Chown(b.Dir+"/theirs", stranger, stranger))
	must(os.Symlink(private.Name, b.Dir+"/theirs/in"))
	must(os.Lchown(b.Dir+"/theirs/in", stranger, stranger))
	must(os.Symlink(b.Dir+"/theirs/in", b.Dir+"/sinks/hop"))
	reader := brokertest.NewSink(t, b.Dir)
	test.Eventually(t, "the sink is declared", func() bool {
		_, sinks := b.Channel.List()
		return len(sinks) == 2
	})
	test.Eventually(t, "it is said why", func() bool { return len(log.grep("sink=hop", "uid 65533", "exchange")) > 0 })
	must(brokertest.NewSource(t, b.Dir).Send([]byte("a message")))
	if _, err := reader.Receive(); err != nil {
		t.Fatal(err)
	}
	receivesNothing(t, private, "a socket in root's folder, by way of a stranger's link,")
}

// TestPromise8_BorrowedRoot: a program that root runs writes to whatever it was given as its output. What it writes, with
// root's credentials, into a socket that somebody connected to register gives him none of root's rights: not over his own sinks,
// not over root's, whatever that socket is bound to.
func TestPromise8_BorrowedRoot(t *testing.T) {
	needRoot(t)
	log := &keptLog{}
	b := brokertest.Start(t, keepLog(log))
	openToAll(t, b.Dir)
	foreign := brokertest.NewSocket(t, brokertest.Name()) // root's own, and nobody asked for it to be a sink
	sink := brokertest.NewSink(t, b.Dir)
	theirs := strangersSocket(t, brokertest.Name())
	if r := registerAs(t, b.Dir, stranger, nil, theirs.Name); r.Err != nil {
		t.Fatal(r.Err)
	}
	os.Mkdir(b.Dir+"/theirs", 0o777)
	os.Chmod(b.Dir+"/theirs", 0o777)
	victim := brokertest.NewSocket(t, b.Dir+"/victim") // root's own, and has sent nothing
	for name, bound := range map[string]string{"not bound": "", "bound": brokertest.Name(), "bound to what leads to root's": b.Dir + "/theirs/s"} {
		var connected *net.UnixConn
		asStranger(func() {
			var local *net.UnixAddr
			if bound != "" {
				local = &net.UnixAddr{Name: bound, Net: "unixgram"}
			}
			var err error
			if connected, err = net.DialUnix("unixgram", local, &net.UnixAddr{Name: b.Dir + "/register", Net: "unixgram"}); err != nil {
				t.Error(err)
			}
			if strings.HasPrefix(bound, "/") {
				os.Remove(bound)
				os.Symlink(victim.Name, bound)
			}
		})
		defer connected.Close()
		for _, text := range []string{theirs.Name + "\npatience=1m", theirs.Name + "\nlabel=mine", sink.Name + "\nremove", theirs.Name + "\nremove",
			strangersSocket(t, brokertest.Name()).Name, foreign.Name + "\npatience=forever", "\npatience=forever"} {
			if _, err := connected.Write([]byte(text + "\nreply=yes")); err != nil { // root's process, the stranger's socket
				t.Fatal(err)
			}
		}
		brokertest.Register(t, b.Dir, "@nobody") // is answered behind them
		_, sinks := b.Channel.List()
		if len(sinks) != 2 {
			t.Errorf("%s: there are %d sinks instead of root's and the stranger's", name, len(sinks))
		}
		for _, s := range sinks {
			if s.Patience != "1s" || s.Label == "mine" {
				t.Errorf("%s: %+v", name, s)
			}
		}
		receivesNothing(t, victim, "the socket that the address leads to")
	}
	if n := b.Channel.Status().Registrations["ok"]; n != 2 {
		t.Errorf("%d registrations were good instead of 2", n)
	}
	// From a bound socket of root's, it is root's word.
	if r := brokertest.Register(t, b.Dir, theirs.Name, "patience=1m"); r.Err != nil {
		t.Error(r.Err)
	}
	if r := brokertest.Register(t, b.Dir, theirs.Name, "remove"); r.Err != nil {
		t.Error(r.Err)
	}
	if r := registerAs(t, b.Dir, stranger, nil, sink.Name, "patience=1m"); codeOf(r.Err) != wire.CodeDenied {
		t.Errorf("%+v", r)
	}
}
