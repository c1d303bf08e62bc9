// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/units/rig/load/tally"
)

// queue is the command that receives from a message queue, which must exist: who makes it decides its owner and mode.
func queue(arguments []string, stop <-chan struct{}) (any, error) {
	flags := flag.NewFlagSet("queue", flag.ContinueOnError)
	from := flags.String("from", "", "`PATH` of the queue, /dev/mqueue/NAME")
	delay := flags.Duration("delay", 0, "pause after each message")
	settle := flags.Duration("settle", 300*time.Millisecond, "after SIGTERM, go on until nothing has come for so long")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	fd, err := unix.Open(*from, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open queue %s: %w", *from, err)
	}
	defer unix.Close(fd)
	attributes, err := sys.QueueAttributesOf(fd)
	if err != nil {
		return nil, fmt.Errorf("cannot ask for the size of messages: %w", err)
	}
	ready()

	var t tally.Tally
	buffer := make([]byte, attributes.MessageSize)
	var idle time.Time // since when nothing has come, once this is to stop
	for {
		var priority uint32
		n, errno := sys.Kernel{}.QueueReceive("load", fd, buffer, &priority)
		switch errno {
		case 0:
			idle = time.Time{}
			t.Add(buffer[:n])
			time.Sleep(*delay)
		case unix.EAGAIN:
			switch {
			case !stopped(stop):
			case idle.IsZero():
				idle = time.Now()
			case time.Since(idle) > *settle:
				return []tally.Sink{t.Report(*from)}, nil
			}
			// A limit, so that stop is seen.
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 50)
		default:
			return nil, fmt.Errorf("cannot receive from %s: %w", *from, errno)
		}
	}
}
