// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/msgmux/msgmux/broker/scout"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Proven is a connected socket of the broker's own, and who is at the other end.
type Proven struct {
	FD     int    // the broker's end
	Cookie uint64 // of the broker's end: the key of DeadPeers
	Inode  uint32 // of the other end: what a sink is known by
	UID    uint32 // who created the other end; NoOwner when nobody knows, which only a static sink may have

	// Peer is the cookie of the other end, and ReceiveBuffer its SO_RCVBUF, in bytes.
	Peer          uint64
	ReceiveBuffer uint32

	// Sending says that the other end has sent something that nobody has read yet. While a datagram lies in its queue, that is so
	// of the socket that it came from. A socket of which it is not so has the address that a datagram came from for another reason:
	// such an address leads elsewhere by now, or here.
	Sending bool
}

// NoOwner is no user: (uid_t)-1, which the kernel never gives to one.
const NoOwner = ^uint32(0)

// Prover finds out who owns a socket. Its methods may be called from any goroutine that may block.
type Prover struct {
	mu    sync.Mutex    // guards diag; not held while connecting, which may take for ever
	diag  *sys.SockDiag // nil where the kernel tells nothing about sockets (sys.ErrNoDiag)
	scout *scout.Scout
	user  func(uint32) uint32 // nil: everybody for himself

	receiving map[uint32]bool // the inodes of the sockets the broker receives from: sending to one is a loop
	names     map[string]bool // what these are bound to
	overflow  uint32          // the uid that stands for those without a number here
	identity  bool            // the user namespace is the initial one, or like it: everybody has a number
}

// Config says what a Prover is made of.
type Config struct {
	Receiving []int               // the descriptors that the broker receives from, of every kind
	Program   string              // of scout.Config
	User      func(uint32) uint32 // whom a uid counts as where something is shared out by user; nil: everybody for himself
}

// New makes a Prover. The caller closes it.
func New(c Config) (*Prover, error) { return newProver(c, sys.NewSockDiag) }

func newProver(c Config, newDiag func() (*sys.SockDiag, error)) (*Prover, error) {
	p := &Prover{user: c.User, receiving: make(map[uint32]bool, len(c.Receiving)), names: make(map[string]bool, len(c.Receiving))}
	for _, fd := range c.Receiving {
		inode, err := sys.SocketInode(fd)
		if err != nil {
			return nil, err
		}
		p.receiving[inode] = true
		if name, err := sys.BoundTo(fd); err == nil && name != "" {
			p.names[name] = true
		}
	}
	uidMap, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return nil, fmt.Errorf("cannot read the uid map: %w", err)
	}
	p.identity = identityMap(string(uidMap))
	if p.overflow, err = overflowUID(); err != nil {
		return nil, err
	}
	if p.diag, err = newDiag(); err != nil && !errors.Is(err, sys.ErrNoDiag) {
		return nil, err
	}
	unmapped := p.overflow
	if p.identity {
		unmapped = scout.NoUser
	}
	p.scout = scout.New(scout.Config{Unmapped: unmapped, Program: c.Program})
	return p, nil
}

// End ends the process that finds out where paths lead. Nobody is proved to own a path that takes it from then on. It may run beside other
// methods.
func (p *Prover) End() { p.scout.End() }

// Close gives back what New took. It must not run beside another method.
func (p *Prover) Close() error {
	p.scout.Close()
	if p.diag == nil {
		return nil
	}
	return p.diag.Close()
}

// Blind says that the kernel tells nothing about sockets. Then nobody can prove that one is his, so there are static sinks only.
func (p *Prover) Blind() bool { return p.diag == nil }

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

// Known says whether the kernel told who sent a datagram. Its uid counts also if the process is in another pid namespace,
// where it has no number here.
func (p *Prover) Known(sender sys.Credentials) bool {
	return sender.PID != 0 || sender.UID != p.overflow
}

// Join connects a new socket to addr, a dynamic sink or the target of a reply, on behalf of the sender of a datagram,
// and proves that it is the sender's; anybody's is taken if anyones is true. sndbuf is as in sys.ConnectDatagram. The caller owns
// the descriptor in the result; with a refusal there is none. Where a file system on the way does not answer it blocks, for a second.
func (p *Prover) Join(addr wire.Address, sender sys.Credentials, sndbuf int, anyones bool) (Proven, *wire.Error) {
	if !p.Known(sender) {
		return Proven{}, RefuseUnknown()
	}
	return p.connect(addr, sndbuf, sender.UID, func(fd int) (Proven, *wire.Error) {
		got, refusal := p.inspect(fd, addr.String())
		if refusal == nil && !anyones && got.UID != sender.UID {
			refusal = wire.Refuse(wire.CodeNotOwner, "%q belongs to uid %d and not to uid %d who asks; its owner or root has to register it, "+
				"or who holds it proves that (prove=yes)",
				addr, got.UID, sender.UID)
		}
		return got, refusal
	})
}

