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
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/spf13/cobra"
)

// What commands write for systemd: shown, written, and taken away again if something fails. And what they have it do.

// plannedFile is a file to be written.
type plannedFile struct {
	path string
	text []byte
}

// printFiles shows what is written.
func printFiles(files []plannedFile) error {
	var text []byte
	for i, f := range files {
		if i > 0 {
			text = append(text, '\n')
		}
		text = append(fmt.Appendf(text, "# %s\n", f.path), f.text...)
	}
	return printText(text)
}

// errOtherText is of a file that is not replaced. What to do about it is the command's to say.
var errOtherText = errors.New("it is there already, with another text")

// writeFiles writes files up to the first failure, and says which were not there before.
func writeFiles(files []plannedFile, force bool) (written []string, err error) {
	for _, f := range files {
		wrote, err := f.write(force)
		if wrote {
			written = append(written, f.path)
		}
		if err != nil {
			return written, fmt.Errorf("cannot write %s: %w", f.path, err)
		}
	}
	return written, nil
}

// write writes a file that is not there yet, or has that very text. A file that was there is not the caller's to remove.
func (f plannedFile) write(force bool) (wrote bool, err error) {
	if old, err := os.ReadFile(f.path); err == nil {
		if bytes.Equal(old, f.text) {
			return false, nil
		}
		if !force {
			return false, errOtherText
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

// removeAgain removes what was written.
func removeAgain(written []string) {
	for _, path := range written {
		if os.Remove(path) == nil {
			say("removed %s again", path)
			removeEmpty(path)
		}
	}
}

// putBack writes files again whose text has been replaced, or that were removed.
func putBack(old []plannedFile) {
	for _, f := range old {
		if now, err := os.ReadFile(f.path); err == nil && bytes.Equal(now, f.text) {
			continue
		}
		if _, err := f.write(true); err != nil {
			say("cannot write %s as it was: %v", f.path, err)
			continue
		}
		say("%s is as it was", f.path)
	}
}

// removeEmpty removes the folder of drop-ins that a file was in, if nothing else is.
func removeEmpty(path string) {
	if folder := filepath.Dir(path); strings.HasSuffix(folder, ".service.d") {
		_ = os.Remove(folder)
	}
}

// removeMade removes a file, if it is there and begins as those that a command has made.
func removeMade(path, begins string) error {
	text, err := os.ReadFile(path)
	if err != nil || !bytes.HasPrefix(text, []byte(begins)) {
		return nil
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("cannot remove the file: %w", err)
	}
	say("removed %s", path)
	removeEmpty(path)
	return nil
}

// reload has systemd read its units again.
func reload(ctx context.Context, conn *dbus.Conn) error {
	if err := conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("cannot make systemd read its units: %w", err)
	}
	return nil
}

// enable has systemd start the unit of that file at boot, and says which links that were not there before it has made for it.
func enable(ctx context.Context, conn *dbus.Conn, file string) (links []string, err error) {
	_, changes, err := conn.EnableUnitFilesContext(ctx, []string{file}, false, false)
	if err != nil {
		return nil, fmt.Errorf("cannot enable %s: %w", filepath.Base(file), err)
	}
	for _, c := range changes {
		if c.Type == "symlink" {
			links = append(links, c.Filename)
		}
	}
	return links, nil
}

func disable(ctx context.Context, conn *dbus.Conn, unit string) error {
	if _, err := conn.DisableUnitFilesContext(ctx, []string{unit}, false); err != nil {
		return fmt.Errorf("cannot disable %s: %w", unit, err)
	}
	return nil
}

// runJob has systemd start, stop or restart a unit, or restart it if it runs, and waits for the outcome. To stop one that does not run is none to wait for.
func runJob(ctx context.Context, conn *dbus.Conn, verb, unit string) error {
	jobs := map[string]func(context.Context, string, string, chan<- string) (int, error){
		"start": conn.StartUnitContext, "stop": conn.StopUnitContext, "restart": conn.RestartUnitContext,
		"try-restart": conn.TryRestartUnitContext,
	}
	result := make(chan string, 1)
	_, err := jobs[verb](ctx, unit, "replace", result)
	if err == nil {
		select {
		case r := <-result:
			if r != "done" {
				err = fmt.Errorf("the job is %s", r)
			}
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		return fmt.Errorf("cannot %s %s: %w", verb, unit, err)
	}
	return nil
}

// lookEvery is how often a command looks whether the broker has noticed what it did.
const lookEvery = 50 * time.Millisecond

// eventually tries something until it succeeds, for so long at most: then it fails with what try said last.
func eventually(ctx context.Context, within time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil || sleep(ctx, lookEvery) != nil {
			return err
		}
	}
}

// one is for a command with one argument, which the question asks for.
func one(question string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return errors.New(question)
		}
		return nil
	}
}
