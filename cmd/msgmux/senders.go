// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// The sockets of a channel that are for sources.
const (
	socketSource  = "source"
	socketPublish = "publish"
)

// sender is what one user has connected to one of the channel's sockets.
type sender struct {
	Socket    string   `json:"socket"` // source or publish
	UID       uint32   `json:"uid"`
	Sockets   int      `json:"sockets"`             // how many of his are connected
	Processes []string `json:"processes,omitempty"` // name[pid], as far as the caller may see them
}

// unixSocket is a socket as the kernel shows it (sock_diag(7), linux/unix_diag.h).
type unixSocket struct {
	kind, state byte
	inode, peer uint32
	uid         uint32
	path        string
}

// The numbers of struct unix_diag_msg and of its attributes.
const (
	diagShowName    = 1 << 0
	diagName        = 0
	diagPeer        = 2
	diagEstablished = 1
)

// connectedSenders asks the kernel who is connected to the channel. Programs that name the socket with each message are
// not connected, and those of other network namespaces are not told of.
func connectedSenders(runtimeDir string) ([]sender, error) {
	all, err := unixSockets()
	if err != nil {
		return nil, fmt.Errorf("cannot ask the kernel for the senders: %w", err)
	}
	byInode := make(map[uint32]unixSocket, len(all))
	for _, s := range all {
		byInode[s.inode] = s
	}
	type key struct {
		socket string
		uid    uint32
	}
	found := make(map[key][]uint32)
	source, publish := filepath.Join(runtimeDir, socketSource), filepath.Join(runtimeDir, socketPublish)
	for _, s := range all {
		peer := byInode[s.peer]
		switch {
		case s.peer == 0:
		case s.kind == syscall.SOCK_DGRAM && peer.path == source:
			found[key{socketSource, s.uid}] = append(found[key{socketSource, s.uid}], s.inode)
		case s.kind == syscall.SOCK_SEQPACKET && s.state == diagEstablished && s.path == "" && peer.path == publish:
			found[key{socketPublish, s.uid}] = append(found[key{socketPublish, s.uid}], s.inode)
		}
	}
	owners := processesOf(found)
	list := make([]sender, 0, len(found))
	for k, inodes := range found {
		s := sender{Socket: k.socket, UID: k.uid, Sockets: len(inodes)}
		for _, inode := range inodes {
			s.Processes = append(s.Processes, owners[inode]...)
		}
		slices.Sort(s.Processes)
		s.Processes = slices.Compact(s.Processes)
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b sender) int { return cmp.Or(-cmp.Compare(a.Socket, b.Socket), cmp.Compare(a.UID, b.UID)) })
	return list, nil
}

// processesOf finds who holds the sockets (proc_pid_fd(5)). For others than root that is only one's own.
func processesOf[K comparable](sockets map[K][]uint32) map[uint32][]string {
	wanted := make(map[string]uint32)
	for _, inodes := range sockets {
		for _, inode := range inodes {
			wanted[fmt.Sprintf("socket:[%d]", inode)] = inode
		}
	}
	owners := make(map[uint32][]string)
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
		owners[inode] = append(owners[inode], strings.TrimSpace(string(name))+"["+pid+"]")
	}
	return owners
}

// unixSockets is every unix socket of this network namespace.
func unixSockets() ([]unixSocket, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, netlinkSockDiag)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer syscall.Close(fd)
	if err := askDiag(fd, 0, syscall.NLM_F_DUMP, diagShowName|diagShowPeer|diagShowUID); err != nil {
		return nil, err
	}
	var all []unixSocket
	answer := make([]byte, 64<<10)
	for {
		n, _, err := syscall.Recvfrom(fd, answer, 0)
		if err != nil {
			return nil, os.NewSyscallError("recvfrom", err)
		}
		messages, err := syscall.ParseNetlinkMessage(answer[:n])
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			switch m.Header.Type {
			case syscall.NLMSG_DONE:
				return all, nil
			case syscall.NLMSG_ERROR:
				if len(m.Data) < 4 {
					return nil, errors.New("the answer is none")
				}
				return nil, syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
			}
			if s, ok := parseSocket(m.Data); ok {
				all = append(all, s)
			}
		}
	}
}

// parseSocket reads struct unix_diag_msg: family, type, state, padding, inode, cookie; and the attributes behind it.
func parseSocket(b []byte) (s unixSocket, ok bool) {
	if len(b) < 16 {
		return s, false
	}
	order := binary.NativeEndian
	s.kind, s.state, s.inode = b[1], b[2], order.Uint32(b[4:])
	eachAttribute(b[16:], func(kind uint16, value []byte) {
		switch {
		case kind == diagName && len(value) > 0 && value[0] == '/':
			s.path = strings.TrimRight(string(value), "\x00")
		case kind == diagPeer && len(value) >= 4:
			s.peer = order.Uint32(value)
		case kind == diagUID && len(value) >= 4:
			s.uid = order.Uint32(value)
		}
	})
	return s, true
}

// appendSenders appends a table of the senders, or that there are none.
func appendSenders(dst []byte, senders []sender) []byte {
	if len(senders) == 0 {
		return append(dst, "senders   none is connected\n"...)
	}
	t := table{{"SENDERS", "USER", "sockets", "PROCESSES"}}
	for _, s := range senders {
		const most = 5
		processes := s.Processes
		more := ""
		if len(processes) > most {
			more = fmt.Sprintf(" and %d more", len(processes)-most)
			processes = processes[:most]
		}
		t = append(t, []string{s.Socket, userName(s.UID), strconv.Itoa(s.Sockets), visible(strings.Join(processes, " ")) + more})
	}
	return t.append(dst)
}
