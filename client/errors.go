// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/msgmux/msgmux/internal/wire"
)

// The classes of failure that a caller may want to tell apart, with errors.Is.
var (
	// ErrNoBroker: the socket is not there, or nobody has it open.
	ErrNoBroker = errors.New("no broker is listening")
	// ErrRefused: the mode of the socket, or the broker, does not allow it; OpError.Code has the broker's reason.
	ErrRefused = errors.New("refused")
	// ErrWouldBlock: the channel takes no message now; only TrySend and TryFlush say so.
	ErrWouldBlock = errors.New("the channel takes no message now")
	// ErrTooLarge: the message is larger than a socket of this host carries, or than the channel takes.
	ErrTooLarge = errors.New("message too large")
	// ErrNotFound: the channel has no sink of that label or id, or this process no such inherited socket.
	ErrNotFound = errors.New("no such sink")
	// ErrHungUp: the sink was dropped by an administrator, or the channel was stopped. A restart does not hang up.
	ErrHungUp = errors.New("the broker has hung up")
	// ErrInUse: another connection or sink has the name that was asked for, or has taken it over.
	ErrInUse = errors.New("the name is in use")
	// ErrEpoch: the channel's numbers, or a source's mark, are not the ones that the program knows: the channel was stopped
	// and started, or its memory was lost. What becomes of what is stored the program has to decide. Subscribing without
	// From, or with the epoch of now, goes on with what there is.
	ErrEpoch = errors.New("the channel has begun anew")
	// ErrOverwritten: what Sink.InPlace lent was overwritten meanwhile, and counts for nothing.
	ErrOverwritten = errors.New("the messages were overwritten while they were read")
	// ErrBadOption: an argument that no broker would accept; nothing was sent.
	ErrBadOption = errors.New("bad option")
)

// OpError is the error of every function of this package.
type OpError struct {
	Op   string // what was tried: "send", "receive", "subscribe", ...
	Path string // the socket or folder it was tried at, "" if it did not come to that
	Code string // the code of the broker's answer when it was the broker that refused, such as "quota"
	Err  error  // why not
}

// Error says what could not be done, where, and why.
func (e *OpError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("cannot %s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("cannot %s: %s: %v", e.Op, e.Path, e.Err)
}

// Unwrap gives errors.Is and errors.As the reason.
func (e *OpError) Unwrap() error { return e.Err }

// opError puts err, as a system call, the broker or a parser gave it, into its class. It returns nil for nil and leaves
// an error alone that is an *OpError already.
func opError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	if done, ok := errors.AsType[*OpError](err); ok {
		return done
	}
	e := &OpError{Op: op, Path: path, Err: err}
	if answer, ok := errors.AsType[*wire.Error](err); ok {
		e.Code = answer.Code
		e.Err = fmt.Errorf("%w: %s", classOfCode(answer.Code), answer.Text)
		return e
	}
	e.Err = plain(err)
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		if class := classOfErrno(errno); class != nil {
			e.Err = fmt.Errorf("%w (%w)", class, errno)
		}
	}
	return e
}

// plain is what an error of the net package is about, without the texts around it, which repeat the path: the number of a
// system call's error, net.ErrClosed, or the like. Other errors stay as they are.
func plain(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	if wrapped, ok := errors.AsType[*net.OpError](err); ok {
		return wrapped.Err
	}
	return err
}

// classOfCode is the class of an answer of the broker.
func classOfCode(code string) error {
	switch code {
	case wire.CodeNotFound:
		return ErrNotFound
	case wire.CodeTooLarge:
		return ErrTooLarge
	case wire.CodeInUse:
		return ErrInUse
	}
	return ErrRefused
}

// classOfErrno is the class of what connect(2), sendmsg(2) and bind(2) say about a socket of AF_UNIX (unix(7)), or nil.
func classOfErrno(errno syscall.Errno) error {
	switch errno {
	case syscall.ENOENT, syscall.ECONNREFUSED, syscall.ENOTCONN, syscall.EPIPE:
		return ErrNoBroker
	case syscall.EACCES, syscall.EPERM:
		return ErrRefused
	case syscall.EAGAIN:
		return ErrWouldBlock
	case syscall.EMSGSIZE:
		return ErrTooLarge
	}
	return nil
}

// badOption is the error for an argument that fails before anything is sent.
func badOption(op, format string, args ...any) error {
	return &OpError{Op: op, Err: fmt.Errorf("%w: %s", ErrBadOption, fmt.Sprintf(format, args...))}
}

// badValue is badOption for what a parser of internal/wire does not take.
func badValue(op string, err error) error {
	if refusal, ok := errors.AsType[*wire.Error](err); ok {
		return badOption(op, "%s", refusal.Text)
	}
	return badOption(op, "%v", err)
}
