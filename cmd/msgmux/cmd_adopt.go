// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/spf13/cobra"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// adoptOptions are the flags of adopt.
type adoptOptions struct {
	name, to  string
	dry, undo bool
}

func adoptCommand(where *location) *cobra.Command {
	var o adoptOptions
	cmd := &cobra.Command{
		Use:   "adopt PATH",
		Short: "take over a path that programs already write to",
		Long: `Make PATH, a datagram socket that programs write to already, a source of the
channel, and the program that has read there a static sink: so nothing has to
be changed in those that write.

This writes a socket unit for PATH, with the owner and mode that it has, a
drop-in that hands it to the broker, and a link among the static sinks, which
leads to the path where the old reader is to receive from now on: PATH.behind,
or --to. It prints them, restarts the broker, which loses nothing, and tells what
has to be changed in the reader. Until that is done the sink is absent: messages
wait for it as for any sink, and others get them.

Programs that are connected to the old socket reach the old reader until that
ends, and have to connect again.

It takes over /dev/log only where the sink of last resort, msgmux-discard.service,
is enabled and runs: what logs there would stand still when no sink takes its
messages, and with it the host. The journal is the static sink then and need not
be told anything. The other sockets of journald it refuses.

--undo takes all of it back. Then the reader is to receive at PATH again.`,
		Example: `  msgmux adopt /run/statsd/statsd.sock --dry-run
  msgmux adopt /run/statsd/statsd.sock --to /run/statsd/agent.sock
  msgmux adopt /run/statsd/statsd.sock --undo`,
		Args:              one("which PATH do the programs write to?"),
		ValidArgsFunction: cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault),
		RunE: func(_ *cobra.Command, args []string) error {
			channel, err := where.locate()
			if err != nil {
				return err
			}
			a, err := planAdoption(channel, args[0], &o)
			switch {
			case err != nil:
				return err
			case o.undo:
				return a.undo()
			}
			return a.carryOut(o.dry)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.to, "to", "", "`PATH` where the old reader is to receive from now on")
	flags.StringVar(&o.name, "name", "", "`NAME` of the sink that the old reader is; default: from PATH")
	flags.BoolVar(&o.dry, "dry-run", false, "print what would be done, and do nothing")
	flags.BoolVar(&o.undo, "undo", false, "take it back")
	completeFiles(cmd, "to")
	return cmd
}

// adoption is what is done to take a path over.
type adoption struct {
	channel msgmux.Channel
	units   channelUnits
	path    string // that programs write to
	hosts   bool   // it is where the whole host logs
	behind  string // where the old reader is to receive
	name    string // the sink that it is
	unit    string // the socket unit
	link    string // the entry among the static sinks
	files   []plannedFile
	reader  reader
}

// reader is who receives at the path now.
type reader struct {
	processes []string // name[pid]
	unit      string   // "" if that is not known
	preserve  string   // the name of its folder in /run, which goes when it stops, and the path with it
	sockets   int      // that are bound to the path; of more than one, the file is that of the last
}

// adoptedBy begins each file that adopt writes; --undo takes nothing away that does not begin so.
const adoptedBy = "# Made by: msgmux adopt "

// plainPath is a path that means the same in a unit, in tmpfiles.d and in a shell.
var plainPath = regexp.MustCompile(`^(/[A-Za-z0-9._@:+-]+)+$`)

// accessLines are how a unit says who may write to its socket.
var accessLines = regexp.MustCompile(`(?m)(^Socket(Mode|User|Group)=.*\n)+`)

