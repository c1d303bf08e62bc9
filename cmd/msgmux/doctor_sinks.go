// SPDX-License-Identifier: Apache-2.0

package main

// What the doctor says of static sinks and of the services behind them.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/wire"
)

// consumers looks at the services that read the sinks whose sockets systemd holds.
func (p *patient) consumers(ctx context.Context, conn *dbus.Conn) (findings []finding) {
	units, err := conn.ListUnitsByPatternsContext(ctx, nil, []string{"*.socket"})
	if err != nil {
		return nil // of the channel's own units it is said why
	}
	labels := socketsOf(p.sinks).byName
	folder := filepath.Join(p.channel.RuntimeDir, "sinks") + "/"
	for _, unit := range units {
		for _, address := range listens(ctx, conn, unit.Name) {
			name, ok := labels[address]
			if !ok {
				name, ok = strings.CutPrefix(address, folder) // the broker may not know it, or not run
			}
			if ok {
				said := p.consumer(ctx, conn, name, unit)
				findings = append(findings, said...)
				p.explained = append(p.explained, names(said)...)
			}
		}
	}
	return findings
}

func names(findings []finding) (all []string) {
	for _, f := range findings {
		all = append(all, f.Name)
	}
	return all
}

// consumer looks at one of them. A service that systemd gives up takes its socket along, and what is queued there.
func (p *patient) consumer(ctx context.Context, conn *dbus.Conn, sink string, socket dbus.UnitStatus) []finding {
	name, ctl := "sink "+visible(sink), p.units.systemctl()
	properties, err := conn.GetUnitPropertiesContext(ctx, socket.Name)
	triggers := property[[]string](properties, "Triggers")
	if err != nil || len(triggers) == 0 {
		return nil
	}
	service := triggers[0]
	if slices.Contains(triggers, p.units.name("", "service")) && len(triggers) > 1 {
		service = triggers[1-slices.Index(triggers, p.units.name("", "service"))] // it is handed over to the broker as well
	}
	state, err := conn.GetUnitPropertiesContext(ctx, service)
	if err != nil {
		return nil
	}
	switch {
	case socket.ActiveState == "failed":
		again := fmt.Sprintf("%s reset-failed %s %s; %s start %s %s", ctl, socket.Name, service, ctl, socket.Name, service)
		return []finding{found(name, bad, fmt.Sprintf("journalctl%s --unit %s says why; then %s", p.units.userFlag(), service, again),
			"%s and with it %s have failed: what was queued there is lost", service, socket.Name)}
	case socket.ActiveState == "inactive" && state["ActiveState"] == "active":
		// What becomes of a restart of the socket alone, which systemd refuses.
		return []finding{found(name, bad, fmt.Sprintf("%s stop %s && %s start %s %s", ctl, service, ctl, socket.Name, service),
			"%s is inactive, beside %s, which still reads the old socket: nothing new comes there", socket.Name, service)}
	case socket.ActiveState == "inactive":
		return nil // stopped by somebody; if it is missed, the sink is absent
	case state["LoadState"] != "loaded":
		return []finding{found(name, bad, "write it, and "+ctl+" daemon-reload; see sd_listen_fds(3)", "%s, that reads it, is %v", service, state["LoadState"])}
	}
	const cure = "StartLimitIntervalSec=0 in [Unit], Restart=on-failure and RestartSec=500ms in [Service]: %s edit %s"
	if property[uint64](state, "StartLimitIntervalUSec") != 0 {
		return []finding{found(name, poor, fmt.Sprintf(cure, ctl, service), "systemd gives %s up after %d failures in a row, and what is queued for it is lost then",
			service, property[uint32](state, "StartLimitBurst"))}
	}
	trigger, _ := conn.GetUnitTypePropertiesContext(ctx, socket.Name, "Socket")
	kind, _ := conn.GetUnitTypePropertiesContext(ctx, service, "Service")
	if property[uint64](trigger, "TriggerLimitIntervalUSec") != 0 && kind["Restart"] == "no" {
		return []finding{found(name, poor, fmt.Sprintf(cure, ctl, service), "%s fails if %s ends often, and what is queued in it is lost then", socket.Name, service)}
	}
	return nil
}

// anySink is how to have a sink that takes messages, for now or for good.
func (p *patient) anySink() string {
	advice := p.msgmux() + " sub prints what comes"
	if !p.units.unmanaged && !p.units.user {
		advice += ", systemctl enable --now " + p.units.name("discard", "service") + " throws it away and counts it, for good"
	}
	return advice
}

// hasOther says whether a sink beside the one with that label takes messages, so that the channel need not wait for that one.
func (p *patient) hasOther(label string) bool {
	return slices.ContainsFunc(p.sinks, func(k wire.Sink) bool {
		return k.Label != label && !k.Tap && k.State != "absent" && k.State != "lagging"
	})
}

