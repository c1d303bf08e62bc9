// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	msgmux "github.com/msgmux/msgmux/client"
)

// TestAdoptShowsItsPlan: the files with the owner and mode that the path has, who reads there, and what is left to do.
func TestAdoptShowsItsPlan(t *testing.T) {
	dir := folder(t)
	path := filepath.Join(dir, "dsd.socket")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := os.Chmod(path, 0o722); err != nil {
		t.Fatal(err)
	}
	p := at(t, "/run/msgmux", "adopt", path, "--dry-run").want(0)
	want := strings.NewReplacer("PATH", path, "UID", fmt.Sprint(os.Getuid()), "GID", fmt.Sprint(os.Getgid())).Replace(`# /etc/systemd/system/msgmux-adopted@dsd.socket
# Made by: msgmux adopt PATH --to PATH.behind
[Unit]
Description=Path that programs write to, adopted by a message channel
Documentation=man:msgmux(1)
PartOf=msgmux.target
StartLimitIntervalSec=0

[Socket]
ListenDatagram=PATH
SocketMode=0722
SocketUser=UID
SocketGroup=GID
FileDescriptorName=source
Service=msgmux.service
RemoveOnStop=yes
TriggerLimitIntervalSec=0

[Install]
WantedBy=sockets.target msgmux.target

# /etc/systemd/system/msgmux.service.d/msgmux-adopted@dsd.conf
# Made by: msgmux adopt PATH --to PATH.behind
[Service]
Sockets=msgmux-adopted@dsd.socket

# /etc/tmpfiles.d/msgmux-adopted-dsd.conf
# Made by: msgmux adopt PATH --to PATH.behind
L+ /run/msgmux/sinks/dsd - - - - PATH.behind
`)
	p.prints(want)
	p.says(path+" becomes a source of the channel", "/run/msgmux/sinks/dsd leads to it", fmt.Sprintf("[%d]", os.Getpid()), "has to receive at "+path+".behind instead")
	p = at(t, "/run/msgmux.web", "adopt", path, "--to", dir+"/agent", "--name", "agent", "--dry-run").want(0)
	for _, text := range []string{"# /etc/systemd/system/msgmux.web-adopted@agent.socket\n", "Service=msgmux@web.service\n", "PartOf=msgmux@web.target\n",
		"# /etc/systemd/system/msgmux@web.service.d/msgmux.web-adopted@agent.conf\n", "L+ /run/msgmux.web/sinks/agent - - - - " + dir + "/agent\n"} {
		if !strings.Contains(p.stdout.String(), text) {
			t.Errorf("no %q in\n%s", text, p.stdout.String())
		}
	}
	// Where nobody receives, it may be made all the same.
	at(t, "/run/msgmux", "adopt", dir+"/none", "--dry-run").want(0).says("nobody receives there now")
}

// TestAdoptRefuses what would not work, and what would stop the host.
func TestAdoptRefuses(t *testing.T) {
	dir := folder(t)
	listener, err := net.Listen("unix", dir+"/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir+"/file", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, dir+"/elsewhere"); err != nil { // as /var/run leads to /run
		t.Fatal(err)
	}
	other, err := net.Listen("unix", dir+"/elsewhere/other")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	long := dir + "/" + strings.Repeat("x", 108)
	for _, test := range []struct {
		args, says string
		status     int
	}{
		{"/dev/log", "is where the whole host logs", exitFailure},
		{"/run/systemd/journal/dev-log", "a sink of last resort", exitFailure},
		{"/run/systemd/journal/socket", "a sink of last resort", exitFailure},
		{"/run/systemd/notify", "is systemd's own", exitFailure},
		{dir + "/stream", "write a stream", exitFailure},
		{dir + "/other", "write a stream", exitFailure},
		{dir + "/file", "is no socket", exitFailure},
		{dir + "/link", "is a link: adopt " + dir + "/file", exitUsage},
		{long, "has 1", exitUsage},
		{"relative", "an absolute one", exitUsage},
		{"/a/../b", "an absolute one", exitUsage},
		{"/a%n", "an absolute one", exitUsage},
		{"/a\nExecStartPre=/bin/sh", "an absolute one", exitUsage},
		{"", "an absolute one", exitUsage},
		{"/run/msgmux/source", "the channel's own folder", exitUsage},
		{dir + "/x --to " + dir + "/x", "is the path itself", exitUsage},
		{dir + "/x --to /a%b", "an absolute one", exitUsage},
		{dir + "/.hidden", "1 to 64 letters", exitUsage},
		{dir + "/x --name a/b", "1 to 64 letters", exitUsage},
		{dir + "/x --undo", "has not made a source of", exitFailure},
	} {
		args := append([]string{"adopt"}, strings.Split(test.args, " ")...)
		at(t, "/run/msgmux", append(args, "--dry-run")...).want(test.status).says(test.says).prints("")
	}
	at(t, "/run/msgmux", "adopt").want(exitUsage).says("which PATH")
	at(t, "/run/user/1000/msgmux", "adopt", dir+"/x").want(exitUsage).says("for a channel of the host")
	at(t, dir, "adopt", dir+"/x").want(exitUsage).says("is no channel of systemd's", "--source "+dir+"/x")
}

