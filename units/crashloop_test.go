// SPDX-License-Identifier: Apache-2.0

package units

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/units/rig"
)

// consumerUnit is the unit of a consumer as a page or an example has it, to be followed to the letter.
func consumerUnit(t *testing.T, page, file string) string {
	t.Helper()
	name := filepath.Join(rig.Top(t), page)
	if !strings.HasSuffix(page, ".md") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, block := range blocks(t, name) {
		if block.file == "/etc/systemd/system/"+file {
			return block.text
		}
	}
	t.Fatalf("%s has no %s", page, file)
	return ""
}

// consumers are those that pages and examples show, and one that `msgmux sinks add` is told of.
var consumers = []struct{ page, name string }{
	{"docs/admin/static-sink.md", "archive"},
	{"docs/admin/on-demand.md", "digest"},
	{"", "added"},
}

// install brings up the consumer name of a page with its socket; drop is added to its unit.
func (b *bed) install(page, name, drop string) {
	b.t.Helper()
	service := name + ".service"
	if page == "" {
		b.WriteFile("/etc/systemd/system/"+service, []byte("[Service]\nExecStart=/usr/bin/false\n"), 0o644)
	} else {
		b.WriteFile("/etc/systemd/system/"+service, []byte(consumerUnit(b.t, page, service)), 0o644)
	}
	b.dropIn(service, "test", drop)
	if page == "" {
		b.MustRun("msgmux", "sinks", "add", name, "--service", service)
	} else {
		b.MustRun("systemctl", "enable", "--now", "msgmux-sink@"+name+".socket")
	}
	p := b.channel("")
	b.Until("the sink "+name+" is there", 10*time.Second, func() bool { s := p.account().state(name); return s != "" && s != "absent" })
}

// TestCrashLoopKeepsTheQueue has each consumer that the pages show crash ten times in a row, longer than any start limit allows:
// what is queued for it is there when it works again, and nothing counts as lost.
func TestCrashLoopKeepsTheQueue(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		p.systemctl("start", "msgmux.target", p.service)
		for i, c := range consumers {
			const crashes = 10
			file := fmt.Sprintf("/run/got-%d", i)
			b.MustRun("sh", "-c", "touch /run/broken; rm -f /run/starts")
			b.install(c.page, c.name, "[Service]\nDynamicUser=no\nExecStart=\n"+
				"ExecStart=/bin/sh -c 'echo >>/run/starts; test ! -e /run/broken || exit 1; exec /usr/bin/socat -u -b 262144 FD:3 OPEN:"+file+",creat,append'\n")
			b.MustRun("sh", "-c", "seq 100 | sed 's/$/,/' | msgmux pub")
			b.Until(c.page+" "+c.name+" has crashed ten times", time.Minute, func() bool {
				out, _ := b.Run(t.Context(), "sh", "-c", "wc -l </run/starts")
				var starts int
				fmt.Sscan(out, &starts)
				if state := active(t, b.Machine, c.name+".service"); state == "failed" {
					t.Fatalf("%s %s is failed after %d starts", c.page, c.name, starts)
				}
				return starts >= crashes
			})
			b.MustRun("rm", "/run/broken")
			var got string
			b.Until(c.page+" "+c.name+" has everything", 20*time.Second, func() bool {
				got, _ = b.Run(t.Context(), "cat", file)
				return strings.HasSuffix(got, "100,")
			})
			if n := strings.Count(got, ","); n != 100 {
				t.Errorf("%s %s got %d of 100", c.page, c.name, n)
			}
			if a := p.account(); a.Status.Lost+a.Status.Abandoned != 0 {
				t.Errorf("%s %s: %+v", c.page, c.name, a.Status)
			}
			b.MustRun("sh", "-c", "systemctl disable --now \"$(systemctl show --property=TriggeredBy --value \"$1\")\"; systemctl stop \"$1\"; rm -r \"/etc/systemd/system/$1.d\"", "sh", c.name+".service")
			b.Until("the sink is absent", 10*time.Second, func() bool { return p.account().state(c.name) == "absent" })
			b.MustRun("msgmux", "sinks", "drop", c.name) // or the next one of that name would go on with its cursor
		}
	})
}

// TestEmptyMessagesDoNotEndAConsumer: a datagram of no bytes is the end of its input to socat, which then ends. Forty of them,
// which any sender may send, must not take a consumer of the pages down for good.
func TestEmptyMessagesDoNotEndAConsumer(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		p.systemctl("start", "msgmux.target", p.service)
		for _, c := range []struct{ page, name, file string }{
			{"docs/admin/static-sink.md", "archive", "/var/log/archive"},
			{"docs/admin/on-demand.md", "digest", "/var/log/digest"},
		} {
			b.install(c.page, c.name, "[Unit]\nDescription=as on the page\n")
			b.Run(t.Context(), "systemctl", "enable", "--now", c.name+".service")
			b.MustRun("sh", "-c", "for i in $(seq 40); do msgmux pub --empty; done; msgmux pub last")
			b.Until(c.page+": what comes after empty messages", 2*time.Minute, func() bool {
				got, _ := b.Run(t.Context(), "cat", c.file)
				return got == "last"
			})
			if state := active(t, b.Machine, "msgmux-sink@"+c.name+".socket"); state != "active" {
				t.Errorf("%s: after forty empty messages the socket is %s", c.page, state)
			}
			b.MustRun("systemctl", "disable", "--now", "msgmux-sink@"+c.name+".socket", c.name+".service")
		}
	})
}

// TestConsumersOfAllPages: each unit of a consumer, in whatever page or example, is one that does not lose its queue.
func TestConsumersOfAllPages(t *testing.T) {
	var texts []string
	top := rig.Top(t)
	err := filepath.WalkDir(filepath.Join(top, "docs"), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		switch text, err := os.ReadFile(path); {
		case err != nil:
			return err
		case strings.HasSuffix(path, ".md"):
			for part := range strings.SplitSeq(string(text), "```") {
				texts = append(texts, path+"\n"+part)
			}
		case strings.HasSuffix(path, ".service"):
			texts = append(texts, path+"\n"+string(text))
		case strings.HasSuffix(path, ".5"), strings.HasSuffix(path, ".7"):
			for _, part := range strings.Split(strings.ReplaceAll(string(text), `\-`, "-"), ".Bd ")[1:] {
				part, _, _ = strings.Cut(part, ".Ed")
				texts = append(texts, path+"\n"+part)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, text := range texts {
		// Whatever else is a service on a page reads a sink by a link, or registers, or feeds a source: none is given up.
		if strings.Contains(text, "[Service]\n") && strings.Contains(text, "\nExecStart=/") && !strings.Contains(text, "msgmuxd") {
			for _, want := range []string{"\nStartLimitIntervalSec=0\n", "\nRestart="} {
				if !strings.Contains(text, want) {
					t.Errorf("a service without %s: %s", strings.TrimSpace(want), text)
				}
			}
		}
		if !strings.Contains(text, "\nSockets=msgmux-sink") {
			continue
		}
		seen++
		for _, want := range []string{"StartLimitIntervalSec=0", "Restart=on-failure", "RestartSec=500ms"} {
			if !strings.Contains(text, "\n"+want+"\n") {
				t.Errorf("a consumer without %s: %s", want, text)
			}
		}
	}
	if seen < 4 {
		t.Errorf("only %d consumers were found", seen)
	}
}
