// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/spf13/cobra"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/wire"
)

// addOptions are the flags of sinks add.
type addOptions struct {
	service                 string
	patience                patience
	start, share            string
	tap, frames, dry, force bool
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

This writes a socket unit, and a file of options if there are any, prints both,
enables and starts the unit, and tells what the channel says of the new sink.
If something fails, the files are removed again. It needs to be run by root, or
with --user by the user.`,
		Example: `  msgmux sinks add archive --service archive.service
  msgmux sinks add archive --service archive.service --patience forever --dry-run`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("which NAME is the sink to have?")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
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
	flags := cmd.Flags()
	flags.StringVar(&o.service, "service", "", "the `UNIT` that reads the sink")
	flags.Var(&o.patience, "patience", "how long the channel waits for the sink before it is left behind, or forever")
	flags.StringVar(&o.start, "start", "", "`WHERE` it begins: now, or oldest")
	flags.StringVar(&o.share, "share", "", "take turns with the other sinks of the share `NAME`")
	flags.BoolVar(&o.tap, "tap", false, "only look on: nobody waits for it, and its taking a message does not count")
	flags.BoolVar(&o.frames, "frames", false, "many messages in one packet")
	flags.BoolVar(&o.dry, "dry-run", false, "print what would be written, and do nothing")
	flags.BoolVar(&o.force, "force", false, "replace files that are there already")
	completeWith(cmd, "service", completeServices(where))
	complete(cmd, "patience", patienceExamples...)
	complete(cmd, "start", startNow, startOldest)
	completeLive(where, cmd, "share", sharesOf)
	return cmd
}

// addition is what is done to add a sink.
type addition struct {
	channel msgmux.Channel
	units   channelUnits
	sink    string // its label
	unit    string // name of the socket unit
	files   []plannedFile
}

// plannedFile is a file to be written.
type plannedFile struct {
	path string
	text []byte
}

// serviceName is what systemd takes for the name of a service (systemd.unit(5)).
var serviceName = regexp.MustCompile(`^[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]*)?\.service$`)

// planSink decides what is to be written.
func planSink(channel msgmux.Channel, name string, o *addOptions) (*addition, error) {
	a := &addition{channel: channel, units: unitsOf(channel), sink: name}
	if a.units.unmanaged {
		return nil, usagef("%s is no channel of systemd's: a static sink of it is a socket, or a link to one, in %s", channel.RuntimeDir, filepath.Join(channel.RuntimeDir, "sinks"))
	}
	var options wire.Options
	if err := options.Set("label", name); err != nil || strings.HasPrefix(name, ".") {
		return nil, usagef("the name %q: 1 to 64 letters, digits, dots, dashes and underscores, and no dot at the beginning", name)
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
	lines, err := o.lines()
	if err != nil {
		return nil, err
	}

	socket := filepath.Join(channel.RuntimeDir, "sinks", name)
	prefix, etc, unitFolder := "msgmux", "/etc/msgmux", "/etc/systemd/system"
	access := "SocketMode=0660\nSocketGroup=msgmux\n"
	if a.units.instance != "" {
		prefix, etc = prefix+"."+a.units.instance, etc+"."+a.units.instance
	}
	if a.units.user {
		config, err := os.UserConfigDir()
		if err != nil {
			return nil, fmt.Errorf("cannot find the folder of your units: %w", err)
		}
		unitFolder, access = filepath.Join(config, "systemd/user"), "SocketMode=0600\n"
		socket = "%t/msgmux/sinks/" + name
		if len(lines) > 0 {
			return nil, usagef("a user's own channel has no files of options for its static sinks")
		}
	}
	a.unit = prefix + "-sink-" + name + ".socket"
	a.files = append(a.files, plannedFile{filepath.Join(unitFolder, a.unit), fmt.Appendf(nil, `# Made by: msgmux sinks add %s --service %s
[Unit]
Description=Sink %s of a message channel
Documentation=man:msgmux(7)

[Socket]
ListenDatagram=%s
%sRemoveOnStop=yes
Service=%s

