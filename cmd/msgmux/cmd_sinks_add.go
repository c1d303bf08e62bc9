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
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/spf13/cobra"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/flags"
	"github.com/msgmux/msgmux/internal/wire"
)

// addOptions are the flags of sinks add.
type addOptions struct {
	service                 string
	patience                patience
	start, share            string
	end, credentials        string
	maxSize                 uint32
	noEmpty                 bool
	tap, frames, dry, force bool

	given string // the flags about the sink, as they were given
}

func sinksAddCommand(where *location) *cobra.Command {
	var o addOptions
	cmd := &cobra.Command{
		Use:   "add NAME --service UNIT",
		Short: "add a static sink whose socket systemd holds",
		Long: `Add a static sink that a service reads: systemd binds the socket NAME in the
channel's folder of sinks, keeps what is queued in it while the service
restarts, and starts the service when a message comes. The service gets the
socket as descriptor 3 (sd_listen_fds(3)).

This writes the socket unit msgmux-sink@NAME.socket, a drop-in for the service,
and a file of options if there are any, prints them, enables and starts the
socket, and tells what the channel says of the new sink. The drop-in has systemd
never give the service up, because what is queued in the socket would be lost.
If something fails, the files are removed again. It needs to be run by root, or
with --user by the user. 'msgmux sinks remove' undoes it.`,
		Example: `  msgmux sinks add archive --service archive.service
  msgmux sinks add archive --service archive.service --patience forever --dry-run`,
		Args: one("which NAME is the sink to have?"),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, word := range flags.Given(cmd.Flags(), "service", "dry-run", "force", "channel", "user", "runtime-dir") {
				o.given += " " + visible(word)
			}
			channel, err := where.locate()
			if err != nil {
				return err
			}
			a, err := planSink(channel, args[0], &o)
			if err != nil {
				return err
			}
			return a.carryOut(&o)
		},
	}
	set := cmd.Flags()
	set.StringVar(&o.service, "service", "", "the `UNIT` that reads the sink")
	set.Var(&o.patience, "patience", "how long the channel waits for the sink before it is left behind, or forever")
	set.StringVar(&o.start, "start", "", "`WHERE` it begins: now, or oldest")
	set.StringVar(&o.share, "share", "", "take turns with the other sinks of the share `NAME`")
	set.BoolVar(&o.tap, "tap", false, "only look on: nobody waits for it, and its taking a message does not count")
	set.BoolVar(&o.frames, "frames", false, "many messages in one packet")
	set.BoolVar(&o.noEmpty, "no-empty", false, "messages of no bytes are left out, which many a program takes for the end")
	set.StringVar(&o.end, "end", "", "what each message `ENDS` in: newline, none, or as-is")
	set.Uint32Var(&o.maxSize, "max-size", 0, "messages of more than `N` bytes are left out, which the program would cut; 0: none")
	set.StringVar(&o.credentials, "credentials", "", "`WHOSE` credentials each message carries: own, the broker's, or pass, its sender's")
	set.BoolVar(&o.dry, "dry-run", false, "print what would be written, and do nothing")
	set.BoolVar(&o.force, "force", false, "replace files that are there already")
	completeWith(cmd, "service", completeServices(where))
	complete(cmd, "patience", patienceExamples...)
	complete(cmd, "start", startNow, startOldest)
	complete(cmd, "end", "newline", "none", "as-is")
	complete(cmd, "credentials", "pass", "own")
	completeLive(where, cmd, "share", sharesOf)
	return cmd
}

// addition is what is done to add a sink.
type addition struct {
	channel msgmux.Channel
	units   channelUnits
	sink    string // its label
	service string // the consumer
	made    string // the command that makes it
	place   sinkPlace
	files   []plannedFile
}

// sinkPlace is where a static sink's socket, unit and files are.
type sinkPlace struct {
	unit    string // name of the socket unit
	socket  string // as the unit has it
	folder  string // of units
	options string // file of options; "" if the channel has no folder for them
}

