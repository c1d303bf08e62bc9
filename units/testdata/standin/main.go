// SPDX-License-Identifier: Apache-2.0

// Standin stands where the broker belongs, for tests of the units alone: it says in its status what it was given, prints
// what it gets on its datagram sockets, keeps one descriptor in the descriptor store, and does nothing else.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// kept is the name of the descriptor in the store.
const kept = "mux-data"

func main() {
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	count, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	notify := notifier()

	starts := 1
	for i, name := range names[:count] {
		fd := 3 + i
		switch name {
		case "source", "register":
			go read(name, fd)
		case kept:
			var number [1]byte
			unix.Pread(fd, number[:], 0)
			starts = int(number[0]) + 1
			unix.Pwrite(fd, []byte{byte(starts)}, 0)
		}
	}
	if starts == 1 {
		fd, err := unix.MemfdCreate(kept, 0)
		if err != nil {
			fmt.Println("memfd:", err)
			os.Exit(1)
		}
		unix.Pwrite(fd, []byte{1}, 0)
		notify("FDSTORE=1\nFDNAME="+kept+"\nFDPOLL=0", fd)
	}
	slices.Sort(names)
	notify(fmt.Sprintf("READY=1\nSTATUS=args %v; got %s; start %d since the store was empty", os.Args[1:], strings.Join(names, " "), starts), -1)

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	for ping := time.Tick(time.Second); ; {
		select {
		case <-ping:
			notify("WATCHDOG=1", -1)
		case <-stop:
			return
		}
	}
}

// read prints each datagram, with its sender's user id where the socket tells it.
func read(name string, fd int) {
	message, control := make([]byte, 65536), make([]byte, 4096)
	for {
		n, cn, _, _, err := unix.Recvmsg(fd, message, control, 0)
		if err != nil {
			fmt.Println(name, err)
			return
		}
		sender := "unknown"
		messages, _ := unix.ParseSocketControlMessage(control[:cn])
		for _, m := range messages {
			if credentials, err := unix.ParseUnixCredentials(&m); err == nil {
				sender = strconv.Itoa(int(credentials.Uid))
			}
		}
		fmt.Printf("%s: %q from user %s\n", name, message[:n], sender)
	}
}

// notifier returns a function that sends a notification to the service manager, with a descriptor unless that is -1.
func notifier() func(text string, fd int) {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		fmt.Println("notify:", err)
		os.Exit(1)
	}
	to := &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}
	return func(text string, fd int) {
		var rights []byte
		if fd >= 0 {
			rights = unix.UnixRights(fd)
		}
		if err := unix.Sendmsg(s, []byte(text), rights, to, unix.MSG_NOSIGNAL); err != nil {
			fmt.Println("notify:", err)
			os.Exit(1)
		}
	}
}
