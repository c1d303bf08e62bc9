// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// requireVariable lists the parts of the tests that must not be skipped, with spaces or commas between them.
const requireVariable = "MSGMUX_REQUIRE"

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
	if slices.ContainsFunc(parts, func(part string) bool { return required(os.Getenv(requireVariable), part) }) {
		t.Fatalf("cannot boot a container: %s; %s does not let this test be skipped", why, requireVariable)
	}
	t.Skipf("skipped, as it boots a systemd of its own: %s", why)
}

// required tells whether part is in list.
func required(list, part string) bool {
	words := strings.FieldsFunc(list, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' || r == '\n' })
	return slices.Contains(words, part)
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
