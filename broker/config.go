// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"log/slog"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/gate"
	"github.com/msgmux/msgmux/broker/loop"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/subuid"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Config says what a channel is made of. Open reads it, and nothing changes it.
type Config struct {
	Version    string
	Name       string // "" is the default channel
	RuntimeDir string // for the status; nothing is opened by it

	Geometry     ring.Geometry
	Patience     time.Duration // of sinks that do not ask for one
	Keep         time.Duration // the longest that others than root may have a place kept for a client that is away
	SinksPerUser int           // for others than root
	Queue        uint64        // bytes that may wait in the kernel for one sink; at most MaxQueue
	QueueTotal   uint64        // and for all
	Stages       uint64        // how many sources with a stage there is memory for; 0: as many as there may be
	QueueBound   string        // what sets QueueTotal and Stages, as a refusal names it; "": --queue-total

	Sinks      []StaticSink  // declared by flag
	SinksDir   string        // every entry is a static sink; "" for none
	OptionsDir string        // NAME.conf for each of them; "" for none
	goneAfter  time.Duration // how long an entry of SinksDir may be gone before its sink is; 0: as usual. For tests

	// Unlink takes away the files of the channel's sockets: the broker was started by hand, and nobody comes after it. nil: they
	// are the service manager's, and so is what waits in them. It may be called more than once.
	Unlink func() error

	// Held says that a holder keeps the sockets and what is stored, as a service manager does, but not for longer than it lives:
	// a broker that is the last one (ErrLast) takes in what the sockets hold. Unlink is the holder's.
	Held bool

	// Silent is how many clients of each of the two listening sockets may be connected without having said hello; 0: MaxSilent.
	Silent int

	Notifier *activation.Notifier // nil without a service manager
	Watchdog time.Duration        // how often it wants a sign of life; 0: never

	Log slog.Handler
	Ops sys.Ops // nil: the kernel

	// KeepRights is for tests of kernels before 6.16, where no socket can refuse the descriptors that are sent to it.
	KeepRights bool

	// Scout is a program that calls scout.Serve first of all: it is started where a path may hang for ever, so that this process
	// can end. "": none, and what hangs is a thread of this one.
	Scout string

	// IgnoreRecords is for the test that shows what the commit records are good for.
	IgnoreRecords bool

	blockedCheck, blockedLong time.Duration // of status.Config. For tests

	users  *subuid.File // nil: the host's. For tests
	lacked []string     // as of sys.LackedForCredentials; nil: it is asked. For tests
}

// MaxQueue is the largest Config.Queue, in bytes: the kernel keeps a send buffer's size in an int.
const MaxQueue = 1 << 30

// MaxSilent is the largest Config.Silent that is of use.
const MaxSilent = gate.MaxSilent

// StaticSink is a sink that was declared on the command line.
type StaticSink struct {
	Address wire.Address
	Options wire.Options
}

// StageBytes is the memory of a stage: that of who writes there first, which a source can have be the broker.
func (cfg *Config) StageBytes() uint64 { return loop.StageBytes(cfg.Geometry.MaxMessage) }

// QueueBytes is the send buffer of one sink as the kernel counts it: what the administrator allows, but never less
// than one message or one packet. What does not fit a send buffer is refused for ever (EMSGSIZE), and lost.
func (cfg *Config) QueueBytes() uint64 {
	return max(cfg.Queue, max(cfg.Geometry.MaxMessage, wire.MaxPacket)+4096)
}
