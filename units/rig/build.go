// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Build compiles a command of this module, such as "./cmd/msgmuxd", into one static file that runs in every suite, and
// returns its path, which is valid until the test ends.
func Build(t testing.TB, folder string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), filepath.Base(folder))
	cmd := exec.Command("go", "build", "-trimpath", "-o", file, folder)
	cmd.Dir = Top(t)
	// Without cgo there is no C library to fit the container's.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build %s: %v\n%s", folder, err, out)
	}
	return file
}

// Top is the top folder of the repository: the one with go.mod, from the working directory up.
func Top(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("cannot find the top of the repository: no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}

// installed says where files of the repository belong in a system, by their folder.
var installed = []struct{ from, pattern, to string }{
	{"units/system", "*", "/usr/lib/systemd/system"},
	{"units/user", "*", "/usr/lib/systemd/user"},
	{"packaging/sysusers.d", "*.conf", "/usr/lib/sysusers.d"},
	{"packaging/tmpfiles.d", "*.conf", "/usr/lib/tmpfiles.d"},
	{"packaging/sysctl.d", "*.conf", "/usr/lib/sysctl.d"},
	{"packaging/preset", "*.preset", "/usr/lib/systemd/system-preset"},
	{"packaging/dbus", "*.conf", "/usr/share/dbus-1/system.d"},
}

// InstallUnits installs the unit files with the users, groups, folders and rights that they need, as a package would, and
// makes systemd and the bus read them. Nothing is enabled or started. Programs are the caller's to install.
func (m *Machine) InstallUnits() {
	m.t.Helper()
	for _, kind := range installed {
		files, err := filepath.Glob(filepath.Join(Top(m.t), kind.from, kind.pattern))
		if err != nil || len(files) == 0 {
			m.t.Fatalf("cannot install units: %s has none", kind.from)
		}
		for _, file := range files {
			m.Install(file, filepath.Join(kind.to, filepath.Base(file)), 0o644)
		}
	}
	m.MustRun("systemd-sysusers")
	m.MustRun("systemd-tmpfiles", "--create", "msgmux.conf")
	m.MustRun("/usr/lib/systemd/systemd-sysctl", "--prefix=/net/unix/max_dgram_qlen")
	m.MustRun("systemctl", "daemon-reload")
	m.MustRun("systemctl", "try-reload-or-restart", "dbus.service")
}
