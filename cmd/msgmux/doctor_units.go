// SPDX-License-Identifier: Apache-2.0

package main

// What the doctor says of the units of a channel.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	bus "github.com/godbus/dbus/v5"

	"github.com/msgmux/msgmux/internal/wire"
)

// unitState is what systemd says of a unit.
type unitState struct {
	name                 string
	load, active, sub    string
	problem              string // why it could not be loaded
	fragment             string
	dropIns              []string
	denied               bool // nobody may look
	restarts, mainStatus uint64
	result               string
}

// property reads one of a D-Bus answer; the zero value if it has none of that kind.
func property[T any](properties map[string]any, name string) (value T) {
	value, _ = properties[name].(T)
	return value
}

// optionalSockets are those that an administrator may have enabled.
var optionalSockets = []string{"metrics", "mq"}

// lookAt asks systemd for the units of a channel: the target, the sockets, and the service last.
func (u *channelUnits) lookAt(ctx context.Context, conn *dbus.Conn) (all []unitState) {
	names := []string{u.name("", "target")}
	for _, socket := range wire.Sockets {
		names = append(names, u.name(socket, "socket"))
	}
	for _, socket := range optionalSockets {
		name := u.name(socket, "socket")
		if properties, err := conn.GetUnitPropertiesContext(ctx, name); err == nil && properties["UnitFileState"] == "enabled" {
			names = append(names, name)
		}
	}
	for _, name := range append(names, u.name("", "service")) {
		s := unitState{name: name}
		properties, err := conn.GetUnitPropertiesContext(ctx, name)
		if err != nil {
			var refusal bus.Error
			s.denied = errors.As(err, &refusal) && refusal.Name == "org.freedesktop.DBus.Error.AccessDenied"
		}
		s.load, s.active, s.sub = property[string](properties, "LoadState"), property[string](properties, "ActiveState"), property[string](properties, "SubState")
		s.fragment, s.dropIns = property[string](properties, "FragmentPath"), property[[]string](properties, "DropInPaths")
		if why := property[[]any](properties, "LoadError"); len(why) == 2 {
			s.problem, _ = why[1].(string)
		}
		all = append(all, s)
	}
	service := &all[len(all)-1]
	if properties, err := conn.GetUnitTypePropertiesContext(ctx, service.name, "Service"); err == nil {
		service.restarts, service.mainStatus = uint64(property[uint32](properties, "NRestarts")), uint64(property[int32](properties, "ExecMainStatus"))
		service.result = property[string](properties, "Result")
	}
	return all
}

// files names those that a unit is made of, the one first that an administrator has most probably changed.
func (s unitState) files() string {
	all := slices.Clone(s.dropIns)
	slices.Reverse(all)
	if s.fragment != "" {
		all = append(all, s.fragment)
	}
	return strings.Join(all, ", ")
}

// judgeUnits says how the units are: all in one finding if they are well, else the worst.
func (p *patient) judgeUnits(all []unitState) []finding {
	const name = "units"
	u, service := &p.units, all[len(all)-1]
	ctl := u.systemctl()
	var missing, idle []string
	for _, s := range all {
		switch {
		case s.denied:
			return []finding{found(name, poor, "be root", "systemd does not let you look at %s", s.name)}
		case s.load == "masked":
			return []finding{found(name, bad, ctl+" unmask "+s.name+", then "+ctl+" start "+s.name, "%s is masked: it cannot be started", s.name)}
		case s.load == "bad-setting" || s.load == "error":
			again := ctl + " restart " + s.name
			switch {
			case strings.HasSuffix(s.name, ".target"): // which would take all sockets along
				again = ctl + " start " + s.name
			case strings.HasSuffix(s.name, ".socket"): // which is refused beside a running broker, and leaves it stopped
				again = ctl + " stop " + s.name + " && " + ctl + " restart " + service.name + "; what is queued in this socket is lost"
			}
			return []finding{found(name, bad, "systemd-analyze"+u.userFlag()+" verify "+s.name+" says what is wrong with it; mend "+s.files()+", then "+ctl+" daemon-reload, "+
				again, "%s cannot be loaded: %s", s.name, s.problem)}
		case s.load != "loaded":
			missing = append(missing, s.name)
		case s.active != "active" && s.name != service.name:
			idle = append(idle, s.name)
		}
	}
	target := all[0]
	switch {
	case len(missing) > 0:
		return []finding{found(name, bad, "install the package, or copy units/ and run "+ctl+" daemon-reload", "not there: %s", strings.Join(missing, ", "))}
	case service.active == "failed" || service.active == "activating" && service.restarts > 0:
		return []finding{p.cannotStart(service)}
	case len(idle) > 0 && target.active != "active":
		return []finding{found(name, bad, ctl+" enable --now "+target.name+" "+service.name, "%s", states(all))}
	case len(idle) > 0 && service.active == "active":
		// systemd starts no socket of a service that runs; started anew, the service brings its sockets along.
		return []finding{found(name, bad, ctl+" restart "+service.name+", which starts them and loses nothing", "%s, beside a broker that runs", states(all))}
	case len(idle) > 0:
		return []finding{found(name, bad, ctl+" start "+strings.Join(append(idle, service.name), " "), "%s", states(all))}
	case service.active != "active":
		return []finding{found(name, poor, ctl+" enable --now "+service.name+"; or send a message, which starts it", "%s is %s, the sockets listen", service.name, service.active)}
	}
	return []finding{found(name, good, "", "%s, its sockets and its broker are active", target.name)}
}

