// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/units/rig/load/tally"
)

// answerTimeout is how long the broker may take to answer a registration.
const answerTimeout = 30 * time.Second

// sinkOptions are the flags of the command sink.
type sinkOptions struct {
	bind, register, log string
	user                string
	inherit, umask      bool
	prove               bool
	number, largest     int
	delay, settle       time.Duration
	options             []string
}

// sink is the command that receives on datagram sockets.
func sink(arguments []string, stop <-chan struct{}) (any, error) {
	var o sinkOptions
	flags := flag.NewFlagSet("sink", flag.ContinueOnError)
	flags.StringVar(&o.bind, "bind", "", "`NAME` of the socket, @NAME or /PATH; with --number, -0, -1, ... is added")
	flags.BoolVar(&o.umask, "umask", false, "leave the socket the mode that the umask gives it; otherwise all may send to it")
	flags.BoolVar(&o.inherit, "inherit", false, "receive on the socket that the service manager gave (sd_listen_fds(3))")
	flags.StringVar(&o.register, "register", "", "`PATH` of the channel's register socket: become a dynamic sink")
	flags.Func("option", "`KEY=VALUE` to register with; may be repeated", func(option string) error {
		o.options = append(o.options, option)
		return nil
	})
	flags.StringVar(&o.user, "user", "", "become that `NAME` when the socket is bound")
	flags.BoolVar(&o.prove, "prove", false, "register a socket that somebody else has made: show that it is held here")
	flags.IntVar(&o.number, "number", 1, "how many sinks to be")
	flags.IntVar(&o.largest, "largest", 256<<10, "`BYTES` of the largest message")
	flags.DurationVar(&o.delay, "delay", 0, "pause after each message")
	flags.DurationVar(&o.settle, "settle", 300*time.Millisecond, "after SIGTERM, go on until nothing has come for so long")
	flags.StringVar(&o.log, "log", "", "write every message down in `FILE` before it is taken, so that a kill loses none; begin with what is there")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	if (o.bind == "") != o.inherit || o.number < 1 || (o.number > 1 && (o.inherit || o.log != "" || o.user != "")) {
		return nil, errors.New("say --bind or --inherit; several sinks are bound, and keep no log and their user")
	}

	reports := make([]tally.Sink, o.number)
	failed := make(chan error, o.number)
	var running sync.WaitGroup
	for i := range o.number {
		conn, name, err := o.open(i)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		if o.user != "" {
			if err := become(o.user); err != nil {
				return nil, err
			}
		}
		r := receiver{conn: conn, name: name, delay: o.delay, settle: o.settle, stop: stop, largest: o.largest}
		if o.log != "" {
			if r.log, err = openLog(o.log, &r.tally); err != nil {
				return nil, err
			}
			defer r.log.file.Close()
		}
		running.Go(func() {
			if err := r.run(); err != nil {
				failed <- err
			}
			reports[i] = r.tally.Report(r.name)
		})
		if o.register != "" {
			if err := o.registerSink(conn, name); err != nil {
				return nil, err
			}
		}
	}
	ready()
	running.Wait()
	select {
	case err := <-failed:
		return nil, err
	default:
		return reports, nil
	}
}

// open makes or takes over the socket of sink i.
func (o *sinkOptions) open(i int) (*net.UnixConn, string, error) {
	if !o.inherit {
		name := o.bind
		if o.number > 1 {
			name += "-" + strconv.Itoa(i)
		}
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			return nil, "", fmt.Errorf("cannot bind: %w", err)
		}
		if strings.HasPrefix(name, "/") && !o.umask {
			// The broker must be able to write to it, whatever the umask here.
			if err := os.Chmod(name, 0o666); err != nil {
				return nil, "", fmt.Errorf("cannot open socket to all: %w", err)
			}
		}
		return conn, name, nil
	}
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) || os.Getenv("LISTEN_FDS") != "1" {
		return nil, "", errors.New("there is not one inherited socket")
	}
	file := os.NewFile(3, "inherited")
	defer file.Close()
	packets, err := net.FilePacketConn(file)
	if err != nil {
		return nil, "", fmt.Errorf("cannot take inherited socket: %w", err)
	}
	conn, ok := packets.(*net.UnixConn)
	if !ok {
		return nil, "", errors.New("the inherited socket is not one of AF_UNIX")
	}
	return conn, conn.LocalAddr().String(), nil
}

