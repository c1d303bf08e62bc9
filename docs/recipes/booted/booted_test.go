// SPDX-License-Identifier: Apache-2.0

package booted

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/docs/recipes/stage"
	"github.com/msgmux/msgmux/units/rig"
)

// packages are those whose programs the pages name.
var packages = []string{"nginx", "haproxy", "rsyslog", "curl", "python3", "sqlite3", "jq"}

// machine is a booted Debian with msgmux on it.
type machine struct {
	*rig.Machine
	t *testing.T
}

// bootBare boots a Debian that has the programs of the pages, and nothing of msgmux.
func bootBare(t *testing.T) *machine {
	t.Helper()
	rig.Require(t, "recipes")
	t.Chdir(stage.Top(t)) // where the rig looks for what it installs
	return &machine{rig.Boot(t, rig.Debian12, packages...), t}
}

func boot(t *testing.T) *machine {
	t.Helper()
	m := bootBare(t)
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir+"/", "./cmd/msgmuxd", "./cmd/msgmux")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build: %v\n%s", err, out)
	}
	for _, program := range []string{"msgmuxd", "msgmux"} {
		m.Install(filepath.Join(dir, program), "/usr/bin/"+program, 0o755)
	}
	m.InstallUnits()
	m.shell("systemctl enable --now msgmux.target msgmux.service") // as the packages do
	return m
}

// shell runs a script that must succeed.
func (m *machine) shell(script string) string {
	m.t.Helper()
	return m.MustRun("bash", "-euc", script)
}

// file installs a file of a page at its place.
func (m *machine) file(page stage.Page, name string) {
	m.t.Helper()
	m.WriteFile(name, []byte(page.File(name)), 0o644)
}

// until runs a script until it succeeds.
func (m *machine) until(what, script string) {
	m.t.Helper()
	m.Until(what, 30*time.Second, func() bool {
		_, exit := m.Run(context.Background(), "bash", "-euc", script)
		return exit == 0
	})
}

// archived waits for a message in the archive that the first page has set up. like is a pattern of SQL.
func (m *machine) archived(what, before, like string) {
	m.t.Helper()
	m.until(what, before+`
sqlite3 /var/lib/archive/archive.db "SELECT CAST(message AS TEXT) FROM messages WHERE CAST(message AS TEXT) LIKE '`+like+`'" | grep -q .`)
}

// TestPagesUnderSystemd has one machine for all pages, as a system has. They build on each other.
func TestPagesUnderSystemd(t *testing.T) {
	m := boot(t)
	for _, page := range []struct {
		name   string
		follow func(stage.Page)
	}{
		{"sqlite", m.sqlite},
		{"nginx", m.nginx},
		{"haproxy", m.haproxy},
		{"rsyslog", m.rsyslog},
		{"journald", m.journald},
	} {
		t.Logf("following %s.md", page.name)
		page.follow(stage.ReadPage(t, page.name+".md"))
	}
}

func (m *machine) sqlite(page stage.Page) {
	examples := "docs/examples/sqlite-writer"
	for _, name := range []string{"sqlite-writer.py", "archive.service"} {
		m.Install(filepath.Join(examples, name), "/srv/sqlite-writer/"+name, 0o644)
	}
	m.shell("cd /srv/sqlite-writer\n" + page.Commands("install"))
	m.until("the sink", "msgmux sinks list --json | jq -e '.[] | select(.label == \"archive\" and .kind == \"framed\" and .ack and .patience == \"forever\")'")
	if out := m.shell(page.Commands("see", "msgmux pub hello\n", "msgmux pub hello\nsleep 2\n")); !strings.HasSuffix(out, "|hello\n") {
		m.t.Errorf("the page's query shows %q", out)
	}
	began := time.Now()
	m.shell(page.Commands("unkind"))
	m.until("the last line in the archive",
		`[ "$(sqlite3 /var/lib/archive/archive.db 'SELECT CAST(message AS TEXT) FROM messages ORDER BY id DESC LIMIT 1')" = 100000 ]`)
	got := m.shell(`sqlite3 /var/lib/archive/archive.db "SELECT count(*), sum(CAST(CAST(message AS TEXT) AS INTEGER) = id - 1) FROM messages"`)
	if got != "100001|100001\n" { // hello is 0 as a number, and the first
		m.t.Errorf("in the archive, and in their place, are %q", got)
	}
	m.t.Logf("100,000 lines with five kills of each took %v", time.Since(began).Round(100*time.Millisecond))
	m.t.Logf("starts of the broker: %s", strings.TrimSpace(m.shell("msgmux status --json | jq .status.starts")))
}

