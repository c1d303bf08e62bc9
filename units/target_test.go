// SPDX-License-Identifier: Apache-2.0

package units

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// channelSockets of a channel, by the middle of their units' names.
var channelSockets = []string{"source", "publish", "register", "subscribe", "control"}

// inodes of the sockets of the default channel, and which of them do not listen.
func (b *bed) inodes() (all map[string]string, silent []string) {
	b.t.Helper()
	all = make(map[string]string)
	for _, name := range channelSockets {
		if state := active(b.t, b.Machine, "msgmux-"+name+".socket"); state != "active" {
			silent = append(silent, name+" is "+state)
		}
		all[name], _ = b.Run(b.t.Context(), "stat", "-c", "%i", "/run/msgmux/"+name)
	}
	return all, silent
}

// TestTargetIsRestartedOften, more often than a start limit allows: every socket listens afterwards.
func TestTargetIsRestartedOften(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		b.MustRun("systemctl", "start", "msgmux.target", p.service)
		for range 8 {
			b.MustRun("systemctl", "restart", "msgmux.target")
		}
		if _, silent := b.inodes(); len(silent) > 0 {
			t.Errorf("after eight restarts %v", silent)
		}
		sink := b.Start("msgmux", "sub", "--count=1")
		b.MustRun("msgmux", "pub", "still here")
		if exit := sink.Wait(); exit != 0 || sink.Stdout() != "still here\n" {
			t.Errorf("the sink got %q, exit status %d", sink.Stdout(), exit)
		}
	})
}

// TestStopThenStart of a channel whose broker runs and is busy: the start, as soon as the stop has returned, finds everything
// stopped, so that the sockets are new.
func TestStopThenStart(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		b.MustRun("systemctl", "start", "msgmux.target", p.service)
		for i := range 5 {
			p.systemctl("start", p.service)
			p.untilActive()
			flood := b.StartLoad("send", "--to", "/run/msgmux/source", "--unconnected", "--source", fmt.Sprint(i+1))
			reader := b.StartLoad("sink", "--bind", fmt.Sprint("@mm-", i), "--register", "/run/msgmux/register", "--option", "patience=0")
			time.Sleep(100 * time.Millisecond)
			old, _ := b.inodes()
			b.MustRun("sh", "-c", "systemctl stop msgmux.target; systemctl start msgmux.target")
			now, silent := b.inodes()
			if len(silent) > 0 {
				t.Errorf("round %d: %v", i, silent)
			}
			for name, inode := range now {
				if inode == "" || inode == old[name] {
					t.Errorf("round %d: %s is the old one: %s", i, name, strings.TrimSpace(inode))
				}
			}
			for _, process := range []interface{ Stop(time.Duration) int }{flood, reader} {
				process.Stop(10 * time.Second)
			}
		}
	})
}
