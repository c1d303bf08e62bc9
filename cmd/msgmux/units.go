// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	bus "github.com/godbus/dbus/v5"

	msgmux "github.com/msgmux/msgmux/client"
)

// channelUnits are the units that a channel is made of, by the folder it is in, and what their systemd says of them.
type channelUnits struct {
	instance  string // "" for the default channel
	user      bool   // of a user's own systemd
	unmanaged bool   // the folder is none that units have

	storeMax uint64 // FileDescriptorStoreMax=, once it was looked at
}

func unitsOf(c msgmux.Channel) channelUnits {
	parent, folder := filepath.Split(c.RuntimeDir)
	// Only what is the name of a channel: it becomes a part of the names and texts of units.
	name := channelFolder.FindStringSubmatch(folder)
	switch {
	case name != nil && filepath.Clean(parent) == "/run":
		return channelUnits{instance: name[1]}
	case name != nil && name[1] == "" && os.Getenv("XDG_RUNTIME_DIR") != "" && filepath.Clean(parent) == filepath.Clean(os.Getenv("XDG_RUNTIME_DIR")):
		return channelUnits{user: true}
	}
	return channelUnits{unmanaged: true}
}

// name is such as msgmux-source.socket, or msgmux-source@web.socket.
func (u channelUnits) name(part, kind string) string {
	if part != "" {
		part = "-" + part
	}
	if u.instance != "" {
		part += "@" + u.instance
	}
	return "msgmux" + part + "." + kind
}

// nameOr is the name of the service or target, or another if there is none.
func (u channelUnits) nameOr(kind, other string) string {
	if u.unmanaged {
		return other
	}
	return u.name("", kind)
}

// userFlag is what systemctl and journalctl need to mean the systemd of the units, with a space before it.
func (u channelUnits) userFlag() string {
	if u.user {
		return " --user"
	}
	return ""
}

// flags are those that have a command mean the channel of the units, each with a space before it.
func (u channelUnits) flags() string {
	switch {
	case u.user:
		return " --user"
	case u.instance != "":
		return " -c " + u.instance
	}
	return ""
}

// systemctl begins a command line for the systemd of the units.
func (u channelUnits) systemctl() string { return "systemctl" + u.userFlag() }

// socketHold is a holder's, in the channel's folder (package activation/hold).
const socketHold = ".hold"

// booted is there on a host that systemd runs (sd_booted(3)). Tests have another.
var booted = "/run/systemd/system"

// errNoSystemd is a host that systemd does not run (sd_booted(3)).
var errNoSystemd = errors.New("systemd does not run this host: there is no /run/systemd/system")

// systemdAnswers bounds every conversation with systemd.
const systemdAnswers = 30 * time.Second

// connect connects to the systemd that the units belong to.
func (u channelUnits) connect(ctx context.Context) (*dbus.Conn, error) {
	if _, err := os.Stat(booted); err != nil {
		return nil, errNoSystemd
	}
	var conn *dbus.Conn
	var err error
	if u.user {
		conn, err = dbus.NewConnection(func() (*bus.Conn, error) { return dialUserSystemd(ctx) })
	} else {
		conn, err = dbus.NewWithContext(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot reach systemd: %w", err)
	}
	return conn, nil
}

// dialUserSystemd connects to the user's own systemd as systemctl --user does: there need not be a bus for users.
func dialUserSystemd(ctx context.Context) (*bus.Conn, error) {
	path := filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "systemd/private")
	conn, err := bus.Dial("unix:path="+bus.EscapeBusAddressValue(path), bus.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	if err := conn.Auth([]bus.Auth{bus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// examineUnits asks systemd for the units, and for what it grants the broker.
func (p *patient) examineUnits() []finding {
	const name = "units"
	u := &p.units
	if u.unmanaged {
		if _, err := os.Stat(filepath.Join(p.channel.RuntimeDir, socketHold)); err == nil {
			return []finding{found(name, good, "", "none: a holder, msgmuxd --hold, keeps what is in %s", p.channel.RuntimeDir)}
		}
		return []finding{found(name, good, "", "none: %s was started by hand, and a kill of its broker loses what it holds; msgmuxd --hold keeps it", p.channel.RuntimeDir)}
	}
	ctx, cancel := context.WithTimeout(context.Background(), systemdAnswers)
	defer cancel()
	conn, err := u.connect(ctx)
	if errors.Is(err, errNoSystemd) {
		return []finding{found(name, poor, "start a broker by hand: msgmuxd --runtime-dir DIR; then msgmux doctor --runtime-dir DIR", "%v", err)}
	}
	if err != nil {
		return []finding{found(name, poor, "be root, or see whether D-Bus runs", "%v", err)}
	}
	defer conn.Close()
	findings := p.judgeUnits(u.lookAt(ctx, conn))
	findings = append(findings, p.restarts(ctx, conn)...)
	findings = append(findings, p.paths(ctx, conn)...)
	findings = append(findings, p.descriptorStore(ctx, conn))
	findings = append(findings, p.bridges(ctx, conn)...)
	return append(findings, p.consumers(ctx, conn)...)
}

// descriptorStore is where the ring and the sinks outlive the broker.
func (p *patient) descriptorStore(ctx context.Context, conn *dbus.Conn) finding {
	const name = "fd store"
	u := &p.units
	service := u.name("", "service")
	properties, err := conn.GetUnitTypePropertiesContext(ctx, service, "Service")
	if err != nil {
		return found(name, poor, "see what "+u.systemctl()+" status "+service+" says", "not known: %v", err)
	}
	most, _ := properties["FileDescriptorStoreMax"].(uint32)
	held, _ := properties["NFileDescriptorStore"].(uint32)
	u.storeMax = uint64(most)
	// What the broker asks for at its start: one for each sink and client, and its own.
	sinks, clients := uint64(4096), uint64(1024) // the defaults
	if p.status != nil {
		sinks = p.status.MaxSinks
		clients = cmp.Or(p.status.MaxClients, clients) // a broker that is older than this program does not tell
	}
	need := sinks + clients + 8
	preserve, known := properties["FileDescriptorStorePreserve"].(string) // from systemd 254 on
	if uint64(most) < need {
		then := "the broker does not start"
		if !known { // such a systemd does not tell the broker
			then = "a restart loses the sinks that find no room"
		}
		return found(name, bad, fmt.Sprintf("FileDescriptorStoreMax=%d in a drop-in: %s edit %s", need+1024, u.systemctl(), service),
			"it takes %d descriptors, and %d sinks and %d clients may need %d: %s", most, sinks, clients, need, then)
	}
	// The two files of a broker that runs, and the sinks that have registered or connected. Sources have theirs there, too, and
	// so has what watches the store.
	if p.status != nil {
		if least := 2 + uint64(p.status.Sinks.Dynamic); uint64(held) < least {
			return found(name, bad, "see what the broker says of it: journalctl -u "+service+" MSGMUX_EVENT=descriptor-store; it stores again what is missing within a minute",
				"%d of %d, and the ring and the sinks are %d: a restart or a crash loses what is missing", held, most, least)
		}
	}
	if !known {
		return found(name, good, "", "%d of %d; this systemd keeps them over a restart, and not over a stop", held, most)
	}
	if preserve != "yes" {
		return found(name, poor, "FileDescriptorStorePreserve=yes in a drop-in: "+u.systemctl()+" edit "+service, "%d of %d; a stop of %s gives up what it holds", held, most, service)
	}
	return found(name, good, "", "%d of %d; kept over restarts and stops", held, most)
}
