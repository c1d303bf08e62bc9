// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Proven is a connected socket of the broker's own, and who is at the other end.
type Proven struct {
	FD     int    // the broker's end
	Cookie uint64 // of the broker's end: the key of DeadPeers
	Inode  uint32 // of the other end: what a sink is known by
	UID    uint32 // who created the other end; NoOwner when nobody knows, which only a static sink may have
}

// NoOwner is no user: (uid_t)-1, which the kernel never gives to one.
const NoOwner = ^uint32(0)

// Prover finds out who owns a socket. Its methods may be called from any goroutine that may block.
type Prover struct {
	mu   sync.Mutex // guards diag; not held while connecting, which may take for ever
	diag *sys.SockDiag

	receiving map[uint32]bool // the inodes of the sockets the broker receives from: sending to one is a loop
	overflow  uint32          // the uid that stands for those without a number here
	identity  bool            // the user namespace is the initial one, or like it: everybody has a number
}

// New makes a Prover. receiving are the descriptors that the broker receives from, of every kind. The caller
// closes it.
func New(receiving []int) (*Prover, error) {
	p := &Prover{receiving: make(map[uint32]bool, len(receiving))}
	for _, fd := range receiving {
		inode, err := sys.SocketInode(fd)
		if err != nil {
			return nil, err
		}
		p.receiving[inode] = true
	}
	uidMap, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return nil, fmt.Errorf("cannot read the uid map: %w", err)
	}
	p.identity = identityMap(string(uidMap))
	if p.overflow, err = overflowUID(); err != nil {
		return nil, err
	}
	if p.diag, err = sys.NewSockDiag(); err != nil {
		return nil, err
	}
	return p, nil
}

// Close gives back what New took. It must not run beside another method.
func (p *Prover) Close() error { return p.diag.Close() }

// identityMap tells whether a uid_map (user_namespaces(7)) maps every uid to itself, as that of the initial namespace
// does. One that says so in several lines is not recognised, which errs on the safe side.
func identityMap(uidMap string) bool {
	f := strings.Fields(uidMap)
	return len(f) == 3 && f[0] == "0" && f[1] == "0" && f[2] == "4294967295"
}

// defaultOverflowUID is DEFAULT_OVERFLOWUID of the kernel.
const defaultOverflowUID = 65534

// overflowUID reads what the kernel shows for a uid that has no number in the namespace: 65534 unless changed.
func overflowUID() (uint32, error) {
	b, err := os.ReadFile("/proc/sys/kernel/overflowuid")
	if errors.Is(err, os.ErrNotExist) {
		return defaultOverflowUID, nil // hidden from a service with ProcSubset=pid
	}
	if err != nil {
		return 0, fmt.Errorf("cannot read the overflow uid: %w", err)
	}
	uid, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("cannot read the overflow uid: %w", err)
	}
	return uint32(uid), nil
}

// Join connects a new socket to addr, a dynamic sink or the target of a reply, on behalf of the sender of a datagram,
// and proves that it is the sender's. sndbuf is as in sys.ConnectDatagram. The caller owns the descriptor in the
// result; with a refusal there is none. It blocks on the file systems on the way, for ever if one of them hangs.
func (p *Prover) Join(addr wire.Address, sender sys.Credentials, sndbuf int) (Proven, *wire.Error) {
	if sender.PID == 0 {
		return Proven{}, wire.Refuse(wire.CodeNoCredentials,
			"the kernel gave no credentials: it was sent before the broker was listening, or from outside the broker's "+
				"pid namespace; send it again, or connect to the subscribe socket")
	}
	return p.connect(addr, sndbuf, func(fd int) (Proven, *wire.Error) {
		got, refusal := p.inspect(fd, addr.String())
		if refusal == nil && sender.UID != 0 && sender.UID != got.UID {
			refusal = wire.Refuse(wire.CodeNotOwner,
				"%q belongs to uid %d and not to uid %d who asks; its owner or root has to register it",
				addr, got.UID, sender.UID)
		}
		return got, refusal
	})
}

