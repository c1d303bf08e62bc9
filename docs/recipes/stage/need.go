// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// part is what MSGMUX_REQUIRE calls these tests.
const part = "recipes"

// Lacking ends the test: skipped with the reason, or failed where MSGMUX_REQUIRE does not let it be skipped.
func Lacking(t testing.TB, why string) {
	t.Helper()
	if slices.Contains(strings.Fields(strings.ReplaceAll(os.Getenv("MSGMUX_REQUIRE"), ",", " ")), part) {
		t.Fatalf("%s, and MSGMUX_REQUIRE does not let this be skipped", why)
	}
	t.Skip(why)
}

// Need wants tools on PATH, or the test cannot be run.
func Need(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			Lacking(t, tool+" is missing")
		}
	}
}

// NeedRoot wants to be root, with the right to mount: a root in an ordinary container has none.
func NeedRoot(t testing.TB) {
	t.Helper()
	Need(t, "unshare", "nsenter")
	if out, err := exec.Command("unshare", "-m", "true").CombinedOutput(); err != nil || os.Geteuid() != 0 {
		Lacking(t, "this needs root and a mount namespace of its own: "+strings.TrimSpace(string(out)))
	}
}

// Top is the top folder of the repository.
func Top(t testing.TB) string {
	t.Helper()
	dir, err := top()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// top looks for the repository's commands from the working directory up.
func top() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "cmd", "msgmuxd")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			err = errors.New("there is no cmd/msgmuxd above the working directory")
		}
		dir = filepath.Dir(dir)
	}
	return "", fmt.Errorf("cannot find the top of the repository: %w", err)
}

// Package is a Debian package, unpacked in a folder.
type Package struct {
	root string
}

// Debian is a package of Debian's that was named to Main.
func Debian(t testing.TB, name string) Package {
	t.Helper()
	p := Package{filepath.Join(Top(t), "build", "recipes", name)}
	if _, err := os.Stat(p.root); err != nil {
		Lacking(t, "Debian's "+name+" could not be unpacked (see the beginning of the output)")
	}
	return p
}

// Path is where a file of the package is.
func (p Package) Path(file string) string { return filepath.Join(p.root, file) }

// Glob finds the one file or folder of the package that matches.
func (p Package) Glob(t testing.TB, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(p.Path(pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s matches %v, and not one file of the package", pattern, found)
	}
	return found[0]
}

// Env is what a program of the package needs in its environment: where its libraries are. More folders with libraries
// are named as in the package.
func (p Package) Env(libraries ...string) []string {
	var dirs []string
	for _, pattern := range append(libraries, "/lib/*-linux-gnu*", "/usr/lib/*-linux-gnu*") {
		found, _ := filepath.Glob(p.Path(pattern))
		dirs = append(dirs, found...)
	}
	return []string{"LD_LIBRARY_PATH=" + strings.Join(dirs, ":")}
}