// planAdoption decides what is to be written, or taken back.
func planAdoption(channel msgmux.Channel, path string, o *adoptOptions) (*adoption, error) {
	a := &adoption{channel: channel, units: unitsOf(channel), path: path, hosts: path == devLog, behind: cmp.Or(o.to, path+".behind")}
	if a.hosts {
		a.behind = journalsDevLog
	}
	switch {
	case a.hosts && o.to != "":
		return nil, usagef("--to: the reader of %s is the journal, at %s", devLog, journalsDevLog)
	case a.units.unmanaged:
		return nil, usagef("%s is no channel of systemd's: msgmuxd --runtime-dir %s --source %s, and a link in %s to where the old reader receives then",
			channel.RuntimeDir, channel.RuntimeDir, path, filepath.Join(channel.RuntimeDir, "sinks"))
	case a.units.user:
		return nil, usagef("a path is adopted for a channel of the host, not for a user's own")
	}
	for _, p := range []string{a.path, a.behind} {
		switch {
		case !plainPath.MatchString(p) || filepath.Clean(p) != p:
			return nil, usagef("the path %q: an absolute one, of letters, digits and ._@:+- between the slashes", p)
		case len(p) > wire.MaxSocketPath:
			return nil, usagef("the path %s has %d bytes, a socket's has at most %d", p, len(p), wire.MaxSocketPath)
		}
	}
	switch {
	case a.behind == a.path:
		return nil, usagef("--to %s is the path itself: the old reader has to receive elsewhere", a.behind)
	case strings.HasPrefix(a.path, channel.RuntimeDir+"/"):
		return nil, usagef("%s is in the channel's own folder", a.path)
	}
	a.name = cmp.Or(o.name, strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)))
	if err := checkSinkName(a.name); err != nil {
		return nil, err
	}
	prefix := "msgmux"
	if a.units.instance != "" {
		prefix += "." + a.units.instance
	}
	a.unit = prefix + "-adopted@" + a.name + ".socket"
	a.link = filepath.Join(channel.RuntimeDir, "sinks", a.name)
	a.files = []plannedFile{
		{path: filepath.Join("/etc/systemd/system", a.unit)},
		{path: filepath.Join("/etc/systemd/system", a.units.name("", "service")+".d", strings.TrimSuffix(a.unit, ".socket")+".conf")},
		{path: filepath.Join("/etc/tmpfiles.d", prefix+"-adopted-"+a.name+".conf")},
	}
	if o.undo {
		return a, a.isMade()
	}
	return a, a.look()
}

const (
	// devLog is where the whole host logs, by syslog(3).
	devLog = "/dev/log"
	// journalsDevLog is where the journal receives that: a link leads there.
	journalsDevLog = "/run/systemd/journal/dev-log"
)

// refuseHostsOwn refuses the sockets of systemd itself: journald's above all, whose programs wait for room. Of these it lets pass
// devLog alone, if it leads to the journal or was made by adopt, and the channel's sink of last resort is there now and after the next
// boot.
func refuseHostsOwn(units channelUnits, path string, made bool) error {
	last, real := units.name("discard", "service"), path
	if target, err := filepath.EvalSymlinks(path); err == nil {
		real = target
	}
	const own = "/run/systemd/"
	switch {
	case path == devLog && (real == journalsDevLog || made):
		if err := lasts(units, last); err != nil {
			return fmt.Errorf("%s is where the whole host logs: programs stand still when no sink takes their messages, and so would logins and systemd's own services; "+
				"it wants a sink of last resort: systemctl enable --now %s (%w)", path, last, err)
		}
		return nil
	case path == devLog, real == journalsDevLog, real == own+"journal/socket", real == own+"journal/stdout":
		return fmt.Errorf("%s is where the whole host logs, and cannot be taken over; %s can, where it leads to %s and there is a sink of last resort (%s)",
			path, devLog, journalsDevLog, last)
	case strings.HasPrefix(real, own) && real != own+"journal/syslog":
		return fmt.Errorf("%s is systemd's own", path)
	case real != path:
		return usagef("%s is a link: adopt %s, to which it leads", path, real)
	}
	return nil
}

// lasts says whether a unit runs, and will after the next boot.
func lasts(units channelUnits, unit string) error {
	ctx, cancel := context.WithTimeout(context.Background(), systemdAnswers)
	defer cancel()
	conn, err := units.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	p, err := conn.GetUnitPropertiesContext(ctx, unit)
	if err != nil {
		return fmt.Errorf("cannot ask for %s: %w", unit, err)
	}
	if is, file := property[string](p, "ActiveState"), property[string](p, "UnitFileState"); is != "active" || file != "enabled" {
		return fmt.Errorf("it is %s and %s", is, cmp.Or(file, "not installed"))
	}
	return nil
}