// Renamed is where a socket of the sender's lies by now that was bound to a path, and whose file has another name in the same folder
// since: the name that the kernel tells is the one it was bound to, and no way to it. Whoever joins that address proves it
// again. It may block as Join may.
func (p *Prover) Renamed(bound wire.Address, sender sys.Credentials) (wire.Address, bool) {
	if bound.Abstract || p.Blind() {
		return wire.Address{}, false
	}
	var files []uint32
	p.mu.Lock()
	err := p.diag.Named(bound.Name, func(s sys.UnixSocket) bool {
		if s.Type == syscall.SOCK_DGRAM && s.HasUID && s.UID == sender.UID {
			files = append(files, s.File)
		}
		return true
	})
	p.mu.Unlock()
	if err != nil || len(files) != 1 { // of several, nobody can tell which it is
		return wire.Address{}, false
	}
	who := sender.UID
	if p.user != nil {
		who = p.user(who)
	}
	folder := path.Dir(bound.Name)
	name, err := p.scout.Find(folder, files[0], who)
	if err != nil || name == "" {
		return wire.Address{}, false
	}
	addr, err := wire.ParseAddress(path.Join(folder, name))
	return addr, err == nil
}

// RefuseUnknown is the answer to who sends without credentials.
func RefuseUnknown() *wire.Error {
	return wire.Refuse(wire.CodeNoCredentials, "the kernel gave no credentials, as it was sent before the broker was listening or by "+
		"a user without a number here; send it again, or connect to the subscribe socket")
}

// Declared is what the path of a static sink leads to.
type Declared struct {
	Proven            // of a message queue only FD
	File   sys.FileID // the socket's file, or the queue; none for an abstract name
	Queue  bool       // a message queue, open for sending
}

// JoinStatic is Join for a sink that the administrator declared: whose socket it is does not matter, and it may be in
// another network namespace, but a loop is a loop, and where its path leads is the administrator's say alone ([scout.Scout]).
func (p *Prover) JoinStatic(addr wire.Address, sndbuf int) (Declared, *wire.Error) {
	found, err := p.dial(addr, sndbuf, scout.Declared)
	if err != nil {
		return Declared{}, refuseConnect(addr, err)
	}
	d := Declared{Proven: Proven{FD: found.FD}, File: found.File, Queue: found.Queue}
	if found.Queue {
		return d, nil
	}
	got, refusal := p.checkStatic(found.FD, addr.String())
	if refusal != nil {
		syscall.Close(found.FD)
		return Declared{}, refusal
	}
	d.Proven = got
	return d, nil
}

// Options reads a small file beside the sinks, as sys.ReadSmallFile does. It may block for ten seconds.
func (p *Prover) Options(path string, limit int) ([]byte, error) { return p.scout.Read(path, limit) }

// Look is the file that the path of a static sink leads to now; false if there is none, or it cannot be looked at. It may
// block as JoinStatic does.
func (p *Prover) Look(addr wire.Address) (sys.FileID, bool) {
	if addr.Abstract {
		return sys.FileID{}, false
	}
	file, err := p.scout.Look(addr.Name, scout.Declared)
	return file, err == nil
}

// dial connects a new socket to addr.
func (p *Prover) dial(addr wire.Address, sndbuf int, who uint32) (scout.Found, error) {
	if !addr.Abstract {
		return p.scout.Connect(addr.Name, sndbuf, who)
	}
	fd, err := sys.ConnectDatagram(addr.String(), sndbuf)
	return scout.Found{FD: fd}, err
}

func (p *Prover) connect(addr wire.Address, sndbuf int, who uint32, check func(int) (Proven, *wire.Error)) (Proven, *wire.Error) {
	if p.user != nil {
		who = p.user(who)
	}
	found, err := p.dial(addr, sndbuf, who)
	if err == nil && found.Queue {
		syscall.Close(found.FD)
		err = fmt.Errorf("%w, but a message queue", scout.ErrNoSocket)
	}
	if err != nil {
		return Proven{}, refuseConnect(addr, err)
	}
	got, refusal := check(found.FD)
	if refusal != nil {
		syscall.Close(found.FD)
		return Proven{}, refusal
	}
	return got, nil
}

