// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/broker/control"
	"github.com/msgmux/msgmux/internal/test"
)

// TestHugeCallsAreNotTakenIn, whatever they are: they are answered with an error, and take no memory.
func TestHugeCallsAreNotTakenIn(t *testing.T) {
	eachBus(t, func(t *testing.T, d *daemon) {
		b := brokertest.Start(t)
		show(t, d, b)
		o := object(t, d.connect())
		huge := strings.Repeat("x", 10<<20)
		calls := func() {
			for _, call := range []*dbus.Call{
				o.Call(iface+".DropSink", 0, huge),
				o.Call(iface+".ListSinks", 0, huge),
				o.Call(iface+".Explode", 0, make([]uint64, 1<<20)),
				o.Call("org.freedesktop.DBus.Properties.Get", 0, huge, huge),
			} {
				if got := errorName(call.Err); got != "org.freedesktop.DBus.Error.LimitsExceeded" {
					t.Errorf("%s: got %q", call.Method, got)
				}
			}
			// One that wants no answer gets none, and the next call has its own.
			o.Call(iface+".DropSink", dbus.FlagNoReplyExpected, huge)
			var sinks []sink
			if err := o.Call(iface+".ListSinks", 0).Store(&sinks); err != nil {
				t.Error(err)
			}
			// Just under the limit: it comes in, and names no sink.
			if got := errorName(o.Call(iface+".DropSink", 0, huge[:60<<10]).Err); got != iface+".Error.NotFound" {
				t.Errorf("got %.100q", got)
			}
		}
		// All that a broker and a bus have are there when they have been called once.
		calls()
		before := goroutines()
		calls()
		test.Eventually(t, "no goroutines are left", func() bool { return goroutines() <= before+3 })
	})
}

func goroutines() int { return runtime.NumGoroutine() }

// TestFloodOfCallsDelaysNobody: many clients call as fast as they can, and one hears signals and reads none.
func TestFloodOfCallsDelaysNobody(t *testing.T) {
	eachBus(t, func(t *testing.T, d *daemon) {
		b := brokertest.Start(t)
		show(t, d, b)
		object(t, d.connect())
		deaf := d.connect()
		if err := deaf.AddMatchSignal(dbus.WithMatchObjectPath(control.BusPath)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var callers []*dbus.Conn // all of them before the bus is full
		for range 8 {
			callers = append(callers, d.connect())
		}
		stop := flood(t, b)
		for _, conn := range callers {
			go func() {
				target := conn.Object(control.BusName(""), control.BusPath)
				calls := make(chan *dbus.Call, 1<<16)
				for ctx.Err() == nil {
					target.GoWithContext(ctx, iface+".ListSinks", 0, calls)
					for len(calls) > 1000 {
						<-calls
					}
				}
			}()
		}
		most := 0
		for range 20 {
			time.Sleep(50 * time.Millisecond)
			most = max(most, goroutines())
		}
		n, gap := stop()
		cancel()
		t.Logf("%d messages, at most %v between two; %d goroutines", n, gap, most)
		if n < 100 || gap > slow*time.Second {
			t.Errorf("%d messages, %v between two", n, gap)
		}
	})
}
