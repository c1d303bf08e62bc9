// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/wire"
)

// foundJSON is an element of what channels --json prints: a channel that has a folder, whether a broker is there or not.
type foundJSON struct {
	Name       string       `json:"name"` // "" is the default channel
	User       bool         `json:"user"` // of the caller's own instance, not the host's
	RuntimeDir string       `json:"runtime_dir"`
	State      string       `json:"state"` // one of the words below
	Status     *channelJSON `json:"status,omitempty"`

	status wire.Status
}

// What a channel may be found to be.
const (
	stateRunning = "running"
	stateStopped = "stopped" // no broker: with socket activation the first message starts it
	stateRefused = "refused" // the caller may not ask
	stateSilent  = "silent"  // it does not answer
)

func channelsCommand(where *location) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "channels",
		Short: "list the channels of this host",
		Long: `List the channels that have a folder in /run, and of the caller's own instance in
$XDG_RUNTIME_DIR, and how they are: running; stopped, where with socket
activation the first message starts a broker; refused, where the caller may not
ask; silent, where the broker does not answer. A channel in a folder elsewhere
is not found.`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if where.channel != "" || where.user || where.runtimeDir != "" {
				return usagef("channels lists all: -c, --user and --runtime-dir do not go with it")
			}
			found := findChannels("/run", os.Getenv("XDG_RUNTIME_DIR"))
			askChannels(found)
			if asJSON {
				return printJSON(found, true)
			}
			return printText(channelTable(found, time.Now()).append(nil))
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "a JSON array")
	return cmd
}

// channelFolder is the name of a channel's folder, and the alphabet of names (client, Locate).
var channelFolder = regexp.MustCompile(`^msgmux(?:\.([a-z0-9_]{1,32}))?$`)

// findChannels looks for the folders of channels: those of the host, and those of a user, whose folder may be "".
func findChannels(host, user string) []foundJSON {
	found := []foundJSON{} // "[]", not "null"
	for _, parent := range []string{host, user} {
		if !filepath.IsAbs(parent) {
			continue
		}
		entries, _ := os.ReadDir(parent) // by name: the default channel first
		for _, entry := range entries {
			name := channelFolder.FindStringSubmatch(entry.Name())
			if name == nil {
				continue
			}
			folder := filepath.Join(parent, entry.Name())
			// A source is what no channel goes without; control may be switched off.
			if _, err := os.Lstat(filepath.Join(folder, "source")); err == nil || errors.Is(err, os.ErrPermission) {
				found = append(found, foundJSON{Name: name[1], User: parent == user, RuntimeDir: folder})
			}
		}
	}
	return found
}

// askChannels asks all at once, so that one that hangs delays no other.
func askChannels(found []foundJSON) {
	var all sync.WaitGroup
	for i := range found {
		all.Go(func() { found[i].ask() })
	}
	all.Wait()
}

func (f *foundJSON) ask() {
	ctx, cancel := context.WithTimeout(context.Background(), controlWithin)
	defer cancel()
	status, _, err := look(ctx, msgmux.Channel{RuntimeDir: f.RuntimeDir}, wire.OpStatus)
	switch {
	case err == nil:
		shown := channelAsJSON(status)
		f.State, f.Status, f.status = stateRunning, &shown, status
	case errors.Is(err, msgmux.ErrNoBroker):
		f.State = stateStopped
	case errors.Is(err, msgmux.ErrRefused):
		f.State = stateRefused
	default:
		f.State = stateSilent
	}
}

// channelTable has a row for each channel.
func channelTable(found []foundJSON, now time.Time) table {
	t := table{{"CHANNEL", "STATE", "sinks", "received", "lost", "since", "SOURCES", "FOLDER"}}
	for _, f := range found {
		name := f.Name
		if name == "" {
			name = "(default)"
		}
		if f.User {
			name = strings.TrimSpace("--user " + f.Name)
		}
		row := []string{name, f.State, "", "", "", "", "", visible(f.RuntimeDir)}
		if s := f.status; f.Status != nil {
			why, _, _ := strings.Cut(sources(s.Sources), " (")
			copy(row[2:], []string{strconv.Itoa(s.Sinks.Total), commas(s.Received), commas(s.Lost), roughly(now.Sub(time.Unix(s.SinceUnix, 0))), why})
		}
		t = append(t, row)
	}
	return slices.Clip(t)
}
