// SPDX-License-Identifier: Apache-2.0

package main

// What the doctor says of the bridges to other hosts, msgmux-nats(8).

import (
	"context"
	"strings"

	"github.com/coreos/go-systemd/v22/dbus"
)

// bridgeUnits are the units of bridges, whatever channel they are of.
var bridgeUnits = []string{"msgmux-nats-out@*.service", "msgmux-nats-in@*.service"}

// bridgeState is what systemd says of a bridge.
type bridgeState struct {
	unit, active string
	says         string // what the bridge says of itself
	status       int32  // that it has ended with
	restarts     uint32
}

// bridges looks at those of this host; none has a user's own service manager.
func (p *patient) bridges(ctx context.Context, conn *dbus.Conn) (findings []finding) {
	if p.units.user {
		return nil
	}
	units, err := conn.ListUnitsByPatternsContext(ctx, nil, bridgeUnits)
	if err != nil {
		return nil // that nobody answers is said already
	}
	for _, u := range units {
		properties, err := conn.GetUnitTypePropertiesContext(ctx, u.Name, "Service")
		if err != nil {
			continue
		}
		findings = append(findings, judgeBridge(bridgeState{u.Name, u.ActiveState, property[string](properties, "StatusText"),
			property[int32](properties, "ExecMainStatus"), property[uint32](properties, "NRestarts")}, p.lastLine(u.Name)))
	}
	return findings
}

// bridgeEnds are the statuses that a person has to do something about, msgmux-nats(8).
var bridgeEnds = map[int32]string{
	2: "mend its settings", 3: "make the stream, or name it in the settings", 4: "make room in the stream", 5: "set the stream up as the line says",
	6: "decide what is to become of its place: docs/admin/bridge.md", 7: "see who writes on its subject", 8: "stop the other bridge of that name",
	9: "see its credentials, its certificates and its groups", 10: "raise max_payload of the servers, or --max-message",
}

// judgeBridge says how a bridge is; said is its last line in the log.
func judgeBridge(b bridgeState, said string) finding {
	name := strings.TrimSuffix(b.unit, ".service")
	see := "systemctl status " + b.unit
	switch do, known := bridgeEnds[b.status]; {
	case b.active == "active" && strings.HasPrefix(b.says, "joined"):
		return found(name, good, "", "%s", b.says)
	case b.active == "active":
		return found(name, poor, "see whether the servers and the channel are there; it waits for them: "+see, "not joined: %s", b.says)
	case b.active == "inactive":
		return found(name, poor, "systemctl start "+b.unit, "it does not run")
	case known:
		return found(name, bad, do+", then it goes on by itself, or with systemctl start "+b.unit, "it has ended with status %d: %s", b.status, said)
	}
	return found(name, bad, see, "it is %s, after %s: %s", b.active, plural(uint64(b.restarts), "restart"), said)
}
