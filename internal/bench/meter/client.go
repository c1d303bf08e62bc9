// SPDX-License-Identifier: Apache-2.0

package meter

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/histogram"
)

// Client is one Go process of a run, started as
//
//	PROGRAM source DIR SLOT [WORD...]
//	PROGRAM sink   DIR SLOT FIRST COUNT [WORD...]
type Client struct {
	*Board
	Role  string // "source" or "sink"
	Dir   string // the folder of the run's sockets
	Words []string

	tally   *Tally
	sent    uint64
	last    uint64
	running bool
}

// Open reads the arguments and maps the board.
func Open() (*Client, error) {
	fixed := map[string]int{"source": 4, "sink": 6}
	if len(os.Args) < 2 || len(os.Args) < fixed[os.Args[1]] || fixed[os.Args[1]] == 0 {
		return nil, fmt.Errorf("usage: source DIR SLOT | sink DIR SLOT FIRST COUNT, descriptor %d is the board", BoardFD)
	}
	b, err := Map(BoardFD)
	if err != nil {
		return nil, err
	}
	slot, err := strconv.Atoi(os.Args[3])
	if err != nil {
		return nil, fmt.Errorf("cannot read slot: %w", err)
	}
	return &Client{Board: b, Role: os.Args[1], Dir: os.Args[2], Words: os.Args[fixed[os.Args[1]]:], tally: b.Tally(slot)}, nil
}

// Ready tells the driver that the client is connected or subscribed.
func (c *Client) Ready() { Write(&c.tally.Ready, 1) }

// HungUp tells the driver that the broker closed the connection.
func (c *Client) HungUp() { Write(&c.tally.Closed, 1) }

// start is a moment of this process, and startedAt the same one of the clock that the C clients read.
var (
	start     = time.Now()
	startedAt = calibrate()
)

// now is CLOCK_MONOTONIC in nanoseconds, the clock of the C clients too. Like theirs, reading it is no system call.
func now() uint64 { return startedAt + uint64(time.Since(start)) }

// calibrate finds out where start lies on CLOCK_MONOTONIC, which is the clock behind time.Since. The best of several
// readings errs by less than the system call takes.
func calibrate() (at uint64) {
	best := time.Duration(math.MaxInt64)
	for range 100 {
		var t unix.Timespec
		before := time.Since(start)
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
			panic(err) // the clock is there on every Linux
		}
		after := time.Since(start)
		if after-before < best {
			best = after - before
			at = uint64(t.Nano()) - uint64(before+best/2)
		}
	}
	return at
}

// Source calls emit(n), 1 <= n <= burst, to send n messages now, whenever some
// are due, until the driver says stop; then finish, which may be nil. The program
// must not end afterwards: its CPU clock would be gone.
func (c *Client) Source(burst int, emit func(n int) error, finish func() error) error {
	if err := sharpenTimers(); err != nil {
		return err
	}
	var start, done uint64
	was := Hold
	c.Ready()
	for {
		phase := c.Phase()
		if phase != was { // a new phase has its own clock
			start, done, was = now(), 0, phase
			if c.running = phase == Run; c.running {
				Write(&c.tally.Began, start)
			}
		}
		n := 1
		switch phase {
		case Trickle:
			time.Sleep(5 * time.Millisecond)
		case Warm, Run:
			n = c.due(start, done, burst)
		case Stop:
			Write(&c.tally.Ended, start)
			if finish != nil {
				if err := finish(); err != nil {
					return err
				}
			}
			Write(&c.tally.Done, 1)
			return nil
		default:
			time.Sleep(time.Millisecond)
			continue
		}
		if err := emit(n); err != nil {
			return err
		}
		done += uint64(n)
	}
}

// due is how many messages the rate owes since start; it sleeps until there is
// one.
func (c *Client) due(start, done uint64, burst int) int {
	if c.Rate == 0 {
		return burst
	}
	for {
		owed := uint64(float64(now()-start)*float64(c.Rate)/1e9) + 1
		if owed > done {
			return int(min(owed-done, uint64(burst)))
		}
		sleepUntil(start + uint64(float64(done)*1e9/float64(c.Rate)) + 1)
	}
}

// Stamp writes the head of the next message, sequence and time, into payload.
func (c *Client) Stamp(payload []byte) {
	var seq, at uint64
	if c.running {
		c.sent++
		seq = c.sent
		c.tally.Count = seq
		if c.Stamped != 0 {
			at = now()
		}
	}
	binary.NativeEndian.PutUint64(payload, seq)
	binary.NativeEndian.PutUint64(payload[8:], at)
}

// Take counts a message that arrived.
func (c *Client) Take(payload []byte) {
	t := c.tally
	if uint64(len(payload)) != c.Size {
		t.Bad++
		if len(payload) < 16 {
			return
		}
	}
	seq, at := binary.NativeEndian.Uint64(payload), binary.NativeEndian.Uint64(payload[8:])
	if seq == 0 {
		t.Warm = 1
		t.WarmGot++
		return
	}
	if seq <= c.last {
		t.Reordered++
	} else {
		if seq != c.last+1 {
			t.Gaps++
			t.GapLost += seq - c.last - 1
		}
		c.last = seq
	}
	t.Count++
	if at != 0 {
		t.Hist[histogram.Bucket(now()-at)]++
	}
}
