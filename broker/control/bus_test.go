// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/introspect"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/broker/control"
	"github.com/msgmux/msgmux/internal/test"
)

const iface = control.BusInterface

// newBus is the channel of a broker, for a bus; its log is the test's and more.
func newBus(t testing.TB, d *daemon, b *brokertest.Broker, more ...io.Writer) *control.Bus {
	t.Helper()
	log := io.MultiWriter(append(more, t.Output())...)
	bus, err := control.NewBus(d.address, "", b.Channel, slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if err != nil {
		t.Fatal(err)
	}
	return bus
}

// show puts the channel of a broker on a bus until the test ends.
func show(t testing.TB, d *daemon, b *brokertest.Broker) { run(t, newBus(t, d, b)) }

func run(t testing.TB, bus *control.Bus) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); bus.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

// object is the channel's, seen by a client. It waits until it is there.
func object(t testing.TB, conn *dbus.Conn) dbus.BusObject {
	t.Helper()
	test.Eventually(t, "the channel has its name", func() bool { return owned(conn) })
	return conn.Object(control.BusName(""), control.BusPath)
}

func owned(conn *dbus.Conn) (yes bool) {
	conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, control.BusName("")).Store(&yes)
	return yes
}

// sink is a row of ListSinks.
type sink struct {
	ID                                uint64
	Label, Kind, State                string
	UID                               uint32
	Share, Patience                   string
	Accepted, Lost, Waiting, LagBytes uint64
	Since                             int64
}