// placeOf is where the static sink name of a channel is. A user's units are in the folder of his configuration.
func placeOf(channel msgmux.Channel, units channelUnits, name string) (sinkPlace, error) {
	prefix, etc := "msgmux", "/etc/msgmux"
	if units.instance != "" {
		prefix, etc = prefix+"."+units.instance, etc+"."+units.instance
	}
	place := sinkPlace{
		unit:    prefix + "-sink@" + name + ".socket",
		socket:  filepath.Join(channel.RuntimeDir, "sinks", name),
		folder:  "/etc/systemd/system",
		options: filepath.Join(etc, "sinks", name+".conf"),
	}
	if units.user {
		config, err := os.UserConfigDir()
		if err != nil {
			return place, fmt.Errorf("cannot find the folder of your units: %w", err)
		}
		place.folder, place.socket, place.options = filepath.Join(config, "systemd/user"), "%t/msgmux/sinks/"+name, ""
	}
	return place, nil
}

// unitFile is the socket unit. The name is that of the instance of a template which is installed for the default channel, and
// a file goes before a template.
func (p sinkPlace) unitFile() string { return filepath.Join(p.folder, p.unit) }

// dropIn is the file with what the consumer is told.
func (p sinkPlace) dropIn(service string) string {
	return filepath.Join(p.folder, service+".d", strings.TrimSuffix(p.unit, ".socket")+".conf")
}

// madeBy begins each file that sinks add writes; sinks remove takes nothing away that does not begin so.
const madeBy = "# Made by: msgmux sinks add "

// serviceName is what systemd takes for the name of a service (systemd.unit(5)).
var serviceName = regexp.MustCompile(`^[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]*)?\.service$`)

// planSink decides what is to be written.
func planSink(channel msgmux.Channel, name string, o *addOptions) (*addition, error) {
	a := &addition{channel: channel, units: unitsOf(channel), sink: name}
	if a.units.unmanaged {
		return nil, usagef("%s is no channel of systemd's: a static sink of it is a socket, or a link to one, in %s", channel.RuntimeDir, filepath.Join(channel.RuntimeDir, "sinks"))
	}
	if err := checkSinkName(name); err != nil {
		return nil, err
	}
	if o.service == "" {
		return nil, usagef("which service reads the sink? Give --service")
	}
	if !strings.Contains(o.service, ".") {
		o.service += ".service"
	}
	if !serviceName.MatchString(o.service) {
		return nil, usagef("--service %q is not the name of a service", o.service)
	}
	a.service = o.service
	a.made = madeBy + name + " --service " + a.service + a.units.flags() + o.given + "\n"
	lines, err := o.lines()
	if err != nil {
		return nil, err
	}
	if a.place, err = placeOf(channel, a.units, name); err != nil {
		return nil, err
	}
	if a.place.options == "" && len(lines) > 0 {
		return nil, usagef("a user's own channel has no files of options for its static sinks")
	}
	a.files = []plannedFile{{a.place.unitFile(), a.socketUnit()}, {a.place.dropIn(a.service), a.consumerLines(true)}}
	if len(lines) > 0 {
		a.files = append(a.files, plannedFile{a.place.options, append([]byte(a.made), lines...)})
	}
	return a, nil
}

// checkSinkName refuses what is no label, or would be no entry of the folder.
func checkSinkName(name string) error {
	var options wire.Options
	if err := options.Set("label", name); err != nil || strings.HasPrefix(name, ".") {
		return usagef("the name %q: 1 to 64 letters, digits, dots, dashes and underscores, and no dot at the beginning", name)
	}
	return nil
}

// socketUnit is the text of the unit of the socket.
func (a *addition) socketUnit() []byte {
	access := "SocketUser=msgmux\nSocketMode=0600\n"
	if a.units.user {
		access = "SocketMode=0600\n"
	}
	return fmt.Appendf(nil, `%s[Unit]
Description=Sink %s of a message channel
Documentation=man:msgmux(7)
StartLimitIntervalSec=0

[Socket]
ListenDatagram=%s
%sRemoveOnStop=yes
TriggerLimitIntervalSec=0
Service=%s

[Install]
WantedBy=sockets.target
`, a.made, a.sink, a.place.socket, access, a.service) // of which systemd takes no backslash away
}