// holders says which processes hold the socket of a sink, in parentheses behind its name: also one that has inherited it and does not
// know. "" if that is not known.
func (p *patient) holders(label string) string {
	e := p.ends()
	if e == nil {
		return ""
	}
	if held := e.holders(label); held != "" {
		return " (" + held + ")"
	}
	return ""
}

// circle is found where the program of a sink that is waited for sends to the channel that it reads. It may be waiting for itself.
func (p *patient) circle(label string, v verdict) (finding, bool) {
	e := p.ends()
	if e == nil {
		return finding{}, false
	}
	who := e.circle(label)
	if who == "" {
		return finding{}, false
	}
	return found("sources", v, "have it log, or send, elsewhere than into the channel that it reads; restarting it helps until the next time",
		"they have waited for the sink %s for %s: its program %s sends to this channel too, so that it may wait for itself",
		label, roughly(seconds(p.status.Sources.ForSeconds)), who), true
}

// ends are the programs at both ends of the channel, nil if the kernel does not tell.
func (p *patient) ends() *ends {
	e, err := endsOf(p.status.RuntimeDir, p.sinks)
	if err != nil {
		return nil
	}
	return e
}

// absent says why nobody is at a static sink, as far as its path tells, or how long one is kept that has no path.
func (p *patient) absent(k wire.Sink) finding {
	name := "sink " + visible(k.Label)
	if k.Kind == "framed" {
		until := "without end"
		if k.KeptUntil > 0 {
			until = "for " + roughly(time.Until(time.Unix(k.KeptUntil, 0))) + " more"
		}
		return found(name, poor, fmt.Sprintf("start its program, which comes back under this name; or %s sinks drop '%s', which forgets it", p.msgmux(), visible(k.Label)),
			"it went %s ago, and its place is kept %s", roughly(time.Since(time.Unix(k.AbsentSince, 0))), until)
	}
	info, err := os.Stat(k.Address)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if target, err := os.Readlink(k.Address); err == nil {
			return found(name, poor, "start what binds it, or remove the link", "nobody is at %s: it leads to %s, which is not there", k.Address, target)
		}
		return found(name, poor, fmt.Sprintf("start what binds it, %s if that was it; or %s sinks drop '%s', which forgets it", p.units.sinkUnit(filepath.Base(k.Address)), p.msgmux(), visible(k.Label)),
			"nobody is at %s: it is not there", k.Address)
	case err != nil:
		return found(name, poor, "run the doctor as root", "nobody is at %s: %v", k.Address, err)
	case info.IsDir() || info.Mode().IsRegular() && !strings.HasPrefix(k.Address, "/dev/mqueue/") && !leadsToQueue(k.Address):
		return found(name, poor, "put a datagram socket, a message queue or a link to one there", "nobody is at %s: it is %s", k.Address, kindOf(info))
	case !p.brokerMayWrite(info):
		return found(name, poor, "chown msgmux and mode 0600, or for a queue chgrp msgmux and mode 0620, which SocketUser=, SocketGroup= and SocketMode= of its unit say",
			"nobody is at %s: with its mode %v the broker may not write to it", k.Address, info.Mode().Perm())
	}
	return found(name, poor, "start its program, which is to bind a datagram socket there; journalctl"+p.units.userFlag()+" --unit "+p.units.nameOr("service", "msgmux.service")+" says what was tried",
		"nobody is at %s: it is there, and nobody receives from it", k.Address)
}

// sinkUnit is the name of the socket unit of a static sink.
func (u channelUnits) sinkUnit(sink string) string {
	place, _ := placeOf(msgmux.Channel{}, channelUnits{instance: u.instance}, sink)
	return place.unit
}

func leadsToQueue(path string) bool {
	target, err := filepath.EvalSymlinks(path)
	return err == nil && strings.HasPrefix(target, "/dev/mqueue/")
}

func kindOf(info fs.FileInfo) string {
	if info.IsDir() {
		return "a folder"
	}
	return "a file"
}

// brokerMayWrite judges by mode and owner, for a broker that is msgmux. Of another, and of folders on the way, it says nothing.
func (p *patient) brokerMayWrite(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	account, err := user.Lookup("msgmux")
	if !ok || err != nil || p.units.user || p.units.unmanaged {
		return true
	}
	switch {
	case account.Uid == strconv.Itoa(int(st.Uid)):
		return st.Mode&0o200 != 0
	case account.Gid == strconv.Itoa(int(st.Gid)):
		return st.Mode&0o020 != 0
	}
	return st.Mode&0o002 != 0
}