// JoinStatic is Join for a sink that the administrator declared: whose socket it is does not matter, and it may be in
// another network namespace, but a loop is a loop.
func (p *Prover) JoinStatic(addr wire.Address, sndbuf int) (Proven, *wire.Error) {
	return p.connect(addr, sndbuf, func(fd int) (Proven, *wire.Error) {
		return p.checkStatic(fd, addr.String())
	})
}

func (p *Prover) connect(addr wire.Address, sndbuf int, check func(int) (Proven, *wire.Error)) (Proven, *wire.Error) {
	fd, err := sys.ConnectDatagram(addr.String(), sndbuf)
	if err != nil {
		return Proven{}, refuseConnect(addr, err)
	}
	got, refusal := check(fd)
	if refusal != nil {
		syscall.Close(fd)
		return Proven{}, refusal
	}
	return got, nil
}

// Check proves once more that the socket at the other end of fd, which was inherited, is alive, no loop, and uid's.
// It does not close fd. The code of the refusal tells what is wrong: wire.CodeNoPeer, it is closed; CodeLoop;
// CodeNotOwner; CodeNamespace, nobody can say any more, as the broker was moved to another network namespace.
func (p *Prover) Check(fd int, uid uint32) (Proven, *wire.Error) {
	name, _ := sys.PeerName(fd) // inspect tells when there is none
	got, refusal := p.inspect(fd, name)
	if refusal != nil {
		return Proven{}, refusal
	}
	if got.UID != uid {
		return Proven{}, wire.Refuse(wire.CodeNotOwner, "%q belongs to uid %d and not to uid %d", name, got.UID, uid)
	}
	return got, nil
}

// checkStatic is Check for a static sink. name is how to call it in a refusal.
func (p *Prover) checkStatic(fd int, name string) (Proven, *wire.Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	got, refusal := p.ownEnd(fd, name)
	if refusal != nil {
		return Proven{}, refusal
	}
	got.UID = NoOwner
	if peer, err := p.diag.Lookup(got.Inode); err == nil && peer.HasUID {
		got.UID = peer.UID
	}
	return got, nil
}

// inspect tells what is at the other end of fd, and refuses unless its owner is beyond doubt.
func (p *Prover) inspect(fd int, name string) (Proven, *wire.Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	got, refusal := p.ownEnd(fd, name)
	if refusal != nil {
		return Proven{}, refusal
	}
	peer, err := p.diag.Lookup(got.Inode)
	switch {
	case errors.Is(err, sys.ErrNoSocket):
		// Closed since the first question, or never in this namespace: the own end knows.
		if _, refusal := p.ownEnd(fd, name); refusal != nil {
			return Proven{}, refusal
		}
		return Proven{}, wire.Refuse(wire.CodeNamespace,
			"%q is a socket of another network namespace, where the broker cannot see who owns it; "+
				"connect to the subscribe socket instead", name)
	case err != nil:
		return Proven{}, refuseInternal(name, err)
	case !peer.HasUID:
		return Proven{}, wire.Refuse(wire.CodeUnsupported,
			"the kernel does not tell who owns a socket (Linux 5.3 does); connect to the subscribe socket instead")
	}
	if bound, err := sys.PeerName(fd); err != nil {
		return Proven{}, refuseInternal(name, err)
	} else if !couldBe(peer, bound) {
		return Proven{}, wire.Refuse(wire.CodeNotOwner,
			"there are two sockets with the inode of %q; open another socket and register that", name)
	}
	if !p.identity && peer.UID == p.overflow {
		return Proven{}, wire.Refuse(wire.CodeNotOwner,
			"the owner of %q has no uid in the user namespace of the broker; connect to the subscribe socket instead",
			name)
	}
	got.UID = peer.UID
	return got, nil
}

// couldBe tells whether a socket that was found by its inode can be the one that the own end is connected to, which is
// bound to that name.
func couldBe(found sys.UnixSocket, bound string) bool {
	return found.Type == syscall.SOCK_DGRAM && found.Name == bound
}