// look decides by what is at the path now: who may write to it, and who reads.
func (a *adoption) look() error {
	made, unmade := os.ReadFile(a.files[0].path)
	if err := refuseHostsOwn(a.units, a.path, unmade == nil); err != nil {
		return err
	}
	header := adoptedBy + a.path + " --to " + a.behind + "\n"
	if unmade == nil && !bytes.HasPrefix(made, []byte(header)) {
		return fmt.Errorf("%s is there already, for another path or another --to: --undo that first, or choose another --name", a.files[0].path)
	}
	access, err := a.access(made)
	if err != nil {
		return err
	}
	if a.reader, err = readerOf(a.path); err != nil {
		return err
	}
	service, order, after := a.units.name("", "service"), "", "RemoveOnStop=yes\n"
	if a.hosts {
		// After what makes the link that this takes the place of, and with who takes what nobody else does.
		order = "After=systemd-journald-dev-log.socket\nWants=" + a.units.name("discard", "service") + "\n"
		// In place of RemoveOnStop=, which systemd does while the command runs already: it would remove the link.
		after = "ExecStopPost=/bin/ln -sfn " + journalsDevLog + " " + devLog + "\n"
	}
	a.files[0].text = fmt.Appendf(nil, `%s[Unit]
Description=Path that programs write to, adopted by a message channel
Documentation=man:msgmux(1)
PartOf=%s
%sStartLimitIntervalSec=0

[Socket]
ListenDatagram=%s
%sFileDescriptorName=source
Service=%s
%sTriggerLimitIntervalSec=0

[Install]
WantedBy=sockets.target %s
`, header, a.units.name("", "target"), order, a.path, access, service, after, a.units.name("", "target"))
	a.files[1].text = fmt.Appendf(nil, "%s[Service]\nSockets=%s\n", header, a.unit)
	a.files[2].text = fmt.Appendf(nil, "%sL+ %s - - - - %s\n", header, a.link, a.behind)
	return nil
}

// access says in a unit's lines who may write to the path: as the unit of an earlier adoption has it, since the socket is systemd's
// then, or another reader's that was bound over it; else as the socket has it that is there.
func (a *adoption) access(made []byte) (string, error) {
	info, err := os.Lstat(a.path)
	missing := errors.Is(err, fs.ErrNotExist)
	switch found := accessLines.Find(made); {
	case a.hosts:
		return "SocketMode=0666\n", nil // as the journal's own
	case err != nil && !missing:
		return "", fmt.Errorf("cannot look at the path: %w", err)
	case !missing && info.Mode().Type() != fs.ModeSocket:
		return "", fmt.Errorf("%s is no socket", a.path)
	case found != nil:
		return string(found), nil
	case missing:
		return "SocketMode=0660\nSocketGroup=msgmux-send\n", nil // as the channel's own
	}
	owner, _ := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("SocketMode=%04o\nSocketUser=%d\nSocketGroup=%d\n", info.Mode().Perm(), owner.Uid, owner.Gid), nil
}

// readerOf finds who receives at a path. Nobody is no error.
func readerOf(path string) (r reader, err error) {
	diag, err := sys.NewSockDiag()
	if err != nil {
		return r, fmt.Errorf("cannot find out who reads there: %w", err)
	}
	defer diag.Close()
	var inodes []uint32
	file, there := sys.SocketFileAt(path)
	stream := false
	err = diag.Dump(sys.AllStates, func(s sys.UnixSocket) bool {
		if s.Name == path || there && s.BoundFile() == file { // it may have been bound by another path
			inodes = append(inodes, s.Inode)
			stream = stream || s.Type != syscall.SOCK_DGRAM
		}
		return true
	})
	switch {
	case err != nil:
		return r, fmt.Errorf("cannot find out who reads there: %w", err)
	case stream:
		return r, fmt.Errorf("programs connect to %s and write a stream: a source of a channel takes datagrams", path)
	}
	r.sockets = len(inodes)
	for _, owners := range ownersOf(inodes) {
		for _, o := range owners {
			r.processes, r.unit = append(r.processes, o.String()), unitOf(o.pid)
		}
	}
	if len(r.processes) != 1 {
		r.unit = ""
	}
	return r, nil
}

// askSystemd finds out whether the path goes with its reader: what is in RuntimeDirectory= is removed when a service stops
// (systemd.exec(5)).
func (r *reader) askSystemd(ctx context.Context, conn *dbus.Conn, path string) {
	if !strings.HasSuffix(r.unit, ".service") {
		return
	}
	p, err := conn.GetUnitTypePropertiesContext(ctx, r.unit, "Service")
	if err != nil || property[string](p, "RuntimeDirectoryPreserve") == "yes" {
		return
	}
	for _, folder := range property[[]string](p, "RuntimeDirectory") {
		if strings.HasPrefix(path, "/run/"+folder+"/") {
			r.preserve = folder
		}
	}
}