// consumerLines is the text of the drop-in for the service. One that has a Restart= of its own keeps it.
func (a *addition) consumerLines(restart bool) []byte {
	text := fmt.Appendf(nil, `%s# A service that systemd gives up takes its socket along, and what is queued in it is lost.
[Unit]
StartLimitIntervalSec=0

[Service]
Sockets=%s
`, a.made, a.place.unit)
	if restart {
		text = append(text, restartLines...)
	}
	return text
}

const restartLines = "Restart=on-failure\nRestartSec=500ms\n"

// lines is the file of options, empty if all are as they would be without one. The parser of the broker has to take it.
func (o *addOptions) lines() ([]byte, error) {
	var options wire.Options
	set := func(given bool, key, value string) error {
		if !given || value == "" {
			return nil
		}
		// Each by itself: a newline in one must not make another of it.
		return options.Set(key, value)
	}
	patience := ""
	if o.patience.value != nil {
		patience = wire.FormatPatience(*o.patience.value)
	}
	err := cmp.Or(set(true, "patience", patience), set(true, "start", o.start), set(true, "share", o.share), set(o.tap, "tap", "yes"),
		set(o.frames, "frames", "yes"), set(o.noEmpty, "empty", "no"), set(true, "end", o.end),
		set(o.maxSize > 0, "max-size", strconv.FormatUint(uint64(o.maxSize), 10)), set(true, "credentials", o.credentials))
	if err != nil {
		return nil, usageError{err}
	}
	return options.AppendLines(nil), nil
}

// carryOut writes the files and has systemd act on them. What was written is removed when that fails.
func (a *addition) carryOut(o *addOptions) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), systemdAnswers)
	defer cancel()
	conn, err := a.units.connect(ctx)
	if err == nil {
		defer conn.Close()
		if !o.dry {
			err = reload(ctx, conn) // the service may have been written a moment ago
		}
		if err == nil {
			err = a.lookAtConsumer(ctx, conn)
		}
		if err == nil && o.force {
			err = a.lookAtOther(ctx, conn)
		}
	}
	if o.dry {
		return printFiles(a.files) // a plan needs no systemd
	}
	if err != nil {
		return err
	}
	if err := printFiles(a.files); err != nil {
		return err
	}
	var written []string
	var old []plannedFile
	defer func() {
		if err == nil {
			return
		}
		removeAgain(written)
		putBack(old)
		// Not with ctx: it may be what has ended.
		_ = conn.ResetFailedUnitContext(context.Background(), a.place.unit)
		_ = conn.ReloadContext(context.Background())
	}()
	if o.force {
		if old, err = a.replaced(); err != nil {
			return err
		}
		a.forgetOther()
	}
	if written, err = writeFiles(a.files, o.force); errors.Is(err, errOtherText) {
		return fmt.Errorf("%w; see --force", err)
	} else if err != nil {
		return err
	}
	if err := a.start(ctx, conn); err != nil {
		return err
	}
	say("%s is enabled and listens at %s", a.place.unit, filepath.Join(a.channel.RuntimeDir, "sinks", a.sink))
	a.tell(ctx)
	return nil
}

// replaced are the files that are there already, as they are.
func (a *addition) replaced() (old []plannedFile, err error) {
	var paths []string
	if r, err := planRemoval(a.channel, a.sink); err == nil {
		paths = r.files
	}
	for _, f := range a.files {
		if !slices.Contains(paths, f.path) {
			paths = append(paths, f.path)
		}
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read what is to be replaced: %w", err)
		}
		old = append(old, plannedFile{path, text})
	}
	return old, nil
}

