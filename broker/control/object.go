// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/msgmux/msgmux/internal/wire"
)

const (
	propertiesInterface     = "org.freedesktop.DBus.Properties"
	introspectableInterface = "org.freedesktop.DBus.Introspectable"

	// sinkCost is what it takes to write one sink into an answer, about.
	sinkCost = 5 * time.Microsecond
)

// object is what can be called and seen at [BusPath], over one connection.
type object struct {
	bus  *Bus
	conn *dbus.Conn
}

// busSink is one sink in the answer of ListSinks; introspect.go names the fields.
type busSink struct {
	ID                                uint64
	Label, Kind, State                string
	UID                               uint32
	Share, Patience                   string
	Accepted, Lost, Waiting, LagBytes uint64
	Since                             int64
}

// property is one that can be read; all can, and none can be written.
type property struct {
	changes string // EmitsChangedSignal: const, true or false
	value   func(*wire.Status) any
}

var properties = map[string]property{
	"Version":          {"const", func(s *wire.Status) any { return s.Version }},
	"Channel":          {"const", func(s *wire.Status) any { return s.Channel }},
	"RuntimeDirectory": {"const", func(s *wire.Status) any { return s.RuntimeDir }},
	"ProcessID":        {"const", func(s *wire.Status) any { return uint32(s.PID) }},
	"Since":            {"const", func(s *wire.Status) any { return s.SinceUnix }},
	"BufferSize":       {"const", func(s *wire.Status) any { return s.Buffer }},
	"MaxMessageSize":   {"const", func(s *wire.Status) any { return s.MaxMessage }},

	"SinkCount":        {"true", func(s *wire.Status) any { return uint32(s.Sinks.Total) }},
	"LaggingSinkCount": {"true", func(s *wire.Status) any { return uint32(s.Sinks.Lagging) }},

	"StalledSinkCount":      {"false", func(s *wire.Status) any { return uint32(s.Sinks.Stalled) }},
	"AbsentSinkCount":       {"false", func(s *wire.Status) any { return uint32(s.Sinks.Absent) }},
	"SourcesBlocked":        {"false", func(s *wire.Status) any { return s.Sources.Blocked }},
	"BlockedReason":         {"false", func(s *wire.Status) any { return s.Sources.Why }},
	"SourcesBlockedSeconds": {"false", func(s *wire.Status) any { return s.Sources.BlockedSecs }},
	"BufferUsed":            {"false", func(s *wire.Status) any { return s.Used }},
	"Received":              {"false", func(s *wire.Status) any { return s.Received }},
	"Entered":               {"false", func(s *wire.Status) any { return s.Entered }},
	"Accepted":              {"false", func(s *wire.Status) any { return s.Accepted }},
	"Lost":                  {"false", func(s *wire.Status) any { return s.Lost }},
	"Abandoned":             {"false", func(s *wire.Status) any { return s.Abandoned }},
	"Unread":                {"false", func(s *wire.Status) any { return s.Unread }},
	"AsOwn":                 {"false", func(s *wire.Status) any { return s.AsOwn }},
}

// export makes everything callable.
func (o *object) export() error {
	for iface, methods := range map[string]map[string]any{
		BusInterface:            {"ListSinks": o.listSinks, "DropSink": o.dropSink, "SetPatience": o.setPatience},
		propertiesInterface:     {"Get": o.get, "GetAll": o.getAll, "Set": o.set},
		introspectableInterface: {"Introspect": o.introspect},
	} {
		if err := o.conn.ExportMethodTable(methods, BusPath, iface); err != nil {
			return err
		}
	}
	return nil
}

// work charges the bus for the time until the returned function is called.
func (o *object) work() (done func()) {
	began := time.Now()
	return func() { o.bus.pace.charge(time.Since(began)) }
}

func (o *object) listSinks() ([]busSink, *dbus.Error) {
	defer o.work()()
	_, sinks := o.bus.channel.List()
	o.bus.pace.charge(time.Duration(len(sinks)) * sinkCost)
	list := make([]busSink, len(sinks))
	for i := range sinks {
		s := &sinks[i]
		list[i] = busSink{s.ID, s.Label, s.Kind, s.State, s.UID, s.Share, s.Patience, s.Accepted, s.Lost, s.Waiting, s.LagBytes, s.SinceUnix}
	}
	return list, nil
}

func (o *object) dropSink(call dbus.Message, sender dbus.Sender, sink string) *dbus.Error {
	if refusal := wrongTypes(call, "s"); refusal != nil {
		return refusal
	}
	return o.change(sender, wire.Request{Op: wire.OpDrop, Sink: sink})
}