// states says of each unit that is not active what it is instead.
func states(all []unitState) string {
	var each []string
	for _, s := range all {
		if s.active != "active" {
			each = append(each, s.name+" is "+s.active)
		}
	}
	return strings.Join(each, ", ")
}

// cannotStart is a broker that ends before it is ready, again and again.
func (p *patient) cannotStart(s unitState) finding {
	said := p.lastLine(s.name)
	if said == "" {
		said = fmt.Sprintf("%s, status %d", s.result, s.mainStatus)
	}
	ctl := p.units.systemctl()
	return found("units", bad, fmt.Sprintf("mend what it is told by %s (%s edit %s), then %s restart %s", s.files(), ctl, s.name, ctl, s.name),
		"%s cannot start, after %s: %s", s.name, plural(s.restarts+1, "attempt"), said)
}

// lastLine is the last that a unit has said of its own in this boot; "" if there is none, or nobody may read it.
func (p *patient) lastLine(unit string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	field := "_SYSTEMD_UNIT="
	arguments := []string{"--boot", "--quiet", "--no-pager", "--output=cat", "--lines=1"}
	if p.units.user {
		field, arguments = "_SYSTEMD_USER_UNIT=", append(arguments, "--user")
	}
	out, err := exec.CommandContext(ctx, "journalctl", append(arguments, field+unit)...).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// manyRestarts of a broker that runs are worth a look while it has not run for long.
const (
	manyRestarts = 3
	runsWell     = time.Hour
)

// restarts tells of a broker that systemd has had to start again and again.
func (p *patient) restarts(ctx context.Context, conn *dbus.Conn) []finding {
	service := p.units.name("", "service")
	properties, err := conn.GetUnitTypePropertiesContext(ctx, service, "Service")
	n := property[uint32](properties, "NRestarts")
	began := time.UnixMicro(int64(property[uint64](properties, "ExecMainStartTimestamp")))
	if err != nil || p.status == nil || n < manyRestarts || time.Since(began) > runsWell {
		return nil
	}
	return []finding{found("restarts", poor, "journalctl"+p.units.userFlag()+" --catalog --unit "+service+" says why",
		"the broker has ended by itself %d times, last %s ago", n, roughly(time.Since(began)))}
}

// paths looks for the sockets where clients look for them.
func (p *patient) paths(ctx context.Context, conn *dbus.Conn) (findings []finding) {
	u := &p.units
	for _, socket := range wire.Sockets {
		unit := u.name(socket, "socket")
		state, err := conn.GetUnitPropertiesContext(ctx, unit)
		if err != nil || state["ActiveState"] != "active" {
			continue // that is said already
		}
		want := filepath.Join(p.channel.RuntimeDir, socket)
		listens := listens(ctx, conn, unit)
		renew := fmt.Sprintf("%s stop %s && %s restart %s; what is queued in it is lost, and senders that are connected have to connect again", u.systemctl(), unit, u.systemctl(), u.name("", "service"))
		if socket != wire.SocketSource && len(listens) > 1 {
			findings = append(findings, found(unit, bad, fmt.Sprintf("leave %s alone, in %s edit %s", want, u.systemctl(), unit),
				"it listens at %s: there is one %s socket, and no broker starts with two", strings.Join(listens, ", "), socket))
			continue
		}
		if len(listens) > 0 && !slices.Contains(listens, want) {
			findings = append(findings, found(unit, bad, fmt.Sprintf("ListenDatagram= or ListenSequentialPacket= is for %s: %s edit %s, then %s", want, u.systemctl(), unit, renew),
				"it listens at %s, where no client looks", strings.Join(listens, ", ")))
			continue
		}
		if _, err := os.Lstat(want); errors.Is(err, fs.ErrNotExist) {
			findings = append(findings, found(unit, bad, renew, "it listens, and somebody has removed its file: nobody can reach %s", want))
		}
		for _, path := range listens {
			if socket == wire.SocketSource && path != want && p.status != nil && !p.receivesFrom(path) {
				findings = append(findings, found(unit, bad, renew, "it says that it listens at %s as well, and the broker does not receive from there", path))
			}
		}
	}
	return findings
}

// receivesFrom says whether the broker that runs receives from a socket for sources at that path.
func (p *patient) receivesFrom(path string) bool {
	return slices.ContainsFunc(p.status.Sources.Sockets, func(s wire.SourceSocket) bool { return s.Path == path })
}

// listens are the addresses of a socket unit.
func listens(ctx context.Context, conn *dbus.Conn, unit string) (addresses []string) {
	properties, err := conn.GetUnitTypePropertiesContext(ctx, unit, "Socket")
	if err != nil {
		return nil
	}
	for _, pair := range property[[][]any](properties, "Listen") {
		if len(pair) == 2 {
			if address, ok := pair[1].(string); ok {
				addresses = append(addresses, address)
			}
		}
	}
	return addresses
}

// toSeeTheBroker is what to do when there is no broker to be looked at.
func (p *patient) toSeeTheBroker() string {
	control := filepath.Join(p.channel.RuntimeDir, "control")
	switch {
	case errors.Is(p.silence, fs.ErrPermission):
		return "be root, or in the group of " + control
	case p.units.unmanaged:
		return "start a broker: msgmuxd --runtime-dir " + p.channel.RuntimeDir
	}
	return "is it running? " + p.units.systemctl() + " status " + p.units.name("", "service")
}

// msgmux begins a command line for the channel.
func (p *patient) msgmux() string {
	if p.units.unmanaged {
		return "msgmux --runtime-dir " + p.channel.RuntimeDir
	}
	return "msgmux" + p.units.flags()
}