// become gives up root's privileges for those of a user, as daemons do that bind their sockets first.
func become(name string) error {
	who, err := user.Lookup(name)
	if err != nil {
		return err
	}
	names, err := who.GroupIds()
	if err != nil {
		return err
	}
	var numbers []int // of the user, of the main group, of all groups
	for _, id := range append([]string{who.Uid, who.Gid}, names...) {
		n, err := strconv.Atoi(id)
		if err != nil {
			return err
		}
		numbers = append(numbers, n)
	}
	if err := syscall.Setgroups(numbers[2:]); err != nil {
		return fmt.Errorf("cannot set groups: %w", err)
	}
	if err := syscall.Setgid(numbers[1]); err != nil {
		return fmt.Errorf("cannot set group: %w", err)
	}
	if err := syscall.Setuid(numbers[0]); err != nil {
		return fmt.Errorf("cannot set user: %w", err)
	}
	return nil
}

// registerSink asks the broker to send to the socket name, which sink is, and reads its answer. With --prove it then does what that
// says, and asks again.
func (o *sinkOptions) registerSink(sink *net.UnixConn, name string) error {
	// The answer comes to a socket of its own: in the sink's it would stand among the messages.
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("cannot make socket for the answer: %w", err)
	}
	defer conn.Close()
	options := append(slices.Clone(o.options), "reply=yes")
	if o.prove {
		options = append(options, "prove=yes")
	}
	request := []byte(name + "\n" + strings.Join(options, "\n") + "\n")
	answer := make([]byte, 4096)
	for proved := false; ; proved = true {
		if _, err := conn.WriteToUnix(request, &net.UnixAddr{Name: o.register, Net: "unixgram"}); err != nil {
			return fmt.Errorf("cannot register %s: %w", name, err)
		}
		conn.SetReadDeadline(time.Now().Add(answerTimeout))
		n, err := conn.Read(answer)
		if err != nil {
			return fmt.Errorf("cannot register %s: no answer: %w", name, err)
		}
		text := strings.TrimSpace(string(answer[:n]))
		how, ask := strings.CutPrefix(text, "error prove ")
		if number, _, _ := strings.Cut(how, ":"); ask && !proved {
			size, err := strconv.Atoi(number)
			if err != nil {
				return fmt.Errorf("cannot register %s: %s", name, text)
			}
			if err := sink.SetReadBuffer(size); err != nil {
				return fmt.Errorf("cannot set the buffer of %s: %w", name, err)
			}
			continue
		}
		if !strings.HasPrefix(text, "ok") {
			return fmt.Errorf("cannot register %s: %s", name, text)
		}
		return nil
	}
}

// receiver is one sink.
type receiver struct {
	conn          *net.UnixConn
	name          string
	tally         tally.Tally
	delay, settle time.Duration
	stop          <-chan struct{}
	largest       int
	log           *messageLog // nil if nothing is written down
}

// run receives until stop is closed and nothing comes any more.
func (r *receiver) run() error {
	// Reading must be interrupted once, to see that stop is closed.
	go func() {
		<-r.stop
		r.conn.SetReadDeadline(time.Now().Add(r.settle))
	}()
	buffer := make([]byte, r.largest)
	for {
		if stopped(r.stop) {
			r.conn.SetReadDeadline(time.Now().Add(r.settle))
		}
		err := r.receive(buffer)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return fmt.Errorf("cannot receive on %s: %w", r.name, err)
		}
		if r.delay > 0 {
			time.Sleep(r.delay)
		}
	}
}

// receive takes and counts the next message. With a log, it is written down before it is taken.
func (r *receiver) receive(buffer []byte) error {
	if r.log == nil {
		n, err := r.recv(buffer, 0)
		if err == nil {
			r.tally.Add(buffer[:n])
		}
		return err
	}
	n, err := r.recv(buffer, unix.MSG_PEEK)
	if err != nil {
		return err
	}
	if err := r.log.note(&r.tally, buffer[:n]); err != nil {
		return err
	}
	_, err = r.recv(buffer, 0)
	return err
}

// recv is recv(2): it waits until the deadline. What does not fit is cut off, and so counted as not whole.
func (r *receiver) recv(b []byte, flags int) (n int, err error) {
	raw, err := r.conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	waitErr := raw.Read(func(fd uintptr) bool {
		for {
			n, _, err = unix.Recvfrom(int(fd), b, flags|unix.MSG_DONTWAIT)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	if waitErr != nil {
		return 0, waitErr
	}
	return n, err
}