// ownEnd finds the peer of fd and refuses one that is closed or the broker itself. p.mu is held.
func (p *Prover) ownEnd(fd int, name string) (Proven, *wire.Error) {
	own, err := p.diag.LookupFD(fd)
	switch {
	case errors.Is(err, sys.ErrNoSocket):
		return Proven{}, wire.Refuse(wire.CodeNamespace,
			"the broker's own end of %q is in another network namespace; register it again", name)
	case err != nil:
		return Proven{}, refuseInternal(name, err)
	case own.Peer == 0:
		return Proven{}, wire.Refuse(wire.CodeNoPeer, "%q is closed; keep the socket open while it is registered", name)
	case p.receiving[own.Peer]:
		return Proven{}, wire.Refuse(wire.CodeLoop,
			"%q is a socket that this broker receives from; what it sent there would come back for ever", name)
	}
	return Proven{FD: fd, Cookie: own.Cookie, Inode: own.Peer}, nil
}

// refuseConnect says in terms of addr why it could not be connected to, and what to do.
func refuseConnect(addr wire.Address, err error) *wire.Error {
	switch {
	case errors.Is(err, syscall.EACCES):
		return wire.Refuse(wire.CodeAccess, "the broker may not write to %q: give group msgmux write access "+
			"(and search access to every folder on the way), or use an abstract name", addr)
	case errors.Is(err, syscall.EPERM):
		return wire.Refuse(wire.CodeAccess, "%q is connected to another socket and takes datagrams from that one only; "+
			"receive on a socket that is bound and not connected", addr)
	case errors.Is(err, syscall.EPROTOTYPE):
		return wire.Refuse(wire.CodeWrongType, "%q is not a datagram socket; bind one of type SOCK_DGRAM, "+
			"or connect to the subscribe socket", addr)
	case errors.Is(err, syscall.ECONNREFUSED) && !addr.Abstract:
		// The same errno for a file that is no socket and a socket that nobody has open. Whoever changes the file
		// between the two calls gets the wrong advice.
		if info, err := os.Stat(addr.Name); err == nil && info.Mode().Type() != os.ModeSocket {
			return wire.Refuse(wire.CodeWrongType, "%q is not a socket (%v); bind a datagram socket there", addr, info.Mode())
		}
		return wire.Refuse(wire.CodeNoPeer, "nobody has the socket %q open; remove the file, bind again, then register",
			addr)
	case errors.Is(err, syscall.ECONNREFUSED):
		return wire.Refuse(wire.CodeNoPeer, "no datagram socket is bound to %q in the broker's network "+
			"namespace; bind it first, then register, or, from a container, connect to the subscribe socket instead", addr)
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR):
		return wire.Refuse(wire.CodeNoPeer, "the broker finds no file %q; bind the socket first, in a folder that the "+
			"broker sees too (a container, and a service with PrivateTmp=, has a /tmp of its own), "+
			"or connect to the subscribe socket instead", addr)
	case errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENAMETOOLONG):
		return wire.Refuse(wire.CodeBadAddress, "%q is not an address that a socket can have (%v)", addr, err)
	}
	return refuseInternal(addr.String(), err)
}

// refuseInternal is for what is not the asker's fault, or not known to be.
func refuseInternal(name string, err error) *wire.Error {
	return wire.Refuse(wire.CodeInternal, "cannot find out who owns %q (%v); try again later", name, err)
}

// DeadPeers lists, by one dump, those of own whose peer is closed: an idle datagram socket gets no event when that
// happens. The keys of own are the cookies of the broker's connected sockets (Proven.Cookie), the values are the
// caller's. A socket that is not listed may be dead all the same, for as long as sockets come and go during the dump.
func DeadPeers[V any](d *sys.SockDiag, own map[uint64]V) ([]V, error) {
	var dead []V
	// Established until a send was refused, closed afterwards.
	const states = 1<<sys.StateEstablished | 1<<sys.StateClose
	err := d.DumpPeers(states, func(s sys.UnixSocket) bool {
		if s.Peer == 0 {
			if v, ok := own[s.Cookie]; ok {
				dead = append(dead, v)
			}
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	return dead, nil
}
