// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/msgmux/msgmux/internal/sys"
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

// connectedSenders asks the kernel who is connected to the channel. Programs that name the socket with each message are
// not connected, and those of other network namespaces are not told of.
func connectedSenders(runtimeDir string) ([]sender, error) {
	diag, err := sys.NewSockDiag()
	if err != nil {
		return nil, err
	}
	defer diag.Close()
	byInode := make(map[uint32]sys.UnixSocket)
	if err := diag.Dump(sys.AllStates, func(s sys.UnixSocket) bool { byInode[s.Inode] = s; return true }); err != nil {
		return nil, err
	}
	type key struct {
		socket string
		uid    uint32
	}
	found := make(map[key][]uint32)
	source, publish := filepath.Join(runtimeDir, socketSource), filepath.Join(runtimeDir, socketPublish)
	for inode, s := range byInode {
		peer, k := byInode[s.Peer], key{"", s.UID}
		switch {
		case s.Peer == 0:
		case s.Type == syscall.SOCK_DGRAM && peer.Name == source:
			k.socket = socketSource
		case s.Type == syscall.SOCK_SEQPACKET && s.State == sys.StateEstablished && s.Name == "" && peer.Name == publish:
			k.socket = socketPublish
		}
		if k.socket != "" {
			found[k] = append(found[k], inode)
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
