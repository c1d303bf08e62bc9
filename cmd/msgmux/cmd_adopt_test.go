// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
WantedBy=sockets.target

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
