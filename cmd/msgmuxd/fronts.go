// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"sync"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/control"
)

// fronts shows the channel on everything it is to be seen on: the control socket, metrics, a bus. They run until ctx
// ends, and others waits for them. managed says that a service manager runs this process. What does not work is told and
// left out: it is no reason to keep messages waiting.
func fronts(ctx context.Context, o *options, set *activation.Set, managed bool, channel *broker.Channel, log slog.Handler, others *sync.WaitGroup) error {
	if set.Control.Given() {
		server, err := control.NewServer(set.Control.FD, channel)
		if err != nil {
			return err
		}
		others.Go(func() { server.Serve(ctx) })
	}
	serve := func(l net.Listener, err error) {
		if err != nil {
			slog.New(log).Error("metrics are not served", "event", "internal", "error", err)
			return
		}
		others.Go(func() { control.NewMetrics(l, channel).Serve(ctx) })
	}
	if set.Metrics.Given() {
		serve(control.ListenMetrics(set.Metrics.FD))
	}
	if o.metrics != "" {
		serve(control.ListenMetricsAt(o.metrics))
	}
	if address := busAddress(o.bus, managed); address != "" {
		bus, err := control.NewBus(address, o.channel, channel, log)
		if err != nil {
			slog.New(log).Warn("the channel is on no bus", "event", "bus", "error", err)
			return nil
		}
		others.Go(func() { bus.Run(ctx) })
	}
	return nil
}

// busAddress is the address of the bus to be on, "" for none. By itself a broker goes on the bus of the service manager
// that runs it; systemd tells the services of users by $MANAGERPID (systemd.exec(5)).
func busAddress(mode string, managed bool) string {
	if mode == "auto" {
		switch {
		case !managed:
			mode = "off"
		case os.Getenv("MANAGERPID") != "":
			mode = "session"
		default:
			mode = "system"
		}
	}
	switch mode {
	case "off":
		return ""
	case "system":
		return control.SystemBus()
	case "session":
		return control.SessionBus()
	}
	return mode
}
