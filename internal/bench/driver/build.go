// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// recipe says how a program is made: from c/NAME.c and the libraries it links,
// or from a Go package of this module.
type recipe struct {
	libs []string
	pkg  string
}

var recipes = map[string]recipe{
	"dgram":       {},
	"frame":       {},
	"floor":       {},
	"view":        {},
	"worker":      {},
	"stage":       {},
	"udp":         {},
	"redis":       {libs: []string{"-lhiredis"}},
	"mosquitto":   {libs: []string{"-lmosquitto"}},
	"zmq":         {libs: []string{"-lzmq"}},
	"nng":         {libs: []string{"-lnng"}},
	"iceoryx":     {libs: []string{"-I/usr/include/iceoryx/v2.0.3", "-liceoryx_binding_c"}},
	"shm":         {},
	"dbus":        {libs: []string{"-lsystemd"}},
	"goclient":    {pkg: "./goclient"},
	"nats":        {pkg: "./nats"},
	"nats-server": {pkg: "github.com/nats-io/nats-server/v2"},
}

// program is the path of something that was built.
func (b *bench) program(name string) string { return filepath.Join(b.bin, name) }

// build makes the programs of the chosen adapters, and their brokers where those
// are among the recipes.
func (b *bench) build(chosen []*adapter) error {
	if err := os.MkdirAll(b.bin, 0o755); err != nil {
		return fmt.Errorf("cannot create build folder: %w", err)
	}
	made := map[string]bool{}
	for _, a := range chosen {
		for _, name := range []string{a.source.name, a.sink.name, a.built()} {
			if name == "" || made[name] {
				continue
			}
			if err := b.make(name); err != nil {
				return err
			}
			made[name] = true
		}
	}
	return nil
}

// built is the program among the recipes that is the adapter's broker.
func (a *adapter) built() string {
	switch {
	case a.group == "floor":
		return "floor"
	case a.name == "nats":
		return "nats-server"
	}
	return "" // the clients' own program, Debian's or nobody
}

func (b *bench) make(name string) error {
	r, ok := recipes[name]
	if !ok {
		return fmt.Errorf("no recipe for program %q", name)
	}
	argv := []string{"go", "build", "-o", b.program(name), r.pkg}
	if r.pkg == "" {
		argv = append([]string{"gcc", "-O2", "-g", "-Wall", "-Wextra", "-o", b.program(name), "c/" + name + ".c", "c/meter.c"}, r.libs...)
	}
	c := exec.Command(argv[0], argv[1:]...)
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("cannot build %s: %w", name, err)
	}
	return nil
}

// installPackages makes sure that the chosen adapters have their Debian
// packages. It installs what is missing only when asked to.
func installPackages(allowed bool, chosen []*adapter) error {
	var missing []string
	for _, a := range chosen {
		for _, p := range a.packages {
			out, _ := exec.Command("dpkg-query", "-W", "-f=${db:Status-Status}", p).Output()
			if string(out) != "installed" {
				missing = append(missing, p)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if !allowed {
		return fmt.Errorf("missing Debian packages: %s; with -peers they are installed", strings.Join(missing, " "))
	}
	// A policy of the machine's own is left alone; without one, this keeps the
	// packages from starting their daemons (invoke-rc.d(8)).
	const policy = "/usr/sbin/policy-rc.d"
	if _, err := os.Stat(policy); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
			return fmt.Errorf("cannot keep daemons from starting: %w", err)
		}
		defer os.Remove(policy)
	}
	for _, args := range [][]string{{"update", "-q"}, append([]string{"install", "-q", "-y", "--no-install-recommends"}, missing...)} {
		c := exec.Command("apt-get", args...)
		c.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		c.Stdout, c.Stderr = os.Stderr, os.Stderr
		if err := c.Run(); err != nil {
			return fmt.Errorf("cannot install packages: %w", err)
		}
	}
	return nil
}
