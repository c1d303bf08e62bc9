// SPDX-License-Identifier: Apache-2.0

// Load sends numbered messages to a channel and receives them as sinks do, for tests that must show that every message
// arrives once and in order. It uses plain sockets and message queues and nothing of msgmux, as any program could.
//
//	load send  --to PATH --source N [flags]         sends messages 1, 2, 3, ...
//	load sink  --bind NAME|--inherit [flags]        receives on datagram sockets
//	load queue --from PATH [flags]                  receives from a message queue
//	load subscribe --from PATH [flags]              receives packets of messages, as a framed sink
//	load keep --from PATH --label NAME --log FILE   writes down each message with its place, and goes on there the next time
//	load stage --to PATH --label NAME               sends messages by a stage, and goes on behind the last the next time
//	load replay --log FILE                          reports what a sink wrote down
//
// Each ends by SIGTERM, or when it has sent what --count says, and then prints its report to standard output: a sender a
// tally.Sender, keep and stage nothing, the others an array of tally.Sink, as JSON. When it is set up it prints "ready" to standard error.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// commands run with the arguments after their name, until stop is closed, and return their report.
var commands = map[string]func(arguments []string, stop <-chan struct{}) (any, error){
	"send": send, "sink": sink, "queue": queue, "subscribe": subscribe, "keep": keep, "stage": stage,
	"replay": replay,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: load send|sink|queue|subscribe|keep|stage|replay [flags]")
		os.Exit(2)
	}
	stop := make(chan struct{})
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		close(stop)
	}()
	report, err := commands[os.Args[1]](os.Args[2:], stop)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintf(os.Stderr, "load %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
		fmt.Fprintf(os.Stderr, "load %s: cannot print report: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// ready tells whoever started this process that it is set up.
func ready() { fmt.Fprintln(os.Stderr, "ready") }

// stopped tells whether stop is closed.
func stopped(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}
