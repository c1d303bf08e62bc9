// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Who is at the ends of a channel: what the kernel tells of sockets (sock_diag(7)), and /proc of who holds them.

// sender is what one user has connected to one of the channel's sockets.
type sender struct {
	Socket    string   `json:"socket"` // source or publish
	UID       uint32   `json:"uid"`
	Sockets   int      `json:"sockets"`             // how many of his are connected
	Processes []string `json:"processes,omitempty"` // name[pid], as far as the caller may see them
}

// sinkEnd is who holds the socket of a sink; of sinks that are connected, all sockets of one user, as nothing outside of the broker
// tells them apart.
type sinkEnd struct {
	Sinks     []string `json:"sinks"` // labels
	UID       uint32   `json:"uid"`
	Sockets   int      `json:"sockets"`
	Processes []string `json:"processes,omitempty"` // name[pid], as far as the caller may see them
	Units     []string `json:"units,omitempty"`     // of systemd, that these are in

	held []owner
}

// ends are the programs at both ends.
type ends struct {
	senders []sender
	readers []sinkEnd
	sending []owner // who holds a socket of the senders
}

// owner is a process that holds a socket.
type owner struct {
	pid  int
	name string
}

func (o owner) String() string { return o.name + "[" + strconv.Itoa(o.pid) + "]" }

// group is whose sockets are told together.
type group struct {
	socket string // of the channel, or a sink: sinkPrefix and its label
	uid    uint32
}

// endsOf asks the kernel who is connected to the channel, and who holds the sockets that its sinks are. Programs that name the
// socket with each message are not connected, and those of other network namespaces are not told of.
func endsOf(runtimeDir string, sinks []wire.Sink) (*ends, error) {
	diag, err := sys.NewSockDiag()
	if err != nil {
		return nil, err
	}
	defer diag.Close()
	byInode := make(map[uint32]sys.UnixSocket)
	if err := diag.Dump(sys.AllStates, func(s sys.UnixSocket) bool { byInode[s.Inode] = s; return true }); err != nil {
		return nil, err
	}
	sockets, at := socketsOf(sinks), func(socket string) string { return filepath.Join(runtimeDir, socket) }
	found := make(map[group][]uint32)
	for inode, s := range byInode {
		peer, is := byInode[s.Peer], ""
		connected := s.Type == syscall.SOCK_SEQPACKET && s.State == sys.StateEstablished && s.Name == ""
		switch {
		case s.Type == syscall.SOCK_DGRAM && sockets.labelOf(s) != "":
			is = sinkPrefix + sockets.labelOf(s)
		case s.Peer == 0:
		case s.Type == syscall.SOCK_DGRAM && peer.Name == at(wire.SocketSource):
			is = wire.SocketSource
		case connected && peer.Name == at(wire.SocketPublish):
			is = wire.SocketPublish
		case connected && peer.Name == at(wire.SocketSubscribe):
			is = wire.SocketSubscribe
		}
		if is != "" {
			found[group{is, s.UID}] = append(found[group{is, s.UID}], inode)
		}
	}
	owners, e := ownersOf(slices.Concat(slices.Collect(maps.Values(found))...)), &ends{}
	for k, inodes := range found {
		var held []owner
		for _, inode := range inodes {
			held = append(held, owners[inode]...)
		}
		slices.SortFunc(held, func(a, b owner) int { return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(a.pid, b.pid)) })
		held = slices.Compact(held)
		var processes, units []string
		for _, o := range held {
			processes = append(processes, o.String())
			if unit := unitOf(o.pid); unit != "" {
				units = append(units, unit)
			}
		}
		switch k.socket {
		case wire.SocketSource, wire.SocketPublish:
			e.senders = append(e.senders, sender{k.socket, k.uid, len(inodes), processes})
			e.sending = append(e.sending, held...)
		default:
			slices.Sort(units)
			r := sinkEnd{[]string{strings.TrimPrefix(k.socket, sinkPrefix)}, k.uid, len(inodes), processes, slices.Compact(units), held}
			if k.socket == wire.SocketSubscribe {
				r.Sinks = connectedSinks(sinks, k.uid)
			}
			e.readers = append(e.readers, r)
		}
	}
	slices.SortFunc(e.senders, func(a, b sender) int { return cmp.Or(-cmp.Compare(a.Socket, b.Socket), cmp.Compare(a.UID, b.UID)) })
	slices.SortFunc(e.readers, func(a, b sinkEnd) int { return cmp.Or(slices.Compare(a.Sinks, b.Sinks), cmp.Compare(a.UID, b.UID)) })
	return e, nil
}

