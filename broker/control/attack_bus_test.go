// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/broker/control"
)

// TestBusComesBackFromAFlood: somebody sends calls as fast as the bus takes them, and does not wait for answers. Others are
// heard meanwhile, in some of their tries, and all is well again in seconds, however much was sent. Each call that is taken
// up costs a millisecond of rest, so that resting from all of them would take minutes.
func TestBusComesBackFromAFlood(t *testing.T) {
	eachBus(t, func(t *testing.T, d *daemon) {
		b := brokertest.Start(t)
		show(t, d, b)
		other, flooding := d.connect(), d.connect()
		o := object(t, other)
		const calls = 60_000
		var heard atomic.Int32
		tries := 0
		stop, counted := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(counted)
			for {
				select {
				case <-stop:
					return
				default:
				}
				tries++
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				if o.CallWithContext(ctx, iface+".ListSinks", 0).Err == nil {
					heard.Add(1)
				}
				cancel()
				time.Sleep(20 * time.Millisecond)
			}
		}()
		began := time.Now()
		flood := func() {
			flooding.Send(&dbus.Message{Type: dbus.TypeMethodCall, Flags: dbus.FlagNoReplyExpected, Headers: map[dbus.HeaderField]dbus.Variant{
				dbus.FieldDestination: dbus.MakeVariant(control.BusName("")),
				dbus.FieldPath:        dbus.MakeVariant(dbus.ObjectPath(control.BusPath)),
				dbus.FieldInterface:   dbus.MakeVariant(iface),
				dbus.FieldMember:      dbus.MakeVariant("ListSinks"),
			}}, nil)
		}
		for range calls {
			flood()
		}
		t.Logf("%d calls sent in %v", calls, time.Since(began))
		for n := 1; heard.Load() < 3; n++ { // it goes on, so that there is time for others
			if flood(); n%1000 == 0 {
				time.Sleep(10 * time.Millisecond)
			}
			if time.Since(began) > 2*within {
				t.Fatalf("others were heard %d times in %v", heard.Load(), 2*within)
			}
		}
		began = time.Now()
		answered := make(chan error, 1)
		go func() {
			// From the connection that flooded, behind all of its calls, so that there is no way round them.
			for {
				// Of the calls that are passed over, only so many in a second are told.
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				err := flooding.Object(control.BusName(""), control.BusPath).CallWithContext(ctx, iface+".ListSinks", 0).Err
				cancel()
				if err == nil || !errors.Is(err, context.DeadlineExceeded) && errorName(err) != "org.freedesktop.DBus.Error.LimitsExceeded" {
					answered <- err
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		}()
		select {
		case err := <-answered:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(2 * within):
			t.Fatalf("not back %v after %d calls", 2*within, calls)
		}
		t.Logf("back after %v", time.Since(began))
		close(stop)
		<-counted
		t.Logf("others were heard %d times of %d", heard.Load(), tries)
	})
}

// TestBusIsSharedBySender: one that calls all the time does not use up what others have.
func TestBusIsSharedBySender(t *testing.T) {
	d := startDaemon(t, kinds[0])
	b := brokertest.Start(t)
	show(t, d, b)
	greedy, modest := object(t, d.connect()), object(t, d.connect())
	refused := 0
	const together = 10 // so that it calls all the time, however slow this machine is at letting it see answers
	for range 2000 / together {
		calls := make(chan *dbus.Call, together)
		for range together {
			greedy.Go(iface+".ListSinks", 0, calls)
		}
		for range together {
			if err := (<-calls).Err; errorName(err) == "org.freedesktop.DBus.Error.LimitsExceeded" {
				refused++
				if err := modest.Call(iface+".ListSinks", 0).Err; err != nil {
					t.Fatalf("another is refused, too: %v", err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if refused >= 5 {
			return
		}
	}
	t.Errorf("of 2000 calls %d were refused", refused)
}
