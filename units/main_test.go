// SPDX-License-Identifier: Apache-2.0

package units

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/msgmux/msgmux/units/rig"
)

// builds is the folder of the programs that the tests of this package install, made by the first that asks.
var builds struct {
	sync.Mutex
	dir string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if builds.dir != "" {
		os.RemoveAll(builds.dir)
	}
	os.Exit(code)
}

// programs are what a machine with a real channel has, and what tests it. Built without a C library, they run in every suite.
var programs = []string{"./cmd/msgmuxd", "./cmd/msgmux", "./units/rig/load", "./units/client"}

// build builds the programs once for all tests and returns their folder.
func build(t *testing.T) string {
	t.Helper()
	builds.Lock()
	defer builds.Unlock()
	if builds.dir != "" {
		return builds.dir
	}
	dir, err := os.MkdirTemp("", "msgmux-units-")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", append([]string{"build", "-trimpath", "-o", dir}, programs...)...)
	cmd.Dir = rig.Top(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		os.RemoveAll(dir)
		t.Fatalf("cannot build: %v\n%s", err, out)
	}
	builds.dir = dir
	return dir
}

// bed is a machine on which the real programs and units are installed.
type bed struct {
	*rig.Machine
	t *testing.T
}

// onEachBed runs a test on a machine of each suite.
func onEachBed(t *testing.T, test func(t *testing.T, b *bed), packages ...string) {
	rig.Require(t, "systemd")
	build(t)
	for _, suite := range rig.Suites {
		t.Run(suite, func(t *testing.T) { test(t, newBed(t, suite, packages...)) })
	}
}

// newBed boots one machine, with some of Debian's packages.
func newBed(t *testing.T, suite string, packages ...string) *bed {
	t.Helper()
	dir := build(t)
	b := &bed{rig.Boot(t, suite, packages...), t}
	for _, program := range programs {
		name := filepath.Base(program)
		b.Install(filepath.Join(dir, name), "/usr/bin/"+name, 0o755)
	}
	b.InstallUnits()
	return b
}
