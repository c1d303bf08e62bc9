// SPDX-License-Identifier: Apache-2.0

package activationtest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ours are the variables that a manager sets; those of a manager above the test must not shine through.
var ours = []string{
	"NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES", "FDSTORE", "WATCHDOG_USEC", "WATCHDOG_PID", "SYSTEMD_EXEC_PID",
}

// Start starts cmd as the service, with all descriptors that the manager holds, in an order that differs each time (that
// of systemd is not stable either), and forgets what an earlier process said. Messages of that earlier process are dealt
// with first. The caller waits for cmd.
//
// cmd must have no ExtraFiles. A shell runs before the command in the same process, because only the process itself
// knows the pid that LISTEN_PID must carry.
func (m *Manager) Start(cmd *exec.Cmd) error {
	if len(cmd.ExtraFiles) > 0 {
		return fmt.Errorf("cannot start %s: it has ExtraFiles already", cmd.Path)
	}
	if cmd.Err != nil {
		return cmd.Err
	}
	if err := m.Sync(); err != nil {
		return err
	}
	env, files, err := m.handOver()
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if err != nil {
		return err
	}
	for _, v := range cmd.Environ() {
		if name, _, _ := strings.Cut(v, "="); !slices.Contains(ours, name) {
			env = append(env, v)
		}
	}
	script := `exec "$0" "$@"`
	for _, v := range env {
		switch name, _, _ := strings.Cut(v, "="); name {
		case "LISTEN_FDS":
			script = "export LISTEN_PID=$$; " + script
		case "WATCHDOG_USEC":
			script = "export WATCHDOG_PID=$$; " + script
		}
	}
	cmd.Args = append([]string{"sh", "-c", script, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	cmd.Env = env
	cmd.ExtraFiles = files
	return cmd.Start()
}

// handOver copies every descriptor for one start. The caller closes the files, also after an error.
func (m *Manager) handOver() (env []string, files []*os.File, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = State{}
	m.dropHungUp()
	all := append(append([]entry(nil), m.given...), m.stored...)
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	names := make([]string, len(all))
	for i, e := range all {
		fd, err := unix.FcntlInt(uintptr(e.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, files, fmt.Errorf("cannot copy descriptor %s: %w", e.name, err)
		}
		files = append(files, os.NewFile(uintptr(fd), e.name))
		names[i] = e.name
	}
	env = []string{"NOTIFY_SOCKET=" + m.path, "FDSTORE=" + strconv.Itoa(m.storeMax)}
	if len(all) > 0 {
		env = append(env, "LISTEN_FDS="+strconv.Itoa(len(all)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	if m.watchdog > 0 {
		env = append(env, "WATCHDOG_USEC="+strconv.FormatInt(m.watchdog.Microseconds(), 10))
	}
	return env, files, nil
}
