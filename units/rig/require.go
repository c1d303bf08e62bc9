// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/need"
)

// Require ends the test unless this host can boot containers: skipped with the reason, or failed if MSGMUX_REQUIRE names
// part ("systemd", "packages", "recipes").
func Require(t testing.TB, part string) {
	t.Helper()
	if why := lacking(); why != "" {
		absent(t, why, part)
	}
}

// booting are the parts whose tests boot containers.
var booting = []string{"systemd", "packages", "recipes"}

// absent skips the test, or fails it where one of the parts is required that it may be of.
func absent(t testing.TB, why string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if need.Required(part) {
			need.Lacking(t, part, "cannot boot a container: %s", why)
		}
	}
	t.Skipf("skipped, as it boots a systemd of its own: %s", why)
}

// lacking says what this host lacks, "" if nothing.
func lacking() string {
	if os.Geteuid() != 0 {
		return "that needs root"
	}
	// Root in an ordinary container has no right to mount.
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var held [2]unix.CapUserData
	if err := unix.Capget(&header, &held[0]); err != nil || held[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return "that needs CAP_SYS_ADMIN"
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "that needs apt-get, to install debootstrap and systemd-nspawn"
	}
	if _, err := cgroups(); err != nil {
		return err.Error()
	}
	return ""
}
