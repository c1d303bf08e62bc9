// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// firstDescriptor is SD_LISTEN_FDS_START of sd_listen_fds(3).
const firstDescriptor = 3

// unnamed is the name of descriptors that come without LISTEN_FDNAMES, as in sd_listen_fds_with_names(3).
const unnamed = "unknown"

// listenVariables are meant for this process alone: a child that inherited them would take our descriptors for its own.
var listenVariables = []string{"LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"}

// Inherited returns the descriptors that the service manager gave to this process, each with its name and kind, and
// makes them close on exec. It unsets the variables that announced them. The caller owns the descriptors. Their order
// means nothing: it differs between versions of systemd and between starts.
//
// Nothing given, or given to another process: nil, nil. An announcement that contradicts itself or the descriptors that
// are open is an error, and then no descriptor is returned: to go on with wrong names would be worse than not to start.
//
// It does not go through the activation package of go-systemd, which accepts any such contradiction, and whose os.Files
// would close the descriptors when they are collected.
func Inherited() ([]Descriptor, error) {
	count, names, err := parseListen(os.Getpid(), os.LookupEnv)
	for _, v := range listenVariables {
		os.Unsetenv(v)
	}
	if err != nil || count == 0 {
		return nil, err
	}
	var ds []Descriptor
	for i := range count {
		d := Descriptor{Name: unnamed, FD: firstDescriptor + i}
		if names != nil {
			d.Name = names[i]
		}
		flags, err := unix.FcntlInt(uintptr(d.FD), unix.F_GETFD, 0)
		if err != nil {
			return nil, fmt.Errorf("cannot take inherited descriptors: LISTEN_FDS announces %d, descriptor %d is not open", count, d.FD)
		}
		// What came through execve(2) cannot have this flag; what the Go runtime or we opened always has it. Without the
		// check, a number that is too large would hand out the runtime's own descriptors.
		if flags&unix.FD_CLOEXEC != 0 {
			return nil, fmt.Errorf("cannot take inherited descriptors: LISTEN_FDS announces %d, descriptor %d is not inherited", count, d.FD)
		}
		if d.Kind, err = Classify(d.FD); err != nil {
			return nil, err
		}
		ds = append(ds, d)
	}
	for _, d := range ds {
		unix.CloseOnExec(d.FD)
	}
	return ds, nil
}

// MeantFor is the process that descriptors were handed over to, if it is another one than this; 0 if not. It is to be asked before
// Inherited. Somebody stands between the service manager and this process then who should have become it (execve(2)) and has
// started it as a child: the init of a container, a shell.
func MeantFor() int {
	pid, err := strconv.Atoi(os.Getenv("LISTEN_PID"))
	if err != nil || pid == os.Getpid() || os.Getenv("LISTEN_FDS") == "" {
		return 0
	}
	return pid
}

// parseListen reads the variables of sd_listen_fds(3) for the process pid. names is nil if there are none, else it has
// count elements. count is 0 if the variables are absent or for another process; whatever else they say is then not
// looked at.
func parseListen(pid int, lookup func(string) (string, bool)) (count int, names []string, err error) {
	forPID, ok := lookup("LISTEN_PID")
	if !ok {
		return 0, nil, nil
	}
	p, err := strconv.Atoi(forPID)
	if err != nil || p <= 0 {
		return 0, nil, fmt.Errorf("cannot parse LISTEN_PID: %q is not a process id", forPID)
	}
	if p != pid {
		return 0, nil, nil
	}
	announced, ok := lookup("LISTEN_FDS")
	if !ok {
		return 0, nil, nil
	}
	count, err = strconv.Atoi(announced)
	if err != nil || count < 0 || count > math.MaxInt32-firstDescriptor {
		return 0, nil, fmt.Errorf("cannot parse LISTEN_FDS: %q is not a number of descriptors", announced)
	}
	joined, ok := lookup("LISTEN_FDNAMES")
	if !ok || count == 0 {
		return count, nil, nil
	}
	// Count before splitting, so that a wild value costs nothing.
	if n := strings.Count(joined, ":") + 1; n != count {
		return 0, nil, fmt.Errorf("cannot parse LISTEN_FDNAMES: %d names for %d descriptors", n, count)
	}
	return count, strings.Split(joined, ":"), nil
}
