// SPDX-License-Identifier: Apache-2.0

package ring

// What the caller of Send and Receive may know and decide of how much is moved at once.

// Burst is how many datagrams, or messages of a message queue, s is offered at once, at most: as learned from what it took.
func (s *Sink) Burst() int { return int(s.burst) }

// SetBurst changes that, to 1 at least. It is learned anew from there.
func (s *Sink) SetBurst(n int) { s.burst = uint64(max(1, min(n, MaxSend))) }

// HasBurst says whether s, which takes its messages one by one, has more than n of them left to be sent.
func (r *Ring) HasBurst(s *Sink, n int) bool {
	return !s.frames && r.c.Head.Seq.Load()-s.cursor.e.Done.Seq.Load() > uint64(n)
}

// SentBytes is how many bytes of the ring the last Send that returned messages has sent.
func (r *Ring) SentBytes() uint64 { return r.sentBytes }

// PacketLen is how many bytes the packet had that the last Send to a sink with frames that returned messages has sent.
func (r *Ring) PacketLen() int { return int(r.send.Packet[0].Len()) }

// LandedBytes is how many bytes of the ring what is landed will take.
func (r *Ring) LandedBytes() uint64 { return r.landedSize() }
