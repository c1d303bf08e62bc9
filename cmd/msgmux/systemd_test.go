// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/coreos/go-systemd/v22/dbus"
	bus "github.com/godbus/dbus/v5"

	msgmux "github.com/msgmux/msgmux/client"
)

// fakeSystemd is a user's systemd that knows one unit and does what it is told, or fails: so that tests see what it is told. The real
// one is that of the package units.
type fakeSystemd struct {
	t     *testing.T
	dir   string                 // what it has for a runtime folder
	unit  map[string]bus.Variant // properties of every unit that it is asked for
	links [][3]string            // that Enable makes

	mu     sync.Mutex
	told   []string // methods, and the units that they are about
	fails  string   // the method that does
	jobs   uint32
	buses  []*bus.Conn
	ending sync.WaitGroup
}

// startSystemd has it listen where a user's does.
func startSystemd(t *testing.T) *fakeSystemd {
	t.Helper()
	s := &fakeSystemd{t: t, dir: folder(t)}
	if err := os.Mkdir(s.dir+"/systemd", 0o700); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", s.dir+"/systemd/private")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", s.dir)
	t.Setenv("XDG_CONFIG_HOME", s.dir)
	was := booted
	booted = s.dir
	t.Cleanup(func() {
		booted = was
		listener.Close()
		s.mu.Lock()
		for _, b := range s.buses {
			b.Close()
		}
		s.mu.Unlock()
		s.ending.Wait()
	})
	s.ending.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.ending.Go(func() { s.serve(conn) })
		}
	})
	return s
}

// channel is a user's own, whose systemd this is.
func (s *fakeSystemd) channel() msgmux.Channel { return msgmux.Channel{RuntimeDir: s.dir + "/msgmux"} }

// connect is as commands do it.
func (s *fakeSystemd) connect(ctx context.Context) *dbus.Conn {
	s.t.Helper()
	conn, err := unitsOf(s.channel()).connect(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(conn.Close)
	return conn
}

// heard is what it was told.
func (s *fakeSystemd) heard() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.told, ", ")
}

// serve answers one connection. The library is a client on both ends, so each end is let in.
func (s *fakeSystemd) serve(conn net.Conn) {
	defer conn.Close()
	ours, theirs := net.Pipe()
	defer theirs.Close()
	s.ending.Go(func() {
		in := letIn(theirs)
		_, _ = io.Copy(conn, in)
		conn.Close()
	})
	b, err := bus.NewConn(ours)
	if err != nil || b.Auth([]bus.Auth{bus.AuthExternal("0")}) != nil {
		return
	}
	const object = "/org/freedesktop/systemd1"
	if b.Export(s, object, "org.freedesktop.systemd1.Manager") != nil || b.ExportSubtree(properties{s}, object, "org.freedesktop.DBus.Properties") != nil {
		return
	}
	s.mu.Lock()
	s.buses = append(s.buses, b)
	s.mu.Unlock()
	_, _ = io.Copy(theirs, letIn(conn))
	b.Close()
}

// letIn authenticates a client, and returns what it says then.
func letIn(client io.ReadWriter) io.Reader {
	in := bufio.NewReader(client)
	for {
		line, err := in.ReadString('\n')
		answer := "ERROR\r\n"
		switch strings.Trim(line, "\x00\r\n") {
		case "AUTH":
			answer = "REJECTED EXTERNAL\r\n"
		case "AUTH EXTERNAL":
			answer = "OK 0\r\n"
		case "BEGIN":
			return in
		}
		if err == nil {
			_, err = io.WriteString(client, answer)
		}
		if err != nil {
			return strings.NewReader("")
		}
	}
}

// hear notes what it is told, and fails if it is to.
func (s *fakeSystemd) hear(method, about string) *bus.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, strings.TrimSpace(method+" "+about))
	if method == s.fails {
		return bus.MakeFailedError(errNoSystemd)
	}
	return nil
}

// Reload is of systemd's interface, as are the next ones.
func (s *fakeSystemd) Reload() *bus.Error { return s.hear("Reload", "") }

func (s *fakeSystemd) StartUnit(unit, _ string) (bus.ObjectPath, *bus.Error) {
	return s.job("StartUnit", unit)
}

func (s *fakeSystemd) StopUnit(unit, _ string) (bus.ObjectPath, *bus.Error) {
	return s.job("StopUnit", unit)
}

func (s *fakeSystemd) RestartUnit(unit, _ string) (bus.ObjectPath, *bus.Error) {
	return s.job("RestartUnit", unit)
}

// EnableUnitFiles says which links it has made.
func (s *fakeSystemd) EnableUnitFiles(files []string, _, _ bool) (bool, []link, *bus.Error) {
	var made []link
	for _, l := range s.links {
		made = append(made, link{l[0], l[1], l[2]})
	}
	return true, made, s.hear("EnableUnitFiles", strings.Join(files, " "))
}

// link is a change that systemd tells of.
type link struct{ Kind, Name, Target string }

// job is done at once.
func (s *fakeSystemd) job(method, unit string) (bus.ObjectPath, *bus.Error) {
	if err := s.hear(method, unit); err != nil {
		return "/", err
	}
	s.mu.Lock()
	s.jobs++
	id, buses := s.jobs, slices.Clone(s.buses)
	s.mu.Unlock()
	path := bus.ObjectPath("/org/freedesktop/systemd1/job/1")
	for _, b := range buses {
		_ = b.Emit("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager.JobRemoved", id, path, unit, "done")
	}
	return path, nil
}

// properties are those of all units.
type properties struct{ s *fakeSystemd }

// GetAll is of the bus's interface.
func (p properties) GetAll(_ string) (map[string]bus.Variant, *bus.Error) {
	return maps.Clone(p.s.unit), nil
}
