// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// reader is a sink of either kind.
type reader struct {
	id    uint64
	read  func() int // takes what is next, and returns how many messages that were; 0: nothing comes
	close func()
}

func datagramReader(s *brokertest.Sink) reader {
	return reader{s.ID, func() int {
		if _, err := s.ReceiveWithin(100 * time.Millisecond); err != nil {
			return 0
		}
		return 1
	}, s.Close}
}

func framedReader(c *brokertest.Client) reader {
	return reader{c.ID, func() int {
		p, err := c.ReceiveWithin(100 * time.Millisecond)
		if err != nil {
			return 0
		}
		return p.Count
	}, c.Close}
}

// TestPromise5_Unread: what lies unread in the socket of a sink that goes is counted, also of one of a share, whose others go on.
func TestPromise5_Unread(t *testing.T) {
	kinds := map[string]func(*testing.T, *brokertest.Broker, ...string) reader{
		"datagrams": func(t *testing.T, b *brokertest.Broker, o ...string) reader {
			return datagramReader(brokertest.NewSink(t, b.Dir, o...))
		},
		"packed": func(t *testing.T, b *brokertest.Broker, o ...string) reader {
			s := brokertest.NewSink(t, b.Dir, append(o, "frames=yes")...)
			return reader{s.ID, func() int {
				b, err := s.Receive()
				p, failed := wire.ParseSinkPacket(b)
				if err != nil || failed != nil {
					return 0
				}
				return p.Count
			}, s.Close}
		},
		"framed": func(t *testing.T, b *brokertest.Broker, o ...string) reader {
			return framedReader(brokertest.NewSubscriber(t, b.Dir, o...))
		},
		"origins": func(t *testing.T, b *brokertest.Broker, o ...string) reader {
			return framedReader(brokertest.NewSubscriber(t, b.Dir, append(o, "meta=yes")...))
		},
	}
	for kind, open := range kinds {
		for _, size := range []int{20, 3000} {
			for _, reads := range []int{0, 7} {
				t.Run(fmt.Sprintf("%s of %d bytes, %d read", kind, size, reads), func(t *testing.T) {
					t.Parallel()
					log := &keptLog{}
					b := brokertest.Start(t, keepLog(log))
					source := brokertest.NewSource(t, b.Dir)
					dies := open(t, b, "share=workers", "label=dies")
					many := uint64(200) // more than a queue of datagrams holds, less than the ring
					for i := range many {
						if err := source.Send(stamped(1, i, size)); err != nil {
							t.Fatal(err)
						}
					}
					settled(t, b, dies.id, many)
					read := uint64(0)
					for range reads {
						read += uint64(dies.read())
					}
					settled(t, b, dies.id, many)
					if reads > 0 {
						time.Sleep(4 * time.Second) // somebody looks every 3
					}
					stays := brokertest.NewSink(t, b.Dir, "share=workers", "label=stays")
					took := sinkOf(t, b, dies.id).Accepted
					if took == 0 || reads > 0 && read == 0 {
						t.Fatalf("%d taken, %d read", took, read)
					}
					dies.close()
					got := uint64(0)
					for {
						if _, err := stays.ReceiveWithin(200 * time.Millisecond); err != nil {
							if _, there := findSink(b, dies.id); !there && !waiting(b, stays.ID) {
								break
							}
							continue
						}
						got++
					}
					// Between the look and its end it may have been sent more, into the room that it had made.
					took = many - got
					if left := sinkOf(t, b, stays.ID).Unread; left != took-read {
						t.Errorf("%d taken and %d read: the share shows %d unread", took, read, left)
					}
					if left := b.Channel.Status().Unread; left != took-read {
						t.Errorf("%d taken and %d read: the channel shows %d unread", took, read, left)
					}
					if took == read {
						return // it was quick
					}
					log.logged(t, 1, "sink-gone", "sink=dies", fmt.Sprintf("unread=%d", took-read))
				})
			}
		}
	}
}

// settled waits until a sink has got all of many messages, or takes no more.
func settled(t *testing.T, b *brokertest.Broker, id, many uint64) {
	t.Helper()
	test.Eventually(t, "a full queue", func() bool {
		if b.Channel.Status().Received < many {
			return false
		}
		s := sinkOf(t, b, id)
		time.Sleep(50 * time.Millisecond)
		return sinkOf(t, b, id).Accepted == s.Accepted
	})
}