// errorName is what an error of the bus is called, "" for none.
func errorName(err error) string {
	if e, ok := errors.AsType[dbus.Error](err); ok {
		return e.Name
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// TestBusShowsTheChannel and lets it be changed.
func TestBusShowsTheChannel(t *testing.T) {
	eachBus(t, func(t *testing.T, d *daemon) {
		b := brokertest.Start(t)
		show(t, d, b)
		o := object(t, d.connect())
		var sinks []sink
		if err := o.Call(iface+".ListSinks", 0).Store(&sinks); err != nil || len(sinks) != 0 {
			t.Fatalf("got %v and %v", sinks, err)
		}
		one := brokertest.NewSink(t, b.Dir, "label=one", "patience=2s")
		brokertest.NewSink(t, b.Dir, "label=two", "share=pair")
		source := brokertest.NewSource(t, b.Dir)
		for range 3 {
			if err := source.Send([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			if _, err := one.Receive(); err != nil {
				t.Fatal(err)
			}
		}
		test.Eventually(t, "what was received is accounted for", func() bool {
			if err := o.Call(iface+".ListSinks", 0).Store(&sinks); err != nil || len(sinks) != 2 {
				t.Fatalf("got %v and %v", sinks, err)
			}
			return sinks[0].Waiting+sinks[1].Waiting == 0
		})
		slices.SortFunc(sinks, func(a, b sink) int { return strings.Compare(a.Label, b.Label) })
		if s := sinks[0]; s.Label != "one" || s.Kind != "dynamic" || s.State != "ready" || s.UID != uint32(os.Getuid()) ||
			s.Patience != "2s" || s.Accepted != 3 || s.Lost != 0 || s.Since == 0 || s.ID == 0 {
			t.Errorf("got %+v", s)
		}
		if sinks[1].Share != "pair" {
			t.Errorf("got %+v", sinks[1])
		}

		var all map[string]dbus.Variant
		if err := o.Call("org.freedesktop.DBus.Properties.GetAll", 0, iface).Store(&all); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]any{"Received": uint64(3), "SinkCount": uint32(2), "Version": "test", "Channel": "",
			"ProcessID": uint32(os.Getpid()), "SourcesBlocked": false, "BufferSize": uint64(1 << 20)} {
			if got := all[name].Value(); got != want {
				t.Errorf("%s is %v (%T), want %v", name, got, got, want)
			}
			if got, err := o.GetProperty(iface + "." + name); err != nil || got.Value() != want {
				t.Errorf("%s is %v alone, and %v", name, got, err)
			}
		}

		if err := o.Call(iface+".SetPatience", 0, "one", "forever").Err; err != nil {
			t.Error(err)
		}
		if err := o.Call(iface+".DropSink", 0, "two").Err; err != nil {
			t.Error(err)
		}
		_, left := b.Channel.List()
		if len(left) != 1 || left[0].Patience != "forever" {
			t.Errorf("left is %+v", left)
		}

		for _, test := range []struct {
			err  error
			want string
		}{
			{o.Call(iface+".DropSink", 0, "nobody").Err, iface + ".Error.NotFound"},
			{o.Call(iface+".SetPatience", 0, "one", "soon").Err, iface + ".Error.BadOption"},
			{o.Call(iface+".DropSink", 0, uint32(12)).Err, "org.freedesktop.DBus.Error.InvalidArgs"},
			{o.Call(iface+".DropSink", 0).Err, "org.freedesktop.DBus.Error.InvalidArgs"},
			{o.Call(iface+".ListSinks", 0, "all").Err, "org.freedesktop.DBus.Error.InvalidArgs"},
			{o.Call(iface+".Explode", 0).Err, "org.freedesktop.DBus.Error.UnknownMethod"},
			{o.SetProperty(iface+".Lost", dbus.MakeVariant(uint64(0))), "org.freedesktop.DBus.Error.PropertyReadOnly"},
			{o.Call("org.freedesktop.DBus.Properties.Get", 0, iface, "Nothing").Err, "org.freedesktop.DBus.Error.UnknownProperty"},
			{o.Call("org.freedesktop.DBus.Properties.GetAll", 0, "org.example.Nothing").Err, "org.freedesktop.DBus.Error.UnknownInterface"},
			{o.Call("org.freedesktop.DBus.Properties.Get", 0, iface, []string{"Lost"}).Err, "org.freedesktop.DBus.Error.InvalidArgs"},
		} {
			if got := errorName(test.err); got != test.want {
				t.Errorf("got error %q, want %s", got, test.want)
			}
		}
	})
}

// TestBusObjectDescribesItself as it is: each method and property of the description is there, with those types.
func TestBusObjectDescribesItself(t *testing.T) {
	d := startDaemon(t, kinds[0])
	b := brokertest.Start(t)
	show(t, d, b)
	o := object(t, d.connect())
	var text string
	if err := o.Call("org.freedesktop.DBus.Introspectable.Introspect", 0).Store(&text); err != nil {
		t.Fatal(err)
	}
	// The same text is installed, for tools that look before anything runs.
	installed, err := os.ReadFile("../../packaging/dbus/" + iface + ".xml")
	if _, rest, _ := strings.Cut(string(installed), "-->\n"); err != nil || rest != text {
		t.Errorf("packaging/dbus/%s.xml is not what the object says of itself (%v):\n%s", iface, err, text)
	}
	var node introspect.Node
	if err := xml.Unmarshal([]byte(text), &node); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	var all map[string]dbus.Variant
	if err := o.Call("org.freedesktop.DBus.Properties.GetAll", 0, iface).Store(&all); err != nil {
		t.Fatal(err)
	}
	described := 0
	for _, i := range node.Interfaces {
		for _, m := range i.Methods {
			// Without its arguments: whatever the answer is, it must not be that there is no such method.
			if got := errorName(o.Call(i.Name+"."+m.Name, 0).Err); strings.Contains(got, "Unknown") {
				t.Errorf("%s.%s: %s", i.Name, m.Name, got)
			}
		}
		if i.Name != iface {
			continue
		}
		for _, p := range i.Properties {
			described++
			if got := all[p.Name].Signature().String(); got != p.Type || p.Access != "read" {
				t.Errorf("property %s has type %s and not %s, access %s", p.Name, got, p.Type, p.Access)
			}
			counter := slices.Contains([]string{"Received", "Entered", "Accepted", "Lost", "Abandoned", "AsOwn"}, p.Name)
			if len(p.Annotations) != 1 || p.Annotations[0].Name != "org.freedesktop.DBus.Property.EmitsChangedSignal" ||
				counter && p.Annotations[0].Value != "false" {
				t.Errorf("property %s has annotations %v", p.Name, p.Annotations)
			}
		}
		for _, m := range i.Methods {
			if m.Name != "ListSinks" {
				continue
			}
			if got := dbus.SignatureOf([]sink{}).String(); m.Args[0].Type != got {
				t.Errorf("ListSinks gives %s, and the sinks are %s", m.Args[0].Type, got)
			}
		}
		if len(i.Signals) != 4 {
			t.Errorf("%d signals", len(i.Signals))
		}
	}
	if described != len(all) || described == 0 {
		t.Errorf("%d properties are described, %d are there", described, len(all))
	}
}

// nextSignal waits for a signal of that name, and returns what it says.
func nextSignal(t *testing.T, signals <-chan *dbus.Signal, name string) []any {
	t.Helper()
	for timeout := time.After(within); ; {
		select {
		case s := <-signals:
			if s.Name == name {
				return s.Body
			}
		case <-timeout:
			t.Fatalf("no signal %s", name)
		}
	}
}

// TestBusTellsOfSinks as they come, lag, recover and go.
func TestBusTellsOfSinks(t *testing.T) {
	eachBus(t, func(t *testing.T, d *daemon) {
		b := brokertest.Start(t)
		show(t, d, b)
		conn := d.connect()
		object(t, conn)
		if err := conn.AddMatchSignal(dbus.WithMatchObjectPath(control.BusPath)); err != nil {
			t.Fatal(err)
		}
		signals := make(chan *dbus.Signal, 256)
		conn.Signal(signals)
		fast := brokertest.NewSink(t, b.Dir, "label=fast")
		slow := brokertest.NewSink(t, b.Dir, "label=slow", "patience=20ms")
		if body := nextSignal(t, signals, iface+".SinkAdded"); body[1] != "fast" || body[2] != "dynamic" {
			t.Errorf("got %v", body)
		}
		id := nextSignal(t, signals, iface+".SinkAdded")[0]
		body := nextSignal(t, signals, "org.freedesktop.DBus.Properties.PropertiesChanged")
		if changed := body[1].(map[string]dbus.Variant); body[0] != iface || changed["SinkCount"].Value() == nil {
			t.Errorf("got %v", body)
		}
		source := brokertest.NewSource(t, b.Dir)
		go func() {
			for {
				if _, err := fast.ReceiveWithin(time.Minute); err != nil {
					return
				}
			}
		}()
		for b.Channel.Status().Sinks.Lagging == 0 {
			if err := source.Send(make([]byte, 16<<10)); err != nil {
				t.Fatal(err)
			}
		}
		if body := nextSignal(t, signals, iface+".SinkLagging"); body[0] != id || body[1] != "slow" || body[3].(uint64) == 0 {
			t.Errorf("got %v", body)
		}
		for _, err := slow.Receive(); err == nil; {
			_, err = slow.ReceiveWithin(200 * time.Millisecond)
		}
		if body := nextSignal(t, signals, iface+".SinkRecovered"); body[0] != id || body[2].(uint64) == 0 {
			t.Errorf("got %v", body)
		}
		slow.Close()
		if body := nextSignal(t, signals, iface+".SinkRemoved"); body[0] != id || body[1] != "slow" {
			t.Errorf("got %v", body)
		}
	})
}

// flood sends without an end and without a pause through a channel with one sink, until stop, which tells how many
// messages arrived and what was the longest time between two.
func flood(t *testing.T, b *brokertest.Broker) (stop func() (n int, gap time.Duration)) {
	t.Helper()
	in := brokertest.NewSink(t, b.Dir, "label=flooded")
	out := brokertest.NewSource(t, b.Dir)
	ctx, cancel := context.WithCancel(t.Context())
	type result struct {
		n   int
		gap time.Duration
	}
	done := make(chan result, 1)
	go func() {
		for ctx.Err() == nil {
			out.Send(make([]byte, 100))
		}
	}()
	go func() {
		var r result
		last := time.Now()
		for ctx.Err() == nil {
			if _, err := in.Receive(); err != nil {
				break
			}
			r.gap = max(r.gap, time.Since(last))
			last = time.Now()
			r.n++
		}
		done <- result{r.n, r.gap}
	}()
	return func() (int, time.Duration) {
		cancel()
		r := <-done
		in.Close() // a sink that reads no more would be waited for by the next flood
		return r.n, r.gap
	}
}

// TestStoppedBusDelaysNobody stops the bus in the middle of load and of signals, and has it go on again.
func TestStoppedBusDelaysNobody(t *testing.T) {
	eachBus(t, func(t *testing.T, d *daemon) {
		b := brokertest.Start(t)
		show(t, d, b)
		conn := d.connect()
		o := object(t, conn)
		stop := flood(t, b)
		d.signal(syscall.SIGSTOP)
		for range 400 { // signals pile up
			brokertest.NewSink(t, b.Dir).Close()
			if b.Channel.Status().Sinks.Total > 32 {
				time.Sleep(5 * time.Millisecond)
			}
		}
		n, gap := stop()
		d.signal(syscall.SIGCONT)
		t.Logf("%d messages, at most %v between two", n, gap)
		if n < 100 || gap > slow*time.Second {
			t.Errorf("%d messages, %v between two", n, gap)
		}
		// On a slow host the bus may have been stopped for longer than the channel is patient with it. Then the channel has
		// hung up, comes back, and a call that met the old connection is answered by the bus: with an error.
		test.Eventually(t, "answer after it goes on", func() bool {
			var sinks []sink
			err := o.Call(iface+".ListSinks", 0).Store(&sinks)
			if err != nil {
				t.Logf("after it goes on: %v", err)
			}
			return err == nil
		})
	})
}

// TestStoppedBusIsLeft: a bus that stands still for longer than the channel is patient costs the connection, and the
// channel comes back to it by itself.
func TestStoppedBusIsLeft(t *testing.T) {
	eachBus(t, func(t *testing.T, d *daemon) {
		b := brokertest.Start(t)
		said := new(test.Output)
		bus := newBus(t, d, b, said)
		bus.SetPatience(100 * time.Millisecond)
		run(t, bus)
		conn := d.connect()
		o := object(t, conn)
		source := brokertest.NewSource(t, b.Dir)
		d.signal(syscall.SIGSTOP)
		test.Eventually(t, "end of the connection", func() bool {
			brokertest.NewSink(t, b.Dir).Close()
			source.Send([]byte("and the broker sees that it is gone"))
			return strings.Contains(said.String(), "the connection has ended")
		})
		d.signal(syscall.SIGCONT)
		test.Eventually(t, "answer of a new connection", func() bool {
			var sinks []sink
			return o.Call(iface+".ListSinks", 0).Store(&sinks) == nil
		})
	})
}

// TestNameOfAnother: a name that another connection keeps is told once, and not at the first refusal, which may come of the
// channel's own connection before. When the other lets go, the channel has it.
func TestNameOfAnother(t *testing.T) {
	eachBus(t, func(t *testing.T, d *daemon) {
		other := d.connect()
		if _, err := other.RequestName(control.BusName(""), dbus.NameFlagDoNotQueue); err != nil {
			t.Fatal(err)
		}
		said := new(test.Output)
		run(t, newBus(t, d, brokertest.Start(t), said))
		const refusal = "level=DEBUG msg=\"not on the bus\""
		test.Eventually(t, "three refusals", func() bool { return strings.Count(said.String(), refusal) >= 3 })
		first, rest, _ := strings.Cut(said.String(), refusal)
		if n := strings.Count(rest, "WARN"); strings.Contains(first, "WARN") || n != 1 {
			t.Errorf("told %d times, or at once:\n%s", n, said)
		}
		other.Close()
		object(t, d.connect())
	})
}

// TestBusMayComeAndGo: absent at first, then there, then killed and started again.
func TestBusMayComeAndGo(t *testing.T) {
	eachBus(t, func(t *testing.T, d *daemon) {
		d.stop()
		b := brokertest.Start(t)
		show(t, d, b)
		stop := flood(t, b)
		time.Sleep(300 * time.Millisecond)
		for range 2 {
			d.start()
			conn := d.connect()
			o := object(t, conn)
			var sinks []sink
			if err := o.Call(iface+".ListSinks", 0).Store(&sinks); err != nil || len(sinks) != 1 {
				t.Errorf("got %v and %v", sinks, err)
			}
			d.stop()
		}
		if n, gap := stop(); n < 100 || gap > slow*time.Second {
			t.Errorf("%d messages, %v between two", n, gap)
		}
	})
}

// TestFullBusDelaysNobody: a bus that takes no more connections is as one that is not there, until somebody leaves.
func TestFullBusDelaysNobody(t *testing.T) {
	d := startDaemon(t, "dbus-daemon")
	d.stop()
	d.limits = `<limit name="max_completed_connections">2</limit>`
	d.start()
	stays, leaves := d.connect(), d.connect()
	b := brokertest.Start(t)
	show(t, d, b)
	stop := flood(t, b)
	time.Sleep(500 * time.Millisecond)
	if owned(stays) {
		t.Error("the bus is not full")
	}
	leaves.Close()
	object(t, stays)
	if n, gap := stop(); n < 100 || gap > slow*time.Second {
		t.Errorf("%d messages, %v between two", n, gap)
	}
}