func (m *machine) nginx(page stage.Page) {
	m.file(page, "/etc/nginx/conf.d/msgmux.conf")
	m.shell(page.Commands("allow"))
	m.shell("curl -sf http://localhost/from-nginx || curl -s http://localhost/from-nginx >/dev/null")
	m.archived("nginx's line", "", `<190>% nginx: {%GET /from-nginx%`)
	if owner := m.shell("ps -o user= -C nginx | sort -u"); !strings.Contains(owner, "www-data") {
		m.t.Errorf("nginx runs as %q", owner)
	}
	m.shell("systemctl stop nginx")
}

func (m *machine) haproxy(page stage.Page) {
	// Debian's own configuration, with chroot and all, and in its global section the page's line.
	line := strings.Split(page.File("/etc/haproxy/haproxy.cfg"), "\n")[1]
	if !strings.Contains(line, "log /run/msgmux/source") {
		m.t.Fatalf("the page's second line is %q", line)
	}
	m.shell(fmt.Sprintf(`sed -i 's|^global|global\n%s|' /etc/haproxy/haproxy.cfg
cat >>/etc/haproxy/haproxy.cfg <<'X'
frontend web
    bind 127.0.0.1:8081
    http-request return status 200 content-type text/plain string ok
X
grep -q '^\s*chroot /var/lib/haproxy' /etc/haproxy/haproxy.cfg`, line))
	m.file(page, "/etc/systemd/system/haproxy.service.d/msgmux.conf")
	m.file(page, "/etc/systemd/system/msgmux-source.socket.d/everybody.conf")
	m.shell("systemctl daemon-reload")
	m.shell(page.Commands("everybody"))
	m.shell("systemctl restart haproxy")
	m.archived("HAProxy's line", "curl -sf http://127.0.0.1:8081/from-haproxy", `<134>% haproxy[%GET /from-haproxy%`)
	m.shell("systemctl stop haproxy")
}

func (m *machine) rsyslog(page stage.Page) {
	m.file(page, "/etc/rsyslog.d/60-msgmux.conf")
	m.shell("systemctl restart rsyslog")
	m.archived("rsyslog's line", "logger -t demo from-logger", `<13>% demo: from-logger`)

	// The other way, with what Debian's configuration has loaded already left out.
	m.shell("rm /etc/rsyslog.d/60-msgmux.conf")
	m.WriteFile("/etc/rsyslog.d/10-from-msgmux.conf", []byte(page.File("/etc/rsyslog.d/10-from-msgmux.conf", "module(load=\"imuxsock\")\n", "")), 0o644)
	m.file(page, "/etc/tmpfiles.d/msgmux-rsyslog.conf")
	m.shell("systemd-tmpfiles --create && systemctl restart rsyslog")
	m.until("the sink", "msgmux sinks list --json | jq -e '.[] | select(.label == \"rsyslog\" and .state == \"ready\")'")
	m.shell(`msgmux pub "<13>test: hello"`)
	m.until("the line of the file", "grep ' test: hello$' /var/log/msgmux.log")
}

func (m *machine) journald(page stage.Page) {
	m.file(page, "/etc/systemd/system/msgmux-journal.service")
	m.shell("systemctl daemon-reload && systemctl enable --now msgmux-journal")
	m.archived("an entry of the journal", "echo from-the-journal | systemd-cat -t demo", `{%from-the-journal%`)
}
