// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/follow"
)

// following are the flags of pub that follow a file.
type following struct {
	path    string
	label   string
	keep    keep
	replace bool
	end     bool
}

// keptUsually is for how long the place in a followed file is kept: what every user may ask for.
const keptUsually = 10 * time.Minute

func (f *following) check(o *pubOptions) error {
	switch {
	case f.path == "" && (f.label != "" || f.replace || f.end || f.keep != 0):
		return usagef("--label, --keep, --replace and --end go with --follow")
	case f.path == "":
		return nil
	case f.label == "":
		return usagef("--follow needs --label: the place in the file is kept under that name")
	case o.nonblock || o.timeout > 0 || o.rate > 0 || o.keepEmpty || o.file != "":
		return usagef("--follow does not go with --file, --keep-empty, --nonblock, --timeout and --rate")
	}
	return nil
}

// options are those of a source that marks what it sends with its place in the file.
func (f *following) options() msgmux.SourceOptions {
	kept := time.Duration(f.keep)
	if kept == 0 {
		kept = keptUsually
	}
	return msgmux.SourceOptions{Label: f.label, Marks: true, Keep: kept, Replace: f.replace}
}

// run sends each line of the file that the channel has not, and those that come, until a signal.
func (f *following) run(p *publisher) error {
	mark := p.source.Mark()
	file, err := follow.Open(f.path, mark, p.limit, func() {
		say("what comes behind the last line in the channel is gone, from %s and from the files that it was rotated to: going on with what is there", visible(f.path))
	})
	if err != nil {
		return err
	}
	defer file.Close()
	if mark == 0 && f.end {
		if err := file.End(); err != nil {
			return err
		}
	}
	return file.Read(p.ctx, func(line []byte, mark uint64) error {
		err := p.send(line, len(line) > p.limit)
		for errors.Is(err, msgmux.ErrEpoch) {
			p.speak("%v", err)
			err = p.send(line, len(line) > p.limit)
		}
		return errors.Join(err, p.batch.Mark(mark))
	}, func() error {
		err := p.flush()
		if errors.Is(err, msgmux.ErrEpoch) {
			p.speak("the channel has begun anew: going on where this was")
			return nil // it is still collected
		}
		return err
	})
}

// dialFollowing opens the channel for it.
func (p *publisher) dialFollowing(options msgmux.SourceOptions) error {
	err := p.open(options)
	if errors.Is(err, msgmux.ErrInUse) {
		return fmt.Errorf("%w: --replace takes its place", err)
	}
	return err
}