// TestPromise5_NothingUnread: a sink that has read everything leaves nothing unread, whichever way it goes; nor does one that is
// removed, and still has what is in its socket.
func TestPromise5_NothingUnread(t *testing.T) {
	b := brokertest.Start(t)
	source := brokertest.NewSource(t, b.Dir)
	stays := brokertest.NewSink(t, b.Dir)
	const many = 10 // which a queue holds
	for name, way := range map[string]func(t *testing.T) (id uint64){
		"a connection": func(t *testing.T) uint64 {
			c := brokertest.NewSubscriber(t, b.Dir)
			sendOneByOne(t, source, stays, many)
			for n := 0; n < many; {
				p, err := c.Receive()
				if err != nil {
					t.Fatal(err)
				}
				n += p.Count
			}
			c.Close()
			return c.ID
		},
		"a socket that was idle": func(t *testing.T) uint64 {
			s := brokertest.NewSink(t, b.Dir)
			sendOneByOne(t, source, stays, many)
			receiveSeq(t, s, 1, 0, many)
			time.Sleep(4 * time.Second) // somebody looks every 3
			s.Close()
			return s.ID
		},
		"a removal": func(t *testing.T) uint64 {
			s := brokertest.NewSink(t, b.Dir)
			sendOneByOne(t, source, stays, many)
			test.Eventually(t, "sent", func() bool { return !waiting(b, s.ID) })
			if r := brokertest.Register(t, b.Dir, s.Name, "remove"); r.Err != nil {
				t.Fatal(r.Err)
			}
			receiveSeq(t, s, 1, 0, many)
			return s.ID
		},
	} {
		t.Run(name, func(t *testing.T) {
			gone(t, b, way(t))
			if n := b.Channel.Status().Unread; n != 0 {
				t.Errorf("%d are unread", n)
			}
		})
	}
}

func sendOneByOne(t *testing.T, source *brokertest.Source, stays *brokertest.Sink, many uint64) {
	t.Helper()
	for i := range many {
		if err := source.Send(stamped(1, i, 100)); err != nil {
			t.Fatal(err)
		}
		receiveSeq(t, stays, 1, i, i+1)
	}
}

// TestPromise5_UnreadByStatic: a static sink whose socket goes shows what lay unread there when it is back, and after a restart.
func TestPromise5_UnreadByStatic(t *testing.T) {
	b := brokertest.Start(t)
	source := brokertest.NewSource(t, b.Dir)
	path := b.Dir + "/sinks/archive"
	static := brokertest.NewSocket(t, path)
	const many = 9
	for i := range uint64(many) {
		if err := source.Send(stamped(1, i, 100)); err != nil {
			t.Fatal(err)
		}
	}
	unread := func() (n uint64, state string) {
		_, sinks := b.Channel.List()
		for _, s := range sinks {
			if s.Label == "archive" {
				return s.Unread, s.State
			}
		}
		return 0, ""
	}
	sent := func(n uint64) {
		t.Helper()
		test.Eventually(t, "all sent", func() bool {
			_, sinks := b.Channel.List()
			return len(sinks) == 1 && sinks[0].Accepted == n
		})
	}
	sent(many)
	receiveSeq(t, static, 1, 0, 4)
	time.Sleep(20 * time.Millisecond) // it is seen once more before it goes: 5 lie there
	if err := source.Send(stamped(1, many, 100)); err != nil {
		t.Fatal(err)
	}
	sent(many + 1)
	static.Close()
	removeFile(t, path)
	test.Eventually(t, "absent", func() bool { _, state := unread(); return state == "absent" })
	if n, _ := unread(); n != 6 {
		t.Errorf("%d are unread instead of 6", n)
	}
	before, _ := unread()
	brokertest.NewSocket(t, path)
	test.Eventually(t, "back", func() bool { _, state := unread(); return state == "ready" })
	if n, _ := unread(); n != before {
		t.Errorf("%d are unread, and were %d", n, before)
	}
	if n := b.Channel.Status().Unread; n != before {
		t.Errorf("the channel shows %d unread instead of %d", n, before)
	}
}
