// SPDX-License-Identifier: Apache-2.0

// Package need is for tests: it decides what becomes of one that wants more than the host has. Such a test is skipped with
// the reason, so that everybody can run the others, and fails where the environment variable MSGMUX_REQUIRE names the part
// of the tests that it is of.
//
// The package makes no compatibility promise.
package need

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// variable lists the parts of the tests, as the Makefile calls them, of which nothing may be skipped, with spaces or commas
// between them.
const variable = "MSGMUX_REQUIRE"

// Required says whether nothing of the part may be skipped.
func Required(part string) bool {
	return slices.Contains(strings.Fields(strings.ReplaceAll(os.Getenv(variable), ",", " ")), part)
}

// Lacking ends a test of the part, for want of something: skipped, or failed where the part is required.
func Lacking(t testing.TB, part, format string, args ...any) {
	t.Helper()
	if Required(part) {
		t.Fatalf("this test may not be skipped, as "+variable+" names "+part+": "+format, args...)
	}
	t.Skipf(format, args...)
}

// Root wants the test to be run by root.
func Root(t testing.TB, part string) {
	t.Helper()
	if os.Geteuid() != 0 {
		Lacking(t, part, "only root can do this")
	}
}

// Program returns the path of a program on PATH, which packages of Debian bring.
func Program(t testing.TB, part, name, packages string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Lacking(t, part, "there is no %s (Debian: apt-get install %s)", name, packages)
	}
	return path
}
