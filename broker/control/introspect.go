// SPDX-License-Identifier: Apache-2.0

package control

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"

	"github.com/msgmux/msgmux/internal/wire"
)

// introspection is how the object describes itself (D-Bus specification, "Introspection Data Format"). The properties
// come from their table.
var introspection = `<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
<node name="` + BusPath + `">
  <interface name="` + BusInterface + `">
    <!-- Each sink: id, label, kind, state, user, share, patience, messages accepted, lost and waiting, lag in bytes,
         when it was added in seconds since 1970. -->
    <method name="ListSinks">
      <arg name="sinks" type="a(tsssussttttx)" direction="out"/>
    </method>
    <!-- The sink: its label, or its id as "#12". -->
    <method name="DropSink">
      <arg name="sink" type="s" direction="in"/>
    </method>
    <!-- The patience: a duration as in "1.5s", or "forever". -->
    <method name="SetPatience">
      <arg name="sink" type="s" direction="in"/>
      <arg name="patience" type="s" direction="in"/>
    </method>
    <signal name="SinkAdded">
      <arg name="id" type="t"/>
      <arg name="label" type="s"/>
      <arg name="kind" type="s"/>
      <arg name="user" type="u"/>
    </signal>
    <signal name="SinkRemoved">
      <arg name="id" type="t"/>
      <arg name="label" type="s"/>
      <arg name="lost" type="t"/>
      <arg name="abandoned" type="t"/>
    </signal>
    <signal name="SinkLagging">
      <arg name="id" type="t"/>
      <arg name="label" type="s"/>
      <arg name="lost" type="t"/>
      <arg name="waiting" type="t"/>
    </signal>
    <signal name="SinkRecovered">
      <arg name="id" type="t"/>
      <arg name="label" type="s"/>
      <arg name="lost" type="t"/>
      <arg name="waiting" type="t"/>
    </signal>
` + describeProperties() + `  </interface>
  <interface name="` + propertiesInterface + `">
    <method name="Get">
      <arg name="interface" type="s" direction="in"/>
      <arg name="property" type="s" direction="in"/>
      <arg name="value" type="v" direction="out"/>
    </method>
    <method name="GetAll">
      <arg name="interface" type="s" direction="in"/>
      <arg name="properties" type="a{sv}" direction="out"/>
    </method>
    <method name="Set">
      <arg name="interface" type="s" direction="in"/>
      <arg name="property" type="s" direction="in"/>
      <arg name="value" type="v" direction="in"/>
    </method>
    <signal name="PropertiesChanged">
      <arg name="interface" type="s"/>
      <arg name="changed" type="a{sv}"/>
      <arg name="invalidated" type="as"/>
    </signal>
  </interface>
  <interface name="` + introspectableInterface + `">
    <method name="Introspect">
      <arg name="data" type="s" direction="out"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Peer">
    <method name="Ping"/>
    <method name="GetMachineId">
      <arg name="id" type="s" direction="out"/>
    </method>
  </interface>
</node>
`

func describeProperties() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		p := properties[name]
		kind := dbus.SignatureOfType(reflect.TypeOf(p.value(new(wire.Status)))).String()
		b.WriteString(`    <property name="` + name + `" type="` + kind + `" access="read">
      <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="` + p.changes + `"/>
    </property>
`)
	}
	return b.String()
}
