// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestPromise1_Order: one total order; every sink sees a subsequence of it; each source's own order is kept. Plain and
// framed sources at once, sinks of every kind, some of which lose.
func TestPromise1_Order(t *testing.T) {
	const each = 4000
	b := brokertest.Start(t)
	type seen struct {
		name     string
		lossless bool
		got      []uint64 // source<<32 + number, in the order of arrival
		bad      int
		frame    []uint64 // the channel's number of each, where packets tell it
	}
	var all []*seen
	var readers sync.WaitGroup
	finished := make(chan struct{})
	read := func(s *seen, receive func(time.Duration, func([]byte, uint64)) error) {
		all = append(all, s)
		readers.Go(func() {
			for {
				err := receive(200*time.Millisecond, func(m []byte, number uint64) {
					source, seq, ok := stamp(m)
					if !ok {
						s.bad++
					}
					s.got = append(s.got, uint64(source)<<32+seq)
					s.frame = append(s.frame, number)
				})
				if s.lossless && len(s.got) == 4*each {
					return
				}
				if errors.Is(err, os.ErrDeadlineExceeded) {
					select {
					case <-finished:
						return
					default:
						continue
					}
				}
				if err != nil {
					return
				}
			}
		})
	}
	// A slow sink is slow at first: by then the ring has gone round.
	datagrams := func(s *brokertest.Sink, slow int) func(time.Duration, func([]byte, uint64)) error {
		return func(d time.Duration, each func([]byte, uint64)) error {
			m, err := s.ReceiveWithin(d)
			if err == nil {
				each(m, 0)
			}
			if slow--; slow > 0 {
				time.Sleep(2 * time.Millisecond)
			}
			return err
		}
	}
	records := func(p wire.SinkPacket, each func([]byte, uint64)) {
		n := p.First
		wire.EachRecord(p.Records, func(m []byte) bool { each(m, n); n++; return true })
	}
	read(&seen{name: "datagrams", lossless: true}, datagrams(brokertest.NewSink(t, b.Dir), 0))
	packed := brokertest.NewSink(t, b.Dir, "frames=yes")
	read(&seen{name: "packed datagrams", lossless: true}, func(d time.Duration, each func([]byte, uint64)) error {
		m, err := packed.ReceiveWithin(d)
		if err != nil {
			return err
		}
		p, err := wire.ParseSinkPacket(m)
		records(p, each)
		return err
	})
	sub := brokertest.NewSubscriber(t, b.Dir)
	read(&seen{name: "framed", lossless: true}, func(d time.Duration, each func([]byte, uint64)) error {
		p, err := sub.ReceiveWithin(d)
		records(p, each)
		return err
	})
	read(&seen{name: "tap"}, datagrams(brokertest.NewSink(t, b.Dir, "tap=yes"), 200))
	read(&seen{name: "no patience"}, datagrams(brokertest.NewSink(t, b.Dir, "patience=0"), 200))
	lossy := brokertest.NewSubscriber(t, b.Dir, "patience=0")
	read(&seen{name: "framed, no patience"}, func(d time.Duration, each func([]byte, uint64)) error {
		p, err := lossy.ReceiveWithin(d)
		records(p, each)
		time.Sleep(10 * time.Millisecond)
		return err
	})

	var sources sync.WaitGroup
	for i := range uint32(2) {
		plain, framed := brokertest.NewSource(t, b.Dir), brokertest.NewPublisher(t, b.Dir)
		sources.Go(func() {
			for n := range uint64(each) {
				if err := plain.Send(stamped(i, n, 12+int(n%500))); err != nil {
					t.Error(err)
					return
				}
			}
		})
		sources.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(i)))
			for n := uint64(0); n < each; {
				var packet [][]byte
				for range min(1+rnd.Uint64N(40), each-n) {
					packet = append(packet, stamped(2+i, n, 12+int(n%500)))
					n++
				}
				if err := framed.Send(packet...); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	sources.Wait()
	close(finished)
	readers.Wait()

	order := all[0].got
	at := make(map[uint64]int, len(order))
	next := make(map[uint64]uint64)
	for i, m := range order {
		at[m] = i
		if want := next[m>>32]; m&0xffffffff != want {
			t.Fatalf("message %d of source %d is where its %d should be", m&0xffffffff, m>>32, want)
		}
		next[m>>32]++
	}
	lost := 0
	for _, s := range all {
		if s.bad > 0 {
			t.Errorf("%s: %d messages are not whole", s.name, s.bad)
		}
		if s.lossless && !slices.Equal(s.got, order) {
			t.Errorf("%s received %d messages, in another order than %s its %d", s.name, len(s.got), all[0].name, len(order))
		}
		last := -1
		for i, m := range s.got {
			place, known := at[m]
			if !known || place <= last {
				t.Fatalf("%s: message %d is not from behind the one before it", s.name, i)
			}
			last = place
			if n := s.frame[i]; n != 0 && n != uint64(place) {
				t.Fatalf("%s: message %d of the order came with the number %d", s.name, place, n)
			}
		}
		lost += len(order) - len(s.got)
	}
	if lost == 0 {
		t.Error("no sink has lost anything: the order of those that do was not looked at")
	}
}
