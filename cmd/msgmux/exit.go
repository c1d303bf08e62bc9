// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	msgmux "github.com/msgmux/msgmux/client"
)

// The exit statuses. They are a part of the interface: scripts branch on them.
const (
	exitDone        = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNoBroker    = 3
	exitTimeout     = 4 // nothing came, or less than was asked for, or a message could not be sent in time
	exitRefused     = 5 // permission or quota
	exitTooLarge    = 6
	exitGap         = 7  // sub --strict: messages were lost
	exitNoSink      = 8  // sinks: the one that was named is not there
	exitBlocked     = 75 // pub --nonblock: EX_TEMPFAIL of sysexits.h, try again later
	exitInterrupted = 128 + int(syscall.SIGINT)
	exitTerminated  = 128 + int(syscall.SIGTERM)
)

// exitError ends the program with a status of its own. With a nil err it does so silently: all has been said.
type exitError struct {
	status int
	err    error
}

func (e exitError) Error() string { return fmt.Sprintf("exit status %d: %v", e.status, e.err) }
func (e exitError) Unwrap() error { return e.err }

// usageError is a mistake in the command line.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitStatus is the status for an error.
func exitStatus(err error) int {
	if own, ok := errors.AsType[exitError](err); ok {
		return own.status
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	for _, class := range []struct {
		err    error
		status int
	}{
		{msgmux.ErrBadOption, exitUsage},
		{msgmux.ErrNoBroker, exitNoBroker},
		{msgmux.ErrRefused, exitRefused},
		{msgmux.ErrTooLarge, exitTooLarge},
		{msgmux.ErrNotFound, exitNoSink},
		{msgmux.ErrWouldBlock, exitBlocked},
		{context.DeadlineExceeded, exitTimeout},
	} {
		if errors.Is(err, class.err) {
			return class.status
		}
	}
	return exitFailure
}

// report says on standard error what went wrong, in one line and what to do about it in another, and returns the status.
// Without an error it says nothing.
func report(cmd *cobra.Command, err error) int {
	if err == nil {
		return exitDone
	}
	status := exitStatus(err)
	if own, ok := errors.AsType[exitError](err); ok {
		if err = own.err; err == nil {
			return status
		}
	}
	say("%v", err)
	if status == exitUsage {
		fmt.Fprintf(os.Stderr, "Try '%s --help'.\n", cmd.CommandPath())
	} else if advice := advise(err); advice != "" {
		say("%s", advice)
	}
	return status
}

// advise says what may help, or "".
func advise(err error) string {
	failed, ok := errors.AsType[*msgmux.OpError](err)
	switch {
	case !ok || failed.Path == "" || failed.Code != "":
	case errors.Is(err, msgmux.ErrNoBroker):
		return "is it running? Try 'systemctl status msgmux.target', or name another channel with -c, --user or --runtime-dir"
	case errors.Is(err, fs.ErrPermission):
		if group := groupOf(failed.Path); group != "" {
			return fmt.Sprintf("the socket is for root and members of the group %s; 'usermod -a -G %s USER' and a new login make one", group, group)
		}
	}
	return ""
}

// groupOf is the name of the group that a file belongs to, or "" if it cannot be seen or only root is in it.
func groupOf(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Gid == 0 {
		return ""
	}
	id := strconv.FormatUint(uint64(owner.Gid), 10)
	if group, err := user.LookupGroupId(id); err == nil {
		return group.Name
	}
	return id
}