// Check proves once more that the socket at the other end of fd, which was inherited, is alive, no loop, and uid's; anybody's is taken if
// anyones is true.
// It does not close fd. The code of the refusal tells what is wrong: wire.CodeNoPeer, it is closed; CodeLoop;
// CodeNotOwner; CodeNamespace, nobody can say any more, as the broker was moved to another network namespace.
func (p *Prover) Check(fd int, uid uint32, anyones bool) (Proven, *wire.Error) {
	name, _ := sys.PeerName(fd) // inspect tells when there is none
	got, refusal := p.inspect(fd, name)
	if refusal != nil {
		return Proven{}, refusal
	}
	if !anyones && got.UID != uid {
		return Proven{}, wire.Refuse(wire.CodeNotOwner, "%q belongs to uid %d and not to uid %d", name, got.UID, uid)
	}
	return got, nil
}

// checkStatic is Check for a static sink. name is how to call it in a refusal.
func (p *Prover) checkStatic(fd int, name string) (Proven, *wire.Error) {
	if p.Blind() {
		return p.blindStatic(fd, name)
	}
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

// blindStatic is checkStatic where the kernel tells nothing about sockets. One of the broker's own has the name that it is
// bound to, wherever that leads by now; another one of that name is refused for nothing.
func (p *Prover) blindStatic(fd int, name string) (Proven, *wire.Error) {
	if bound, err := sys.PeerName(fd); err != nil {
		return Proven{}, refuseInternal(name, err)
	} else if p.names[bound] {
		return Proven{}, refuseLoop(name)
	}
	cookie, err := sys.SocketCookie(fd)
	if err != nil {
		return Proven{}, refuseInternal(name, err)
	}
	return Proven{FD: fd, Cookie: cookie, UID: NoOwner}, nil
}

func refuseLoop(name string) *wire.Error {
	return wire.Refuse(wire.CodeLoop, "%q is a socket that this broker receives from; what it sent there would come back for ever", name)
}

// inspect tells what is at the other end of fd, and refuses unless its owner is beyond doubt.
func (p *Prover) inspect(fd int, name string) (Proven, *wire.Error) {
	if p.Blind() {
		return Proven{}, wire.Refuse(wire.CodeUnsupported,
			"the kernel does not tell who owns a socket: it lacks unix_diag (modprobe unix_diag, then restart the broker); "+
				"connect to the subscribe socket instead")
	}
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
	got.UID, got.Sending = peer.UID, peer.Sent > 0
	got.Peer, got.ReceiveBuffer = peer.Cookie, peer.ReceiveBuffer
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
		return Proven{}, refuseLoop(name)
	}
	return Proven{FD: fd, Cookie: own.Cookie, Inode: own.Peer}, nil
}

// refuseConnect says in terms of addr why it could not be connected to, and what to do.
func refuseConnect(addr wire.Address, err error) *wire.Error {
	switch {
	case errors.Is(err, scout.ErrForeign):
		return wire.Refuse(wire.CodeAccess, "%q does not become a sink: %v; link to the socket itself", addr, err)
	case errors.Is(err, scout.ErrSilent):
		return wire.Refuse(wire.CodeTimeout, "the file system of %q does not answer; try again later, or use an abstract name", addr)
	case errors.Is(err, scout.ErrBusy):
		return wire.Refuse(wire.CodeBusy, "%v; try again later, or use an abstract name", err)
	case errors.Is(err, scout.ErrNoSocket):
		return wire.Refuse(wire.CodeWrongType, "%q is %v; bind a datagram socket there", addr, err)
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
// caller's. A socket that is not listed may be dead all the same, for as long as sockets come and go during the dump. seen is called
// for the others, with what they have sent that is unread, as the kernel counts it; nil: for none.
func DeadPeers[V any](d *sys.SockDiag, own map[uint64]V, seen func(v V, left int)) ([]V, error) {
	var dead []V
	// Established until a send was refused, closed afterwards.
	const states = 1<<sys.StateEstablished | 1<<sys.StateClose
	err := d.DumpPeers(states, func(s sys.UnixSocket) bool {
		if s.Peer == 0 {
			if v, ok := own[s.Cookie]; ok {
				dead = append(dead, v)
			}
		} else if v, ok := own[s.Cookie]; ok && seen != nil {
			seen(v, int(s.Sent))
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	return dead, nil
}
