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
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/spf13/cobra"

	msgmux "github.com/msgmux/msgmux/client"
)

func sinksRemoveCommand(where *location) *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "undo 'sinks add'",
		Long: `Undo 'msgmux sinks add': stop and disable the socket unit, remove the files that
were written for it, and drop the sink from the channel. What is queued in its
socket is lost; the service itself is left alone. It needs to be run by root, or
with --user by the user.`,
		ValidArgsFunction: live(where, labelsOf),
		Args:              one("which NAME has the sink?"),
		RunE: func(_ *cobra.Command, args []string) error {
			channel, err := where.locate()
			if err != nil {
				return err
			}
			r, err := planRemoval(channel, args[0])
			if err != nil {
				return err
			}
			return r.carryOut()
		},
	}
}

// removal is what is undone.
type removal struct {
	channel msgmux.Channel
	units   channelUnits
	sink    string
	place   sinkPlace
	service string
	files   []string
}

// serviceLine is where a socket unit names its service.
var serviceLine = regexp.MustCompile(`(?m)^Service=(.+)$`)

// planRemoval finds what sinks add has written, and nothing else.
func planRemoval(channel msgmux.Channel, name string) (*removal, error) {
	r := &removal{channel: channel, units: unitsOf(channel), sink: name}
	if r.units.unmanaged {
		return nil, usagef("%s is no channel of systemd's: remove the entry %s", channel.RuntimeDir, filepath.Join(channel.RuntimeDir, "sinks", name))
	}
	err := checkSinkName(name)
	if err == nil {
		r.place, err = placeOf(channel, r.units, name)
	}
	if err != nil {
		return nil, err
	}
	file := r.place.unitFile()
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("'msgmux sinks add' has not made the sink: there is no %s; for another unit, %s disable --now UNIT", file, r.units.systemctl())
	case err != nil:
		return nil, fmt.Errorf("cannot read the unit: %w", err)
	case !bytes.HasPrefix(text, []byte(madeBy)):
		return nil, fmt.Errorf("'msgmux sinks add' has not made %s: %s disable --now %s", file, r.units.systemctl(), r.place.unit)
	}
	if found := serviceLine.FindSubmatch(text); found != nil {
		r.service = string(found[1])
	}
	for _, path := range []string{file, r.place.dropIn(r.service), r.place.options} {
		if text, err := os.ReadFile(path); err == nil && bytes.HasPrefix(text, []byte(madeBy)) {
			r.files = append(r.files, path)
		}
	}
	return r, nil
}

// carryOut stops the socket, removes the files and has the channel forget the sink.
func (r *removal) carryOut() error {
	ctx, cancel := context.WithTimeout(context.Background(), systemdAnswers)
	defer cancel()
	conn, err := r.units.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := r.stop(ctx, conn); err != nil {
		return err
	}
	for _, path := range r.files {
		if err := removeMade(path, madeBy); err != nil {
			return err
		}
	}
	if err := reload(ctx, conn); err != nil {
		return err
	}
	if p, err := conn.GetUnitPropertiesContext(ctx, r.service); err == nil && p["ActiveState"] == "active" {
		say("%s runs on, with a socket that nobody sends to any more: %s stop %s", r.service, r.units.systemctl(), r.service)
	}
	r.drop(ctx)
	return nil
}

// stop stops the socket, whose file then goes, and has it not come back at the next boot.
func (r *removal) stop(ctx context.Context, conn *dbus.Conn) error {
	if err := disable(ctx, conn, r.place.unit); err != nil {
		return err
	}
	if err := runJob(ctx, conn, "stop", r.place.unit); err != nil {
		return err
	}
	_ = conn.ResetFailedUnitContext(ctx, r.place.unit) // or it would be listed as failed without being there
	return nil
}

// drop has the channel forget the sink at once, instead of after a minute. Without a broker there is nothing to forget.
func (r *removal) drop(ctx context.Context) {
	// The broker watches the folder, and refuses until it has seen that the entry is gone.
	err := eventually(ctx, 3*time.Second, func(ctx context.Context) error {
		if err := r.channel.Drop(ctx, r.sink); !errors.Is(err, msgmux.ErrNotFound) {
			return err
		}
		return nil
	})
	if err != nil {
		say("the channel may show the sink as absent for a minute: %v", err)
		return
	}
	say("the channel has forgotten the sink %s", r.sink)
}