[Install]
WantedBy=sockets.target
`, name, o.service, name, socket, access, strings.ReplaceAll(o.service, `\`, `\\`))})
	if len(lines) > 0 {
		a.files = append(a.files, plannedFile{filepath.Join(etc, "sinks", name+".conf"), lines})
	}
	return a, nil
}

// lines is the file of options, empty if all are as they would be without one. The parser of the broker has to take it.
func (o *addOptions) lines() ([]byte, error) {
	var options wire.Options
	for _, option := range []struct {
		key, value string
	}{{"patience", o.patience.text()}, {"start", o.start}, {"share", o.share}, {"tap", yes(o.tap)}, {"frames", yes(o.frames)}} {
		if option.value == "" {
			continue
		}
		// Each by itself: a newline in one must not make another of it.
		if err := options.Set(option.key, option.value); err != nil {
			return nil, usageError{err}
		}
	}
	return options.AppendLines(nil), nil
}

// text is the patience as a file of options has it, "" if none was given.
func (p *patience) text() string {
	if p.value == nil {
		return ""
	}
	return wire.FormatPatience(*p.value)
}

func yes(on bool) string {
	if on {
		return "yes"
	}
	return ""
}

// print shows what is written.
func (a *addition) print() error {
	var text []byte
	for i, f := range a.files {
		if i > 0 {
			text = append(text, '\n')
		}
		text = append(fmt.Appendf(text, "# %s\n", f.path), f.text...)
	}
	return printText(text)
}

// carryOut writes the files and has systemd act on them. What was written is removed when that fails.
func (a *addition) carryOut(o *addOptions) (err error) {
	if o.dry {
		return a.print()
	}
	ctx, cancel := context.WithTimeout(context.Background(), systemdAnswers)
	defer cancel()
	conn, err := a.units.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := a.print(); err != nil {
		return err
	}
	var written []string
	defer func() {
		if err == nil {
			return
		}
		for _, path := range written {
			if os.Remove(path) == nil {
				say("removed %s again", path)
			}
		}
		// Not with ctx: it may be what has ended.
		_ = conn.ReloadContext(context.Background())
	}()
	for _, f := range a.files {
		wrote, err := f.write(o.force)
		if wrote {
			written = append(written, f.path)
		}
		if err != nil {
			return fmt.Errorf("cannot write %s: %w", f.path, err)
		}
	}
	if err := a.start(ctx, conn, o.service); err != nil {
		return err
	}
	say("%s is enabled and listens at %s", a.unit, filepath.Join(a.channel.RuntimeDir, "sinks", a.sink))
	a.tell(ctx)
	return nil
}

// write writes a file that is not there yet, or has that very text. A file that was there is not the caller's to remove.
func (f plannedFile) write(force bool) (wrote bool, err error) {
	if old, err := os.ReadFile(f.path); err == nil {
		if bytes.Equal(old, f.text) {
			return false, nil
		}
		if !force {
			return false, errors.New("it is there already, with another text; see --force")
		}
		return false, os.WriteFile(f.path, f.text, 0o644)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return false, err
	}
	file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return false, err
	}
	_, err = file.Write(f.text)
	return true, errors.Join(err, file.Close())
}

// start enables and starts the socket.
func (a *addition) start(ctx context.Context, conn *dbus.Conn, service string) error {
	if err := conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("cannot make systemd read its units: %w", err)
	}
	if p, err := conn.GetUnitPropertiesContext(ctx, service); err != nil || p["LoadState"] != "loaded" {
		return fmt.Errorf("there is no service %s: write it first; it reads the datagrams of descriptor 3", service)
	}
	if _, _, err := conn.EnableUnitFilesContext(ctx, []string{a.unit}, false, false); err != nil {
		return fmt.Errorf("cannot enable %s: %w", a.unit, err)
	}
	result := make(chan string, 1)
	_, err := conn.StartUnitContext(ctx, a.unit, "replace", result)
	if err == nil {
		select {
		case r := <-result:
			if r != "done" {
				err = fmt.Errorf("the job is %s; see systemctl status %s", r, a.unit)
			}
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		_, _ = conn.DisableUnitFilesContext(context.Background(), []string{a.unit}, false)
		return fmt.Errorf("cannot start %s: %w", a.unit, err)
	}
	return nil
}

// tell says what has become of the sink in the channel.
func (a *addition) tell(ctx context.Context) {
	const patience = 3 * time.Second // the broker watches the folder
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for ctx.Err() == nil {
		_, sinks, err := look(ctx, a.channel, wire.OpList)
		if err != nil {
			say("the broker does not answer; when it runs, it finds the sink: %v", err)
			return
		}
		for _, s := range sinks {
			if s.Label == a.sink && s.State != "absent" {
				say("the channel has the sink %s, number %d: %s", visible(s.Label), s.ID, visible(s.State))
				return
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	say("the channel does not have the sink yet; see msgmux sinks list, and journalctl -u %s", a.units.name("", "service"))
}