// String names the reader.
func (r *reader) String() string {
	switch who := strings.Join(r.processes, ", "); {
	case who == "":
		return "nobody receives there now; what is to get the messages"
	case r.unit != "":
		return who + " of " + r.unit
	default:
		return who
	}
}

// steps tells what is done, in order, and what is left to the administrator.
func (a *adoption) steps() (doing, left []string) {
	doing = []string{
		fmt.Sprintf("%s becomes a source of the channel; the broker is restarted, which loses nothing", a.path),
		fmt.Sprintf("%s becomes the static sink %s: %s leads to it", a.behind, a.name, a.link),
	}
	if a.hosts {
		left = append(left, fmt.Sprintf("left to you: to the journal everything comes from the broker, and has the broker's rate limit, unless it may pass the senders' "+
			"credentials on: credentials=pass for the sink %s, see docs/admin/credentials.md", a.name))
		return doing, left
	}
	left = append(left, fmt.Sprintf("left to you: %s has to receive at %s instead, and to be restarted; until then the sink %s is absent", &a.reader, a.behind, a.name))
	if a.reader.preserve != "" {
		left = append(left, fmt.Sprintf("left to you: %s removes /run/%s when it stops, and %s with it: RuntimeDirectoryPreserve=yes in a drop-in, systemctl edit %s",
			a.reader.unit, a.reader.preserve, a.path, a.reader.unit))
	}
	if len(a.reader.processes) > 0 {
		left = append(left, fmt.Sprintf("left to you: then 'msgmux adopt %s' once more: many programs remove their socket's file when they end, which is the channel's now", a.path))
	}
	return doing, left
}

// carryOut tells, writes, and has systemd and the broker act on it. What was written is removed when that fails.
func (a *adoption) carryOut(dry bool) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), systemdAnswers)
	defer cancel()
	conn, connected := a.units.connect(ctx)
	if connected == nil {
		defer conn.Close()
		a.reader.askSystemd(ctx, conn, a.path)
	}
	if err := printFiles(a.files); err != nil {
		return err
	}
	doing, left := a.steps()
	for _, step := range doing {
		say("%s", step)
	}
	if !dry {
		if connected != nil {
			return connected
		}
		if err := a.make(ctx, conn); err != nil {
			return err
		}
	}
	for _, step := range left {
		say("%s", step)
	}
	return nil
}

// make does it.
func (a *adoption) make(ctx context.Context, conn *dbus.Conn) error {
	written, err := writeFiles(a.files, false)
	if err != nil {
		removeAgain(written) // of which systemd has not heard
		if errors.Is(err, errOtherText) {
			err = fmt.Errorf("%w: --undo what was adopted before, or move the file away", err)
		}
		return err
	}
	did := deeds{written: written}
	if err := a.act(ctx, conn, &did); err != nil {
		a.takeBack(conn, &did)
		return err
	}
	return nil
}

// deeds are what an attempt has done so far. What an earlier one did is not among it, and is not taken back.
type deeds struct {
	written []string // files and links
	stopped bool     // the socket, which the broker's restart brings back
	acted   bool     // the broker was restarted, or was to be
}

// act makes the sink, and has systemd and the broker act on the files.
func (a *adoption) act(ctx context.Context, conn *dbus.Conn, did *deeds) error {
	if target, there := os.Readlink(a.link); there != nil || target != a.behind {
		if err := os.Symlink(a.behind, a.link); err != nil {
			return fmt.Errorf("cannot make the sink %s: %w", a.name, err)
		}
		did.written = append(did.written, a.link)
	}
	if err := reload(ctx, conn); err != nil {
		return err
	}
	links, err := enable(ctx, conn, a.files[0].path)
	did.written = append(did.written, links...)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(a.path); err != nil || a.reader.sockets > 1 {
		// Adopted before, and the old reader has removed the file, or bound another: the restart makes it anew.
		did.stopped = true
		if err := runJob(ctx, conn, "stop", a.unit); err != nil {
			return err
		}
	}
	did.acted = true
	if err := a.restart(ctx, conn); err != nil {
		return err
	}
	did.stopped = false
	return a.await(ctx, true)
}