func (o *object) setPatience(call dbus.Message, sender dbus.Sender, sink, patience string) *dbus.Error {
	if refusal := wrongTypes(call, "ss"); refusal != nil {
		return refusal
	}
	return o.change(sender, wire.Request{Op: wire.OpSet, Sink: sink, Patience: patience})
}

// wrongTypes refuses a call whose arguments have other types. The library would convert them as Go does: the number 12
// to the character 12.
func wrongTypes(call dbus.Message, want string) *dbus.Error {
	got, _ := call.Headers[dbus.FieldSignature].Value().(dbus.Signature)
	if got.String() == want {
		return nil
	}
	return dbus.NewError("org.freedesktop.DBus.Error.InvalidArgs", []any{"the arguments have the types " + want + ", not " + got.String()})
}

// change carries out what changes a sink, on behalf of the user that the bus names.
func (o *object) change(sender dbus.Sender, q wire.Request) *dbus.Error {
	defer o.work()()
	ctx, cancel := context.WithTimeout(context.Background(), greetPatience)
	defer cancel()
	var uid uint32
	err := o.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionUnixUser", 0, string(sender)).Store(&uid)
	if err != nil {
		return failure(wire.Refuse(wire.CodeDenied, "the bus does not say who asks: %v", err))
	}
	if refusal := change(o.bus.channel, uid, q); refusal != nil {
		return failure(refusal)
	}
	return nil
}

// failure is a refusal as an error of the bus: the code not-found is io.github.msgmux.Channel1.Error.NotFound.
func failure(e *wire.Error) *dbus.Error {
	name := []byte(BusInterface + ".Error.")
	for word := range strings.SplitSeq(e.Code, "-") {
		if word != "" {
			name = append(append(name, strings.ToUpper(word[:1])...), word[1:]...)
		}
	}
	return dbus.NewError(string(name), []any{e.Text})
}

func (o *object) get(call dbus.Message, iface, name string) (dbus.Variant, *dbus.Error) {
	defer o.work()()
	if refusal := wrongTypes(call, "ss"); refusal != nil {
		return dbus.Variant{}, refusal
	}
	p, ok := properties[name]
	if refusal := knownInterface(iface); refusal != nil {
		return dbus.Variant{}, refusal
	}
	if !ok {
		return dbus.Variant{}, dbus.NewError("org.freedesktop.DBus.Error.UnknownProperty", []any{"there is no property " + name})
	}
	st := o.bus.channel.Status()
	return dbus.MakeVariant(p.value(&st)), nil
}

func (o *object) getAll(call dbus.Message, iface string) (map[string]dbus.Variant, *dbus.Error) {
	defer o.work()()
	if refusal := wrongTypes(call, "s"); refusal != nil {
		return nil, refusal
	}
	if refusal := knownInterface(iface); refusal != nil {
		return nil, refusal
	}
	st := o.bus.channel.Status()
	all := make(map[string]dbus.Variant, len(properties))
	for name, p := range properties {
		all[name] = dbus.MakeVariant(p.value(&st))
	}
	return all, nil
}

func (o *object) set(_, name string, _ dbus.Variant) *dbus.Error {
	return dbus.NewError("org.freedesktop.DBus.Error.PropertyReadOnly", []any{"the property " + name + " can only be read"})
}

// knownInterface refuses an interface without properties; "" stands for whichever has the property.
func knownInterface(name string) *dbus.Error {
	if name == "" || name == BusInterface {
		return nil
	}
	return dbus.NewError("org.freedesktop.DBus.Error.UnknownInterface", []any{"there are no properties of " + name})
}

func (o *object) introspect() (string, *dbus.Error) { return introspection, nil }

// counts are the properties that are told when they change.
func (o *object) counts() (sinks, lagging uint32) {
	st := o.bus.channel.Status()
	return uint32(st.Sinks.Total), uint32(st.Sinks.Lagging)
}

// signal tells everybody on the bus about an event.
func (o *object) signal(e wire.Event) error {
	emit := func(name string, values ...any) error { return o.conn.Emit(BusPath, BusInterface+"."+name, values...) }
	switch e.Kind {
	case wire.EventAdded:
		return emit("SinkAdded", e.ID, e.Label, e.SinkKind, e.UID)
	case wire.EventRemoved:
		return emit("SinkRemoved", e.ID, e.Label, e.Lost, e.Waiting)
	case wire.EventLagging:
		return emit("SinkLagging", e.ID, e.Label, e.Lost, e.Waiting)
	case wire.EventRecovered:
		return emit("SinkRecovered", e.ID, e.Label, e.Lost, e.Waiting)
	}
	return nil
}
