// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"crypto/rand"
	"encoding/binary"
	"time"

	"github.com/msgmux/msgmux/broker/owner"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Who holds a socket that somebody else has made proves it by what nobody else can do: he sets its receive buffer to a number that
// he has just been told, and the kernel tells us the size. Nothing is sent into the socket before. The size means nothing to a unix
// socket, where what is queued counts against its sender.

const (
	// claimLasts is how long somebody has to set it.
	claimLasts = 10 * time.Second
	// maxClaims and userClaims bound how many are open, in all and of one user.
	maxClaims  = 256
	userClaims = 8
	// The numbers are from leastBuffer on, 65,536 of them. The kernel stores twice what is set, and takes as much as
	// net.core.rmem_max at least up to 128 KiB nearly everywhere.
	leastBuffer = 4096
)

// claim is who says that he holds which socket, by its cookie, which never comes again.
type claim struct {
	socket uint64
	uid    uint32
}

// wanted is what the buffer of a claimed socket has to be set to, and until when.
type wanted struct {
	size uint32
	ends time.Time
}

type claims map[claim]wanted

// holds connects to a socket that somebody else than the sender has made, if he proves that he holds it. Otherwise he is told how.
func (x *registrar) holds(addr wire.Address, sender sys.Credentials) (owner.Proven, *wire.Error) {
	at, refusal := x.gate.prover.Join(addr, sender, x.gate.limits.SendBuffer(), true)
	if refusal != nil {
		return at, refusal
	}
	if refusal = x.claims.judge(claim{at.Peer, sender.UID}, at.ReceiveBuffer, time.Now(), x.gate.limits.User); refusal != nil {
		sys.Close(at.FD)
		return owner.Proven{}, refusal
	}
	return at, nil
}

// judge says whether a claim is proved by a buffer of that size, once; or how it can be. user says whom a uid counts as.
func (c claims) judge(what claim, size uint32, now time.Time, user func(uint32) uint32) *wire.Error {
	of := 0
	for k, w := range c {
		if now.After(w.ends) {
			delete(c, k)
		} else if user(k.uid) == user(what.uid) {
			of++
		}
	}
	w, open := c[what]
	switch {
	case open && 2*w.size == size:
		delete(c, what)
		return nil
	case !open && (of >= userClaims || len(c) >= maxClaims):
		return wire.Refuse(wire.CodeBusy, "%d sockets wait to be proved to be held; try again in %s", len(c), claimLasts)
	case !open:
		// Nobody is to have set it by chance.
		for w.size = 0; w.size == 0 || 2*w.size == size; {
			var b [2]byte
			rand.Read(b[:])
			w.size = leastBuffer + uint32(binary.NativeEndian.Uint16(b[:]))
		}
		w.ends = now.Add(claimLasts)
		c[what] = w
	}
	return wire.Refuse(wire.CodeProve, "%d: set SO_RCVBUF of the socket to that number and register again within %s; somebody else has made it",
		w.size, w.ends.Sub(now).Round(time.Second))
}