// planIn plans to adopt a path, with all files in a folder instead of those of the host.
func planIn(t *testing.T, dir, path string) *adoption {
	t.Helper()
	a, err := planAdoption(msgmux.Channel{RuntimeDir: "/run/msgmux"}, path, &adoptOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a.link = filepath.Join(dir, "link")
	for i := range a.files {
		a.files[i].path = dir + a.files[i].path
	}
	if err := a.look(); err != nil {
		t.Fatal(err)
	}
	return a
}

// TestAdoptAgainKeepsTheAccess: the unit that adopt has made says who may write, and neither its own socket nor another reader's.
func TestAdoptAgainKeepsTheAccess(t *testing.T) {
	dir := folder(t)
	path := dir + "/dsd.socket"
	first := planIn(t, dir, path)
	if !bytes.Contains(first.files[0].text, []byte("SocketMode=0660\nSocketGroup=msgmux-send\n")) {
		t.Errorf("where nothing is:\n%s", first.files[0].text)
	}
	if _, err := writeFiles(first.files, false); err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := os.Chmod(path, 0o722); err != nil {
		t.Fatal(err)
	}
	if again := planIn(t, dir, path); !bytes.Equal(again.files[0].text, first.files[0].text) {
		t.Errorf("it was\n%s\nand is to be\n%s", first.files[0].text, again.files[0].text)
	}
}

// TestAdoptTakesBackOnlyItsOwn: an attempt that fails leaves what was there as it was, and the socket of an earlier one to its senders.
func TestAdoptTakesBackOnlyItsOwn(t *testing.T) {
	const unit, broker = "msgmux-adopted@dsd.socket", "msgmux.service"
	wants := "/sockets.target.wants/" + unit
	attempt := func(t *testing.T, before, after func(*adoption, *fakeSystemd)) {
		dir := folder(t)
		systemd := startSystemd(t)
		systemd.fails = "RestartUnit"
		a := planIn(t, dir, dir+"/dsd.socket")
		systemd.links = [][3]string{{"symlink", dir + wants, a.files[0].path}}
		before(a, systemd)
		if err := a.make(t.Context(), systemd.connect(t.Context())); err == nil || strings.Contains(err.Error(), "--force") {
			t.Errorf("it fails with %v", err)
		}
		after(a, systemd)
	}
	there := func(t *testing.T, want bool, paths ...string) {
		t.Helper()
		for _, path := range paths {
			if _, err := os.Lstat(path); (err == nil) != want {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	write := func(t *testing.T, files ...plannedFile) {
		t.Helper()
		if _, err := writeFiles(files, false); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("nothing was there", func(t *testing.T) {
		attempt(t, func(a *adoption, s *fakeSystemd) {
			write(t, plannedFile{path: s.links[0][1]}) // as systemd is about to
		}, func(a *adoption, s *fakeSystemd) {
			there(t, false, a.files[0].path, a.files[1].path, a.files[2].path, a.link, s.links[0][1])
			if told := s.heard(); !strings.HasSuffix(told, "RestartUnit "+broker+", StopUnit "+unit+", Reload, RestartUnit "+broker) {
				t.Errorf("systemd was told: %s", told)
			}
		})
	})
	t.Run("a file is another's", func(t *testing.T) {
		attempt(t, func(a *adoption, _ *fakeSystemd) {
			write(t, plannedFile{a.files[1].path, []byte("[Service]\n")})
		}, func(a *adoption, s *fakeSystemd) {
			there(t, false, a.files[0].path, a.files[2].path, a.link)
			there(t, true, a.files[1].path)
			if told := s.heard(); told != "" {
				t.Errorf("systemd was told: %s", told)
			}
		})
	})
	t.Run("all was there", func(t *testing.T) {
		attempt(t, func(a *adoption, s *fakeSystemd) {
			write(t, a.files...)
			if err := os.Symlink(a.behind, a.link); err != nil {
				t.Fatal(err)
			}
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: a.path, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			write(t, plannedFile{path: s.links[0][1]})
			s.links = nil // it makes none again
		}, func(a *adoption, s *fakeSystemd) {
			there(t, true, a.files[0].path, a.files[1].path, a.files[2].path, a.link, filepath.Dir(a.link)+wants)
			if told := s.heard(); told != "Reload, EnableUnitFiles "+a.files[0].path+", RestartUnit "+broker {
				t.Errorf("systemd was told: %s", told)
			}
		})
	})
	t.Run("only the drop-in was not", func(t *testing.T) {
		attempt(t, func(a *adoption, s *fakeSystemd) {
			write(t, a.files[0], a.files[2])
			s.links = nil
		}, func(a *adoption, s *fakeSystemd) {
			there(t, true, a.files[0].path, a.files[2].path)
			there(t, false, a.files[1].path, a.link)
			if told := s.heard(); !strings.HasSuffix(told, "StopUnit "+unit+", RestartUnit "+broker+", Reload, RestartUnit "+broker) {
				t.Errorf("systemd was told: %s", told)
			}
		})
	})
}
