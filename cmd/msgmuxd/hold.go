// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/activation/hold"
	"github.com/msgmux/msgmux/broker/control"
)

// heldWatchdog is after how long without a sign of life a held broker is killed, as WatchdogSec= of the units.
const heldWatchdog = 10 * time.Second

// holdBrokers is this program with --hold: not a broker, but what keeps the channel's descriptors and starts one, with the same
// command line, again and again.
func holdBrokers(o *options) error {
	log := control.Log(o.logLevel, "msgmuxd", o.channel)
	set, unlink, err := sockets(o, log)
	if err != nil {
		return err
	}
	if unlink == nil {
		return usageError{errors.New("--hold is for a channel whose sockets nobody hands over: a service manager holds them itself")}
	}
	defer unlink()
	if _, err := raiseLimit(o.stored()+spareDescriptors, o.stored()+spareDescriptors); err != nil {
		return err
	}
	above, err := activation.NewNotifier()
	if err != nil {
		slog.New(log).Warn("no service manager is told anything", "event", "held", "error", err)
	}
	return hold.Run(hold.Config{
		Dir: o.runtimeDir, Sockets: set.All(), Unlink: unlink, Most: int(o.stored()) + spareDescriptors, Watchdog: heldWatchdog,
		Args: os.Args, Above: above, Log: slog.New(log),
	})
}
