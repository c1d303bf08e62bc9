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
)

// What commands write for systemd: shown, written, and taken away again if something fails.

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

// removeAgain removes what was written.
func removeAgain(written []string) {
	for _, path := range written {
		if os.Remove(path) == nil {
			say("removed %s again", path)
			removeEmpty(path)
		}
	}
}

// removeEmpty removes the folder of drop-ins that a file was in, if nothing else is.
func removeEmpty(path string) {
	if folder := filepath.Dir(path); strings.HasSuffix(folder, ".service.d") {
		_ = os.Remove(folder)
	}
}

// outcome waits for the end of a job.
func outcome(ctx context.Context, result <-chan string) error {
	select {
	case r := <-result:
		if r != "done" {
			return fmt.Errorf("the job is %s", r)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
