// SPDX-License-Identifier: Apache-2.0

package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/msgmux/msgmux/internal/wire"
)

// What the channel is called on a bus. The interface and the default channel have the same name, as is usual; the
// channel NAME is NAME._NAME, with an underscore because a part of a bus name may not begin with a digit.
//
// Policies cannot know the names of all channels, and not every bus takes a rule for all names that begin alike. So each
// channel also stands in the queue for one name that all have in common, and for which a rule is enough: it holds for
// all connections that have the name or wait for it.
const (
	BusInterface = "io.github.msgmux.Channel1"
	BusPath      = "/io/github/msgmux/Channel1"
	commonName   = "io.github.msgmux"
)

// BusName is the well-known name of a channel; "" is the default one.
func BusName(channel string) string {
	if channel == "" {
		return BusInterface
	}
	return BusInterface + "._" + channel
}

// Where the buses are, unless the environment says otherwise.
const systemBus = "unix:path=/run/dbus/system_bus_socket"

// SystemBus is the address of the host's bus.
func SystemBus() string { return cmp.Or(os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"), systemBus) }

// SessionBus is the address of the user's bus.
func SessionBus() string {
	return cmp.Or(os.Getenv("DBUS_SESSION_BUS_ADDRESS"), "unix:path="+os.Getenv("XDG_RUNTIME_DIR")+"/bus")
}

const (
	retryFirst = 100 * time.Millisecond // how soon the bus is tried again at first
	retryLast  = 30 * time.Second       // and at last
	// greetPatience bounds everything from the connection to the name.
	greetPatience = 10 * time.Second
	// eventRoom is how many events may wait for the bus.
	eventRoom = 256
	// propertyPause is the least time between two signals about properties.
	propertyPause = 200 * time.Millisecond
)

// Watched is a channel whose events can be had.
type Watched interface {
	Commands
	// Watch returns a channel of events, how many were dropped because it was full, and what ends it.
	Watch(room int) (events <-chan wire.Event, dropped func() uint64, stop func())
}

// Bus shows a channel on D-Bus. The bus may be absent, slow, stopped or full: that is its own affair.
type Bus struct {
	address string
	name    string
	channel Watched
	log     *slog.Logger

	patience time.Duration // busPatience
	pace     pace
	refusals int // how often the name could not be had, in a row
	sinks    uint32
	lagging  uint32
}

// NewBus makes an object of a channel for the bus at that address. Nothing is connected before Run.
func NewBus(address, channelName string, c Watched, log slog.Handler) (*Bus, error) {
	if _, _, err := busAddress(address); err != nil {
		return nil, err
	}
	return &Bus{address: address, name: BusName(channelName), channel: c, log: slog.New(log), patience: busPatience}, nil
}

// busAddress takes the first address that can be used from a list of them (D-Bus specification, "Server Addresses").
func busAddress(list string) (network, name string, err error) {
	for one := range strings.SplitSeq(list, ";") {
		transport, keys, _ := strings.Cut(one, ":")
		if transport != "unix" {
			continue
		}
		for pair := range strings.SplitSeq(keys, ",") {
			key, value, _ := strings.Cut(pair, "=")
			value, err := url.PathUnescape(value)
			if err != nil || value == "" {
				continue
			}
			switch key {
			case "path":
				return "unix", value, nil
			case "abstract":
				return "unix", "@" + value, nil
			}
		}
	}
	return "", "", fmt.Errorf("cannot use the bus address %q: it needs unix:path=PATH or unix:abstract=NAME", list)
}

// Run keeps the object on the bus until ctx ends.
func (b *Bus) Run(ctx context.Context) {
	events, dropped, stop := b.channel.Watch(eventRoom)
	defer stop()
	for wait := retryFirst; ctx.Err() == nil; wait = min(2*wait, retryLast) {
		served, err := b.connect(ctx, events, dropped)
		if served {
			wait = retryFirst
		}
		if ctx.Err() == nil {
			b.log.Debug("not on the bus", "event", eventBus, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// errName is a bus that does not let us have our name: a thing to be told, unlike a bus that is not there.
var errName = errors.New("cannot have the name")

// connect is one connection, from its beginning to its end. served: the object could be called.
func (b *Bus) connect(ctx context.Context, events <-chan wire.Event, dropped func() uint64) (served bool, err error) {
	_, name, err := busAddress(b.address)
	if err != nil {
		return false, err
	}
	dialer := net.Dialer{Timeout: greetPatience}
	socket, err := dialer.DialContext(ctx, "unix", name)
	if err != nil {
		return false, err
	}
	// Not conn.Close: it waits for whoever is sending, which only the end of the socket ends.
	defer context.AfterFunc(ctx, func() { socket.Close() })()
	defer socket.Close()
	socket.SetReadDeadline(time.Now().Add(greetPatience))

	var conn *dbus.Conn
	conn, err = dbus.NewConn(newLink(socket, b.patience, &b.pace, func(sender string, serial uint32, why string) { refuse(conn, sender, serial, why) }))
	if err != nil {
		return false, err
	}
	defer func() { socket.Close(); conn.Close() }()
	o := object{bus: b, conn: conn}
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
		return false, err
	}
	if err := conn.Hello(); err != nil {
		return false, err
	}
	if err := o.export(); err != nil {
		return false, err
	}
	// What was before the name is told nobody; what comes after it is told, to those who saw the name and listen.
	for len(events) > 0 {
		<-events
	}
	b.sinks, b.lagging = o.counts()
	reply, err := conn.RequestName(b.name, dbus.NameFlagDoNotQueue)
	if err == nil && reply != dbus.RequestNameReplyPrimaryOwner && reply != dbus.RequestNameReplyAlreadyOwner {
		err = errors.New("another connection has it")
	}
	if err != nil {
		if conn.Connected() {
			b.sayRefused(err)
		}
		return false, fmt.Errorf("%w %s: %w", errName, b.name, err)
	}
	if _, err := conn.RequestName(commonName, 0); err != nil {
		b.log.Debug("the bus has its own rules for names", "event", eventBus, "name", commonName, "error", err)
	}
	b.refusals = 0
	socket.SetReadDeadline(time.Time{})
	b.tell(ctx, &o, events, dropped)
	return true, errors.New("the connection has ended")
}

// sayRefused tells once that the bus does not give us our name. The first refusal may come of our own connection before,
// whose end a bus that stood still has yet to see.
func (b *Bus) sayRefused(err error) {
	if b.refusals++; b.refusals == 2 {
		b.log.Warn("the bus does not let the channel have its name", "event", eventBus, "name", b.name, "error", err)
	}
}

// tell makes signals of events until the connection ends. It may block on the bus; events that find no room meanwhile
// are dropped.
func (b *Bus) tell(ctx context.Context, o *object, events <-chan wire.Event, dropped func() uint64) {
	missed := dropped()
	tick := time.NewTicker(propertyPause)
	defer tick.Stop()
	for changed := false; ; {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-o.conn.Context().Done():
			return
		case e := <-events:
			err, changed = o.signal(e), true
		case <-tick.C:
			if n := dropped(); changed || n != missed {
				missed, changed = n, false
				err = b.properties(o)
			}
		}
		if err != nil {
			return
		}
	}
}

// properties tells of those properties that have changed.
func (b *Bus) properties(o *object) error {
	sinks, lagging := o.counts()
	changed := make(map[string]dbus.Variant)
	if sinks != b.sinks {
		changed["SinkCount"] = dbus.MakeVariant(sinks)
	}
	if lagging != b.lagging {
		changed["LaggingSinkCount"] = dbus.MakeVariant(lagging)
	}
	b.sinks, b.lagging = sinks, lagging
	if len(changed) == 0 {
		return nil
	}
	return o.conn.Emit(BusPath, propertiesInterface+".PropertiesChanged", BusInterface, changed, []string{})
}

// refuse answers a call that was not let through.
func refuse(conn *dbus.Conn, sender string, serial uint32, text string) {
	conn.Send(&dbus.Message{Type: dbus.TypeError, Flags: dbus.FlagNoReplyExpected, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldDestination: dbus.MakeVariant(sender),
		dbus.FieldReplySerial: dbus.MakeVariant(serial),
		dbus.FieldErrorName:   dbus.MakeVariant("org.freedesktop.DBus.Error.LimitsExceeded"),
		dbus.FieldSignature:   dbus.MakeVariant(dbus.SignatureOf(text)),
	}, Body: []any{text}}, nil)
}