// takeBack undoes what an attempt has done. Its context may be what has ended, so it has none.
func (a *adoption) takeBack(conn *dbus.Conn, did *deeds) {
	ctx := context.Background()
	first := slices.Contains(did.written, a.files[0].path)
	if first {
		_ = runJob(ctx, conn, "stop", a.unit) // or what writes there would wait, for nobody
	}
	removeAgain(did.written)
	if len(did.written) > 0 {
		_ = conn.ReloadContext(ctx)
	}
	if did.stopped || did.acted && len(did.written) > 0 {
		_ = a.restart(ctx, conn)
	}
	if first && did.acted && !a.hosts && len(a.reader.processes) > 0 {
		say("left to you: %s has to be restarted, to receive at %s again", &a.reader, a.path)
	}
}

// restart starts the broker anew. systemd starts no socket of a service that runs: started anew, the service brings it along.
func (a *adoption) restart(ctx context.Context, conn *dbus.Conn) error {
	service := a.units.name("", "service")
	if err := runJob(ctx, conn, "restart", service); err != nil {
		return fmt.Errorf("%w; see journalctl --unit %s", err, service)
	}
	return nil
}

// await waits until the broker receives from the path, or has received all that lies there.
func (a *adoption) await(ctx context.Context, received bool) error {
	return eventually(ctx, 5*time.Second, func(ctx context.Context) error {
		status, _, err := look(ctx, a.channel, wire.OpStatus)
		if err != nil {
			return err
		}
		for _, s := range status.Sources.Sockets {
			if s.Path == a.path && (received || s.Waiting == 0) {
				return nil
			}
		}
		return fmt.Errorf("the broker does not receive at %s", a.path)
	})
}

// isMade says whether adopt has made the unit, for the same path.
func (a *adoption) isMade() error {
	text, err := os.ReadFile(a.files[0].path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("'msgmux adopt' has not made a source of %s: there is no %s; what was adopted with --name is given back with the same --name", a.path, a.files[0].path)
	case err != nil:
		return fmt.Errorf("cannot read the unit: %w", err)
	case !bytes.HasPrefix(text, []byte(adoptedBy+a.path+" ")):
		return fmt.Errorf("'msgmux adopt %s' has not made %s", a.path, a.files[0].path)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	_, a.behind, _ = strings.Cut(line, " --to ")
	return nil
}

// undo takes back what was made: first the socket, so that nobody sends any more, and the rest when what lies in it was received.
func (a *adoption) undo() error {
	ctx, cancel := context.WithTimeout(context.Background(), systemdAnswers)
	defer cancel()
	conn, err := a.units.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := disable(ctx, conn, a.unit); err != nil {
		return err
	}
	p, err := conn.GetUnitPropertiesContext(ctx, a.unit)
	if err != nil {
		return fmt.Errorf("cannot ask for %s: %w", a.unit, err)
	}
	listens := property[string](p, "ActiveState") == "active"
	if listens {
		// To ask a broker that does not run starts it, and with it the socket: so that is done before.
		err = a.await(ctx, true)
	}
	if err := runJob(ctx, conn, "stop", a.unit); err != nil { // the file goes with it
		return err
	}
	if listens && err == nil {
		time.Sleep(200 * time.Millisecond) // a turn of the broker's, which takes far less
		err = a.await(ctx, false)
	}
	if err != nil {
		say("what lies in %s may be lost: %v", a.path, err)
	}
	for _, f := range a.files {
		if err := removeMade(f.path, adoptedBy); err != nil {
			return err
		}
	}
	if target, err := os.Readlink(a.link); err == nil && target == a.behind {
		if err := os.Remove(a.link); err != nil {
			return fmt.Errorf("cannot remove the sink %s: %w", a.name, err)
		}
		say("removed %s", a.link)
	}
	if err := reload(ctx, conn); err != nil {
		return err
	}
	if err := runJob(ctx, conn, "try-restart", a.units.name("", "service")); err != nil { // if it does not run, there is no need
		return err
	}
	if a.hosts {
		say("%s leads to the journal again", a.path)
		return nil
	}
	say("left to you: what receives at %s has to receive at %s again, and to be restarted", a.behind, a.path)
	return nil
}
