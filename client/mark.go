// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/msgmux/msgmux/internal/wire"
)

// Mark is how far the channel has the input of a marked source, from where it goes on: the mark of the last packet that is
// in it, or 0.
func (s *Source) Mark() uint64 { return s.mark.Load() }

// Mark says how far the source has come in its own input with the messages that were added so far: an offset, a number,
// whatever it likes. It is in the channel from the moment at which they are. What Add sends by itself has the mark that was
// said last. Without SourceOptions.Marks it fails with ErrBadOption.
func (b *Batch) Mark(mark uint64) error {
	if b.source == nil || !b.source.options.Marks {
		return badOption("mark", "the source has not asked for it with SourceOptions.Marks")
	}
	b.mark, b.marks = mark, true
	return nil
}

// sendMarked sends records in one packet behind the mark that holds then, or the mark alone.
//
// Preconditions: the caller has the turn, and s.load is what the records hold.
func (s *Source) sendMarked(ctx context.Context, mark uint64, records []byte, wait bool) error {
	s.packet = append(binary.LittleEndian.AppendUint64(s.packet[:0], mark), records...)
	for dialled := false; ; dialled = true {
		err := s.put(ctx, s.packet, wait)
		if err == nil {
			s.mark.Store(mark)
			s.counts.messages.Add(uint64(s.load.messages))
			s.counts.bytes.Add(uint64(s.load.bytes))
			return nil
		}
		if !isGone(err) {
			return err
		}
		// This connection's broker is gone, and has not taken the packet.
		if refusal := s.farewell(); refusal != nil {
			return refusal
		}
		if dialled {
			if !wait || !s.options.Retry {
				return err
			}
			if err := s.pause(ctx, err); err != nil {
				return err
			}
		}
		was, epoch := s.mark.Load(), s.epoch
		if err := s.redial(ctx, wait); err != nil {
			return err
		}
		if s.mark.Load() != was || s.epoch != epoch {
			return fmt.Errorf("%w: its mark was %d in epoch %x, and is %d in %x", ErrEpoch, was, epoch, s.mark.Load(), s.epoch)
		}
	}
}

// Forget closes a source and has the channel forget its mark, which SourceOptions.Keep would keep. It may block until ctx
// is done. After ErrNoBroker, or an error with a Code, it is closed, and the mark may stay; after other errors it is open.
func (s *Source) Forget(ctx context.Context) error {
	if s.options.Keep == 0 {
		return s.Close()
	}
	if err := s.turn.take(ctx); err != nil {
		return opError("forget", s.path, err)
	}
	err := s.sayLeave(ctx)
	gone := isGone(err)
	if gone {
		err = cmp.Or(s.farewell(), error(syscall.EPIPE))
	}
	s.giveTurn()
	if err == nil {
		return s.Close()
	}
	if gone {
		_ = s.Close()
	}
	return opError("forget", s.path, err)
}

// sayLeave says that nothing is to be kept for the source. What is written to a stage is only heard if the broker is still there.
//
// Preconditions: the caller has the turn.
func (s *Source) sayLeave(ctx context.Context) error {
	if s.stage == nil {
		return s.put(ctx, []byte(wire.Leave), true)
	}
	s.stage.Leave()
	if s.stage.Over() {
		return syscall.EPIPE
	}
	if err := s.out.run(wakeUp, false); !mayGoSoon(err) {
		return err
	}
	return nil // it sees that on the end of the connection
}
