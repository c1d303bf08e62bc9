// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/view"
)

// stageBurst is how many messages are written at once, at most; between two such it pauses.
const (
	stageBurst = 20
	stagePause = 5 * time.Millisecond
)

// stage is the command that sends the messages "staged 1", "staged 2", ... each once, however often it is killed: it is a marked source
// with a stage whose mark is the last number. When there is a file of a certain name it sends no more, and writes the last number into
// another one when all is in the channel.
func stage(arguments []string, stop <-chan struct{}) (any, error) {
	flags := flag.NewFlagSet("stage", flag.ContinueOnError)
	to := flags.String("to", "", "`PATH` of the channel's publish socket")
	label := flags.String("label", "", "`NAME` that the mark is kept under")
	until := flags.String("until", "", "`FILE` that ends it")
	sent := flags.String("sent", "", "`FILE` to write the last number to")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	for !stopped(stop) {
		fd, ok, err := greet(*to, []string{"stage=yes", "mark=yes", "keep=1h", "replace=yes", "label=" + *label})
		if err != nil {
			return nil, err
		}
		ready()
		_, mark, _ := strings.Cut(ok, " mark=")
		mark, _, _ = strings.Cut(mark, " ")
		last, err := strconv.ParseUint(mark, 10, 64)
		if err == nil {
			err = stageOn(fd, last, *until, *sent, stop)
		}
		unix.Close(fd)
		if err != nil && !errors.Is(err, errHungUp) {
			return nil, fmt.Errorf("cannot go on with %s: %w", *to, err)
		}
	}
	return nil, nil
}

// stageOn sends on a connection what comes behind last, until the broker hangs up or stop is closed.
func stageOn(fd int, last uint64, until, sent string, stop <-chan struct{}) error {
	stage, err := openStage(fd)
	if err != nil {
		return err
	}
	defer stage.Close()
	for ; !stopped(stop); time.Sleep(stagePause) {
		if _, err := os.Stat(until); err == nil {
			if !stage.Taken() {
				if _, _, err := receiveView(fd); err != nil && !errors.Is(err, unix.EAGAIN) {
					return err // and it was not
				}
				continue
			}
			if err := os.WriteFile(sent, fmt.Appendln(nil, last), 0o644); err != nil {
				return err
			}
			<-stop
			return nil
		}
		var records []byte
		for n := last % stageBurst; n < stageBurst; n++ {
			last++
			records = appendRecord(records, fmt.Appendf(nil, "staged %d", last))
		}
		if err := putStaged(fd, stage, records, last, stop); err != nil {
			return err
		}
	}
	return nil
}

// putStaged puts records and their mark into the stage, when there is room.
func putStaged(fd int, stage *view.Writer, records []byte, mark uint64, stop <-chan struct{}) error {
	for !stopped(stop) {
		if stage.Over() {
			return errHungUp
		}
		done, wake := stage.Put(records, mark, true)
		if wake {
			if err := unix.Send(fd, []byte{0}, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT); err != nil && !errors.Is(err, unix.EAGAIN) {
				return errHungUp
			}
		}
		if done {
			return nil
		}
		if stage.Want(len(records)) {
			if _, _, err := receiveView(fd); err != nil && !errors.Is(err, unix.EAGAIN) {
				return err
			}
		}
	}
	return nil
}

// openStage waits for the stage.
func openStage(fd int) (*view.Writer, error) {
	for {
		_, fds, err := receiveView(fd)
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err == nil && len(fds) != 1 {
			err = fmt.Errorf("%d descriptors came", len(fds))
		}
		if err != nil {
			return nil, err
		}
		defer sys.CloseDescriptors(fds)
		return view.NewWriter(fds[0])
	}
}
