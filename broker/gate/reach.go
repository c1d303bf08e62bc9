// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/loop"
	"github.com/msgmux/msgmux/broker/owner"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// reached is what became of one attempt to connect a static sink, or to look where its path leads.
type reached struct {
	d      *declared
	looked bool // only file and there mean something
	there  bool
	owner.Declared
	refusal *wire.Error
}

// disconnect makes a sink absent, because of why. Its place in the order stays.
func (f *folder) disconnect(d *declared, why string) {
	d.file = sys.FileID{}
	d.retry, d.next = retryFirst, time.Now()
	left, level := 0, slog.LevelInfo
	f.gate.thread.Call(func(r *loop.Roster) {
		if s := r.Find(d.id); s != nil {
			certain := false
			if left, certain = r.Disconnect(s); certain {
				level = slog.LevelWarn
			}
		}
	})
	if left > 0 {
		f.gate.log.Limited(f.limiter, 0, d.name+":left", level, journal.EventStatic, "what a static sink had not read stays where its path led",
			slog.String("sink", d.name), slog.String("why", why), slog.Int("unread", left))
	}
}

// connect tries the absent sinks whose time has come, each in a goroutine: a path may lead to a file system that hangs.
func (f *folder) connect(ctx context.Context) {
	if len(f.declared) == 0 {
		return
	}
	now := time.Now()
	connected := make(map[uint64]bool, len(f.declared)) // only theirs: there may be thousands of others, and this is done each second
	for _, d := range f.declared {
		connected[d.id] = false
	}
	for spec := range f.gate.thread.Connected {
		if _, ours := connected[spec.ID]; ours {
			connected[spec.ID] = true
		}
	}
	for _, d := range f.declared {
		if d.trying || !d.gone.IsZero() {
			continue
		}
		if connected[d.id] {
			d.next = time.Time{}
			continue
		}
		if d.next.IsZero() {
			// It was connected, and is not any more. One that refuses what it is sent, but not to be connected to, must
			// not be tried as fast as it refuses.
			if d.next = now; now.Sub(d.since) > retryLast {
				d.retry = retryFirst
			} else {
				d.next = now.Add(d.retry)
				d.retry = min(2*d.retry, retryLast)
			}
		}
		if d.next.After(now) {
			continue
		}
		d.trying = true
		go func() {
			at, refusal := f.reach(d)
			if !f.result(ctx, reached{d: d, Declared: at, refusal: refusal}) && refusal == nil {
				sys.Close(at.FD)
			}
		}()
	}
}

// result hands over what a goroutine found out; false if nobody wants it any more.
func (f *folder) result(ctx context.Context, r reached) bool {
	select {
	case f.results <- r:
		return true
	case <-ctx.Done():
		return false
	}
}

// reach connects to a static sink: a message queue is opened, a socket connected to.
func (f *folder) reach(d *declared) (at owner.Declared, refusal *wire.Error) {
	if d.queue.Given() {
		// What was handed over is the sink, whatever has its name by now: there is no file to look at.
		at.Queue = true
		var err error
		if at.FD, err = sys.ReopenQueue(d.queue.FD); err != nil {
			return at, wire.Refuse(wire.CodeAccess, "cannot open the message queue %q for sending (%v): its mode must let the broker's user or group write", d.addr, err)
		}
	} else if at, refusal = f.gate.prover.JoinStatic(d.addr, f.gate.limits.SendBuffer()); refusal != nil {
		return at, refusal
	}
	if at.Queue && f.receivesFrom(at.FD) {
		sys.Close(at.FD)
		return at, wire.Refuse(wire.CodeLoop, "%q is a message queue that this broker receives from; what it sent there would come back for ever", d.addr)
	}
	return at, nil
}

// receivesFrom says whether the queue behind fd is one of the channel's own sources.
func (f *folder) receivesFrom(fd int) bool {
	queue, ok := sys.FileOf(fd)
	return ok && slices.ContainsFunc(f.queues, func(d activation.Descriptor) bool {
		source, ok := sys.FileOf(d.FD)
		return ok && source == queue
	})
}

// settle takes the result of an attempt.
func (f *folder) settle(r reached) {
	d := r.d
	d.trying = false
	if r.looked {
		if r.there && r.File != d.file && d.file != (sys.FileID{}) {
			f.disconnect(d, "its path leads to another one")
		}
		return
	}
	if r.refusal != nil {
		d.next = time.Now().Add(d.retry)
		d.retry = min(2*d.retry, retryLast)
		// A socket gets its group and mode after it was bound, and the first attempts may come in between.
		if r.refusal.Code != wire.CodeNoPeer && d.retry > 4*retryFirst {
			f.gate.log.Limited(f.limiter, 0, d.name+":"+r.refusal.Code, slog.LevelWarn, journal.EventStatic, "static sink cannot be reached",
				slog.String("sink", d.name), slog.Any("error", r.refusal))
		}
		return
	}
	d.since, d.next, d.file = time.Now(), time.Time{}, r.File
	taken := false
	f.gate.thread.Call(func(w *loop.Roster) {
		if s := w.Find(d.id); s != nil && !w.HasSocket(s) && d.gone.IsZero() {
			w.Open(s, r.FD, r.Cookie, r.Queue)
			taken = true
		}
	})
	if !taken {
		sys.Close(r.FD)
	}
}
