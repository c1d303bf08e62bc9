// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/loop"
	"github.com/msgmux/msgmux/broker/owner"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/broker/store"
	"github.com/msgmux/msgmux/internal/subuid"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Config says what a Gate is made of.
type Config struct {
	Store     *store.Store
	Log       *journal.Log
	Ops       sys.Ops
	Limits    loop.Limits
	Users     *subuid.File    // whose subordinate uids those are that come
	Inherited *activation.Set // the Gate owns Sinks, and uses the others while it runs

	Sinks      []StaticSink  // declared on the command line
	SinksDir   string        // every entry is a static sink; "" for none
	OptionsDir string        // NAME.conf for each of them; "" for none
	GoneAfter  time.Duration // how long an entry of SinksDir may be gone before its sink is; 0: a minute
	Scout      string        // the program to start where a path may hang for ever (scout.Config); "": none
	Lacked     []string      // what the process lacks to send others' credentials: see sys.LackedForCredentials
	Silent     int           // how many framed clients of each kind may be silent at a time; 0: 1024
}

// StaticSink is a sink that was declared on the command line.
type StaticSink struct {
	Address wire.Address
	Options wire.Options
}

// Gate is what all ways into the channel have in common.
type Gate struct {
	store  *store.Store
	log    *journal.Log
	ops    sys.Ops
	limits loop.Limits
	users  *subuid.File
	own    activation.Own
	prover *owner.Prover
	folder *folder
	silent int
	lacked []string

	maxMessage uint64 // set by Begin

	thread *loop.Thread // set by Run
}

// Open makes a Gate, with nobody let in yet. The caller closes it.
func Open(c Config) (*Gate, error) {
	g := &Gate{store: c.Store, log: c.Log, ops: c.Ops, limits: c.Limits, users: c.Users, own: c.Inherited.Own, silent: cmp.Or(c.Silent, MaxSilent), lacked: c.Lacked}
	var receiving []int
	for _, d := range g.own.All() {
		receiving = append(receiving, d.FD)
	}
	for _, s := range c.Sinks {
		if refusal := g.permits(s.Options); refusal != nil {
			return nil, fmt.Errorf("cannot have the sink %s: %w", s.Address, refusal)
		}
	}
	var err error
	if g.prover, err = owner.New(owner.Config{Receiving: receiving, Program: c.Scout, User: c.Limits.User}); err != nil {
		return nil, err
	}
	if g.prover.Blind() {
		g.log.Event(slog.LevelWarn, journal.EventInternal, "the kernel tells nothing about unix sockets (modprobe unix_diag): none can be registered, and a sink that "+
			"died is noticed at the next message")
	}
	g.folder = newFolder(g, &c)
	return g, nil
}

// Begin has those in the channel whose sockets a predecessor stored, and the channel's own sources received from. In this order:
// what these sockets were told (see Roster.AddSources) follows from who is there, and holds without a gap.
func (g *Gate) Begin(r *loop.Roster, in *activation.Set, salvaged store.Salvaged) error {
	g.maxMessage = r.MaxMessage()
	own, err := g.sources(in.SourceQueues, g.maxMessage)
	if err != nil {
		return err
	}
	r.Adopt(in.Stored, salvaged, g.look)
	return r.AddSources(own)
}

// look tells what a socket that a predecessor stored for a sink is connected to.
func (g *Gate) look(fd int, spec *ring.Spec) loop.Peer {
	at, refusal := g.prover.Check(fd, spec.UID, spec.Held)
	if refusal == nil {
		return loop.Peer{Inode: at.Inode, Cookie: at.Cookie}
	}
	// Whatever else: it cannot be looked at just now, and the kernel goes on sending to whom it was connected.
	switch refusal.Code {
	case wire.CodeNoPeer, wire.CodeLoop, wire.CodeNotOwner:
		return loop.Peer{Dead: true}
	}
	return loop.Peer{}
}

// Run lets in whoever comes, until ctx ends. It has ended when it returns, but for attempts to connect to file systems that
// hang.
func (g *Gate) Run(ctx context.Context, t *loop.Thread) {
	g.thread = t
	var all sync.WaitGroup
	all.Go(func() { g.reap(ctx) })
	all.Go(func() { g.folder.run(ctx) })
	// A sink that comes before the declared ones have their places would have messages leave that these never see.
	timer := time.NewTimer(declareWithin)
	select {
	case <-g.folder.declaredAll:
	case <-timer.C:
	case <-ctx.Done():
	}
	timer.Stop()
	if d := g.own.Register; d.Given() {
		all.Go(func() { newRegistrar(g, d.FD).run(ctx) })
	}
	if d := g.own.Publish; d.Given() {
		all.Go(func() { newDoor(g, d.FD, g.source).run(ctx) })
	}
	if d := g.own.Subscribe; d.Given() {
		all.Go(func() { newDoor(g, d.FD, g.sink).run(ctx) })
	}
	all.Wait()
}

// Rescan has the static sinks looked at now, whatever the folder told, and those that are absent tried. It does not block,
// and may be called from any goroutine.
func (g *Gate) Rescan() { g.folder.hurry.Raise() }

// declareWithin is how long the folder of static sinks may take to answer at the start before others are let in without it.
const declareWithin = 2 * time.Second

// forgetWithin is how long the folder of static sinks may take to answer.
const forgetWithin = 5 * time.Second

// Forget removes the static sink id, called name, if its entry in the folder is gone: at once, instead of when it has been gone
// for long. It may be called from any goroutine, and may block for as long as the file system of the folder does, up to 5 s.
func (g *Gate) Forget(id uint64, name string) *wire.Error {
	timer := time.NewTimer(forgetWithin)
	defer timer.Stop()
	answer := make(chan bool, 1)
	select {
	case g.folder.removals <- removal{id, answer}:
	case <-timer.C:
		return wire.Refuse(wire.CodeBusy, "the folder of static sinks does not answer")
	}
	select {
	case gone := <-answer:
		if !gone {
			return wire.Refuse(wire.CodeDenied, "sink %q is static: take its entry out of the folder first", name)
		}
		return nil
	case <-timer.C:
		return wire.Refuse(wire.CodeBusy, "the folder of static sinks does not answer")
	}
}

// End ends what runs beside this process for the gate, which lets nobody in any more. It may be called when Run has not come to its
// end because a file system hangs.
func (g *Gate) End() { g.prover.End() }

// Close closes what Open made. Run has ended.
func (g *Gate) Close() {
	g.folder.close()
	g.prover.Close()
}

// form is how a sink with these options wants its messages.
func form(o wire.Options) ring.Form {
	return ring.Form{NoEmpty: o.NoEmpty, End: o.End, MaxSize: o.MaxSize}
}

// permits says, by a refusal, whether this broker can do what a sink with these options wants.
func (g *Gate) permits(o wire.Options) *wire.Error {
	if !o.Credentials || len(g.lacked) == 0 {
		return nil
	}
	return wire.Refuse(wire.CodeDenied, "credentials=pass: this broker may not send others' credentials, for want of %s, which it has by a drop-in alone (docs/admin/credentials.md)",
		strings.Join(g.lacked, ", "))
}

// wish is how a sink with these options, of that user, reads.
func (g *Gate) wish(o wire.Options, uid uint32, patience time.Duration) loop.Wish {
	return loop.Wish{Asked: o.PatienceSet, Reading: ring.Reading{Start: o.Start,
		CursorSpec: ring.CursorSpec{Share: o.Share, UID: uid, Tap: o.Tap, Ordinary: g.limits.Ordinary(uid), Patience: patience}}}
}