// forgetOther has a service that the sink had before be told nothing of it any more.
func (a *addition) forgetOther() {
	r, err := planRemoval(a.channel, a.sink)
	if err != nil || r.service == a.service {
		return
	}
	if other := a.place.dropIn(r.service); slices.Contains(r.files, other) && os.Remove(other) == nil {
		say("removed %s", other)
		removeEmpty(other)
	}
}

// lookAtConsumer asks systemd for the service: whether it is there, whether its socket can be started beside it, and what it
// has to be told.
func (a *addition) lookAtConsumer(ctx context.Context, conn *dbus.Conn) error {
	p, err := conn.GetUnitPropertiesContext(ctx, a.service)
	if err != nil || p["LoadState"] != "loaded" {
		return fmt.Errorf("there is no service %s: write it first; it reads the datagrams of descriptor 3", a.service)
	}
	if property[bool](p, "NeedDaemonReload") { // as only a plan leaves it
		say("%s was changed since systemd read it, so whether it has a Restart= is not known: %s daemon-reload", a.service, a.units.systemctl())
	}
	if q, err := conn.GetUnitTypePropertiesContext(ctx, a.service, "Service"); err == nil && q["Restart"] != "no" {
		old, _ := os.ReadFile(a.files[1].path)
		a.files[1].text = a.consumerLines(bytes.HasSuffix(old, []byte(restartLines))) // it may be ours
	}
	socket, err := conn.GetUnitPropertiesContext(ctx, a.place.unit)
	listens := err == nil && socket["ActiveState"] == "active"
	if state := p["ActiveState"]; !listens && state != "inactive" && state != "failed" {
		return fmt.Errorf("%s is %v, and systemd starts no socket of a service that runs: %s stop %s, then this again; the first message starts it",
			a.service, state, a.units.systemctl(), a.service)
	}
	return nil
}

// lookAtOther refuses to give a socket to another service than the one that has it open: systemd hands it over when it starts a service,
// and does not start one for a socket that is being read.
func (a *addition) lookAtOther(ctx context.Context, conn *dbus.Conn) error {
	socket, err := conn.GetUnitPropertiesContext(ctx, a.place.unit)
	if err != nil || socket["ActiveState"] != "active" {
		return nil
	}
	for _, other := range property[[]string](socket, "Triggers") {
		if other == a.service {
			continue
		}
		p, err := conn.GetUnitPropertiesContext(ctx, other)
		if state := property[string](p, "ActiveState"); err == nil && state != "inactive" && state != "failed" {
			return fmt.Errorf("%s is %s and reads the sink: %s stop %s, then this again; the first message starts %s", other, state, a.units.systemctl(), other, a.service)
		}
	}
	return nil
}

// start enables and starts the socket.
func (a *addition) start(ctx context.Context, conn *dbus.Conn) error {
	if err := reload(ctx, conn); err != nil {
		return err
	}
	links, err := enable(ctx, conn, a.place.unitFile())
	if err != nil {
		return err
	}
	if err := runJob(ctx, conn, "start", a.place.unit); err != nil {
		if len(links) > 0 { // else it was enabled before
			_ = disable(context.Background(), conn, a.place.unit)
		}
		return fmt.Errorf("%w; see journalctl%s --unit %s", err, a.units.userFlag(), a.place.unit)
	}
	return nil
}

// tell says what has become of the sink in the channel, whose broker watches the folder.
func (a *addition) tell(ctx context.Context) {
	err := eventually(ctx, 3*time.Second, func(ctx context.Context) error {
		_, sinks, err := look(ctx, a.channel, wire.OpList)
		if err != nil {
			say("the broker does not answer; when it runs, it finds the sink: %v", err)
			return nil
		}
		for _, s := range sinks {
			if s.Label == a.sink && s.State != "absent" {
				say("the channel has the sink %s, number %d: %s", visible(s.Label), s.ID, visible(s.State))
				return nil
			}
		}
		return msgmux.ErrNotFound
	})
	if err != nil {
		say("the channel does not have the sink yet; see msgmux sinks list, and journalctl -u %s", a.units.name("", "service"))
	}
}