// sinkPrefix stands before the label of a sink where others are named by the channel's sockets.
const sinkPrefix = "sink "

// sinkSockets are the labels of the sinks that are datagram sockets: by what these were bound to, and by the file that lies there now,
// as one may have been bound by another path.
type sinkSockets struct {
	byName map[string]string
	byFile map[sys.SocketFile]string
}

func socketsOf(sinks []wire.Sink) sinkSockets {
	found := sinkSockets{make(map[string]string), make(map[sys.SocketFile]string)}
	for _, s := range sinks {
		if s.Kind != "static" && s.Kind != "dynamic" {
			continue
		}
		found.byName[s.Address] = s.Label
		if !strings.HasPrefix(s.Address, "/") {
			continue
		}
		if file, ok := sys.SocketFileAt(s.Address); ok {
			found.byFile[file] = s.Label
		}
		if target, err := filepath.EvalSymlinks(s.Address); err == nil {
			found.byName[target] = s.Label
		}
	}
	return found
}

// labelOf is the label of the sink that a socket is, "" if it is none.
func (f *sinkSockets) labelOf(s sys.UnixSocket) string {
	return cmp.Or(f.byFile[s.BoundFile()], f.byName[s.Name])
}

// connectedSinks are the labels of a user's sinks that are connections.
func connectedSinks(sinks []wire.Sink, uid uint32) (labels []string) {
	for _, s := range sinks {
		if s.Kind == "framed" && s.UID == uid && s.State != "absent" {
			labels = append(labels, s.Label)
		}
	}
	slices.Sort(labels)
	return labels
}

// of are the readers that a sink with that label may be.
func (e *ends) of(label string) (found []sinkEnd) {
	for _, r := range e.readers {
		if slices.Contains(r.Sinks, label) {
			found = append(found, r)
		}
	}
	return found
}

// holders are the processes that hold a socket of a sink with that label, and their units; "" if none is known.
func (e *ends) holders(label string) string {
	var all []string
	for _, r := range e.of(label) {
		for _, o := range r.held {
			text := o.String()
			if unit := unitOf(o.pid); unit != "" {
				text += " of " + unit
			}
			all = append(all, text)
		}
	}
	if len(all) == 0 {
		return ""
	}
	return some(all)
}

// circle is a process that holds a socket of a sink with that label, and one to send to the channel; "" if there is none.
func (e *ends) circle(label string) string {
	for _, r := range e.of(label) {
		for _, o := range r.held {
			if slices.Contains(e.sending, o) {
				return o.String()
			}
		}
	}
	return ""
}

// ownersOf finds who holds the sockets (proc_pid_fd(5)). For others than root that is only one's own.
func ownersOf(inodes []uint32) map[uint32][]owner {
	wanted := make(map[string]uint32)
	for _, inode := range inodes {
		wanted[fmt.Sprintf("socket:[%d]", inode)] = inode
	}
	owners := make(map[uint32][]owner)
	if len(wanted) == 0 {
		return owners
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		target, err := os.Readlink(link)
		inode, ok := wanted[target]
		if err != nil || !ok {
			continue
		}
		pid := strings.Split(link, "/")[2]
		name, _ := os.ReadFile("/proc/" + pid + "/comm")
		n, _ := strconv.Atoi(pid)
		owners[inode] = append(owners[inode], owner{n, strings.TrimSpace(string(name))})
	}
	return owners
}

// appendSenders appends a table of the senders, or that there are none.
func appendSenders(dst []byte, senders []sender) []byte {
	if len(senders) == 0 {
		return append(dst, "senders   none is connected\n"...)
	}
	t := table{{"SENDERS", "USER", "sockets", "PROCESSES"}}
	for _, s := range senders {
		t = append(t, []string{s.Socket, userName(s.UID), strconv.Itoa(s.Sockets), some(s.Processes)})
	}
	return t.append(dst)
}

// appendReaders appends a table of the readers, or that there are none.
func appendReaders(dst []byte, readers []sinkEnd) []byte {
	if len(readers) == 0 {
		return append(dst, "readers   none is there\n"...)
	}
	t := table{{"READERS", "USER", "sockets", "UNITS", "PROCESSES"}}
	for _, r := range readers {
		t = append(t, []string{some(r.Sinks), userName(r.UID), strconv.Itoa(r.Sockets), cmp.Or(some(r.Units), "-"), some(r.Processes)})
	}
	return t.append(dst)
}

// some is a list as a table has it: the first few.
func some(list []string) string {
	const most = 5
	if len(list) <= most {
		return visible(strings.Join(list, " "))
	}
	return visible(strings.Join(list[:most], " ")) + fmt.Sprintf(" and %d more", len(list)-most)
}
