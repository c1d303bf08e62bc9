// SPDX-License-Identifier: Apache-2.0

package packaging

// The packages of the bridge to NATS, under a real systemd and with a real nats-server.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/msgmux/msgmux/units/rig"
)

// bridgePackages builds the packages of the bridge, of the first version, once, and beside them what its tests run: nats-server and
// a client for it. All are built without a C library.
var bridgePackages = sync.OnceValues(func() (string, error) {
	folder := filepath.Join(scratch, "nats")
	cmd := exec.Command("./nats/build.sh", folder)
	cmd.Env = append(os.Environ(), "COMMIT="+commit, "VERSION="+first, "ARCHES="+runtime.GOARCH)
	if err := os.Mkdir(folder, 0o755); err != nil {
		return "", err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build the packages of the bridge: %w\n%s", err, out)
	}
	for program, of := range map[string]string{"nats-server": "github.com/nats-io/nats-server/v2", "request": "./natstest/request"} {
		cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(folder, program), of)
		cmd.Dir, cmd.Env = "../cmd/msgmux-nats", append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("cannot build %s: %w\n%s", program, err, out)
		}
	}
	return folder, nil
})

// bridgeFile is a file that bridgePackages has built: the one that the pattern matches.
func bridgeFile(t *testing.T, pattern string) string {
	t.Helper()
	rig.Require(t, part)
	folder, err := bridgePackages()
	if err != nil {
		t.Fatal(err)
	}
	found, _ := filepath.Glob(filepath.Join(folder, pattern))
	if len(found) != 1 {
		t.Fatalf("there is not one %s: %v", pattern, found)
	}
	return found[0]
}

// TestPackagesOfTheBridge hold what they should, satisfy the linter, and their scripts the shell's.
func TestPackagesOfTheBridge(t *testing.T) {
	deb, rpm := bridgeFile(t, "*.deb"), bridgeFile(t, "*.rpm")
	need(t, "lintian", "shellcheck", "rpm")
	for _, file := range []string{deb, rpm} {
		lines := contents(t, file)
		for _, want := range []string{"-rwxr-xr-x root root /usr/bin/msgmux-nats", "-rw-r--r-- root root /usr/lib/systemd/system/msgmux-nats-out@.service",
			"-rw-r--r-- root root /usr/lib/systemd/system/msgmux-nats-in@.service", "-rw-r--r-- root root /usr/share/man/man8/msgmux-nats.8.gz",
			"-rw-r--r-- root root /usr/lib/sysusers.d/msgmux-nats.conf", "-rw-r--r-- root root /usr/share/doc/msgmux-nats/bridge.md",
			"-rw-r--r-- root root /usr/share/doc/msgmux-nats/copyright"} {
			if !slices.Contains(lines, want) {
				t.Errorf("%s does not have %s", filepath.Base(file), want)
			}
		}
		for _, line := range lines {
			if strings.Contains(line, "/usr/bin/") && !strings.HasSuffix(line, "/usr/bin/") && !strings.HasSuffix(line, "/msgmux-nats") {
				t.Errorf("%s has what is not its own: %s", filepath.Base(file), line)
			}
		}
	}
	out, err := exec.Command("lintian", "--allow-root", "--pedantic", "--display-info", "--fail-on", "error,warning,info,pedantic", deb).CombinedOutput()
	if err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("lintian: %v\n%s", err, out)
	}
	scripts, _ := filepath.Glob("nats/scripts/*/*")
	for _, script := range scripts {
		if out, err := exec.Command("shellcheck", "--shell=sh", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
}

// TestRemovingForgetsBridges: a bridge that was enabled is not when the rpm is gone, or the next installation would start it at a boot. An
// upgrade leaves it enabled.
func TestRemovingForgetsBridges(t *testing.T) {
	if _, err := exec.LookPath("systemctl"); err != nil {
		t.Skip("this host has no systemctl, which works on folders without a systemd")
	}
	root, bin := t.TempDir(), t.TempDir()
	systemctl := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = stop ] || PATH=%s exec systemctl --root=%s \"$@\"\n", os.Getenv("PATH"), root)
	if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte(systemctl), 0o755); err != nil {
		t.Fatal(err)
	}
	sh := func(script string, args ...string) string {
		t.Helper()
		cmd := exec.Command("sh", append([]string{"-c", script, "sh"}, args...)...)
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "SYSTEMD_LOG_LEVEL=err")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		return string(out)
	}
	units := filepath.Join(root, "usr/lib/systemd/system")
	sh(`mkdir -p "$1" "$2" && cp ../units/nats/*.service "$1" && systemctl enable --quiet "$3" "$4"`, units, filepath.Join(root, "etc/systemd/system"), bridgeOut, bridgeIn)
	links := func() string { return sh(`find "$1/etc" -type l -printf '%f '`, root) }
	sh("sh nats/scripts/rpm/preun 1")
	if got := links(); !strings.Contains(got, bridgeOut) || !strings.Contains(got, bridgeIn) {
		t.Errorf("after an upgrade are enabled: %q", got)
	}
	sh("sh nats/scripts/rpm/preun 0")
	if got := links(); got != "" {
		t.Errorf("after the removal are enabled: %s", got)
	}
}

// joined is a machine with two channels that two bridges join by a stream of a nats-server on it: what is sent into the default
// channel comes out of the channel far.
type joined struct {
	*rig.Machine
	t    *testing.T
	far  *rig.Process // hears what comes out
	sent int
}

const (
	bridgeOut = "msgmux-nats-out@site.service"
	bridgeIn  = "msgmux-nats-in@far.service"
)

// nearHost is what docs/admin/bridge.md has an administrator do on the near host, once the packages are there and with a server of
// this machine, which wants no credentials.
func nearHost(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../docs/admin/bridge.md")
	if err != nil {
		t.Fatal(err)
	}
	_, steps, _ := strings.Cut(string(page), "\n## The near host\n")
	_, steps, _ = strings.Cut(steps, "```sh not-run\n")
	steps, _, found := strings.Cut(steps, "```")
	var kept []string
	for line := range strings.Lines(steps) {
		switch {
		case strings.HasPrefix(line, "apt-get "), strings.Contains(line, "site.creds"):
		case strings.HasPrefix(line, "server="):
			kept = append(kept, "server=nats://127.0.0.1:4222\n")
		default:
			kept = append(kept, line)
		}
	}
	if !found || len(kept) < 6 {
		t.Fatalf("docs/admin/bridge.md has no steps for the near host: %q", steps)
	}
	return strings.Join(kept, "")
}

// joinByStream installs all of that and starts it, as docs/admin/bridge.md has it.
func joinByStream(t *testing.T, m *rig.Machine, by tool) *joined {
	t.Helper()
	j := &joined{Machine: m, t: t}
	for _, program := range []string{"nats-server", "request"} {
		m.Install(bridgeFile(t, program), "/usr/local/bin/"+program, 0o755)
	}
	m.WriteFile("/etc/nats.conf", []byte("listen: \"127.0.0.1:4222\"\njetstream { store_dir: /var/lib/nats, max_file: 1G }\n"), 0o644)
	m.WriteFile("/etc/systemd/system/nats.service", []byte("[Service]\nExecStart=/usr/local/bin/nats-server --config /etc/nats.conf\nRestart=always\nRestartSec=100ms\n"), 0o644)
	m.WriteFile("/etc/msgmux/nats/far.conf", []byte("server=nats://127.0.0.1:4222\nstream=SITE\nin=site.near\nchannel=far\n"), 0o644)
	m.MustRun("systemctl", "daemon-reload")
	m.MustRun("systemctl", "start", "nats.service", "msgmux.target", "msgmux@far.target")
	j.until("the server", func() bool { _, ok := j.ask("$JS.API.INFO", ""); return ok })
	j.makeStream("")
	m.MustRun("sh", "-exc", nearHost(t))
	m.MustRun("systemctl", "enable", "--now", bridgeIn)
	m.WriteFile("/etc/systemd/system/said.service", []byte("[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStartPre=touch /var/lib/said\n"+
		"ExecStart=/usr/bin/msgmux pub --follow /var/lib/said --label said --keep 1h\nRestart=always\nRestartSec=100ms\n"), 0o644)
	m.MustRun("systemctl", "daemon-reload")
	m.MustRun("systemctl", "start", "said.service")
	j.far = m.Start("msgmux", "--channel", "far", "sub", "--label", "ear", "--keep", "1h", "--patience", "forever")
	return j
}

// until waits for something with two processors that others need, too.
func (j *joined) until(what string, done func() bool) { j.Until(what, 90*time.Second, done) }

// ask asks the server; ok is false if it refuses, or does not answer.
func (j *joined) ask(subject, text string) (answer string, ok bool) {
	ctx, cancel := context.WithTimeout(j.t.Context(), 30*time.Second)
	defer cancel()
	p := j.Start("request", "nats://127.0.0.1:4222", subject, text)
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Stop(time.Second)
	}
	return p.Stdout(), p.Wait() == 0
}

// stream changes the stream; what is the part of the subject of the API, settings are added to those that it always has.
func (j *joined) stream(what, settings string) {
	j.t.Helper()
	config := `{"name":"SITE","subjects":["site.near"],"storage":"file","retention":"limits","num_replicas":1,"allow_batched":true` + settings + `}`
	if answer, ok := j.ask("$JS.API.STREAM."+what+".SITE", config); !ok {
		j.t.Fatalf("%s: STREAM.%s: %s", j.Suite(), what, answer)
	}
}

func (j *joined) makeStream(settings string) { j.stream("CREATE", settings) }

// say has the next n messages sent into the near channel, all by one source: between several there is no order over a restart.
func (j *joined) say(n int) {
	j.t.Helper()
	j.MustRun("sh", "-c", `seq "$1" "$2" >>/var/lib/said`, "sh", fmt.Sprint(j.sent+1), fmt.Sprint(j.sent+n))
	j.sent += n
}

// hears wants all that was sent to come out of the far channel, once and in order.
func (j *joined) hears() {
	j.t.Helper()
	want := strings.Builder{}
	for i := range j.sent {
		fmt.Fprintln(&want, i+1)
	}
	j.until("all messages", func() bool { return len(j.far.Stdout()) >= want.Len() })
	if got := j.far.Stdout(); got != want.String() {
		at := 0
		for at < len(got) && at < want.Len() && got[at] == want.String()[at] {
			at++
		}
		j.t.Fatalf("%s: of %d messages came %d lines, and instead of %.60q came %.60q", j.Suite(), j.sent, strings.Count(got, "\n"), want.String()[at:], got[at:])
	}
}

// show is a property of a unit.
func (j *joined) show(unit, property string) string {
	return strings.TrimSpace(j.MustRun("systemctl", "show", "--value", "--property="+property, unit))
}

// says wants the status line of a unit to have these words.
func (j *joined) says(unit string, words ...string) {
	j.t.Helper()
	j.until(unit+" says "+strings.Join(words, ", "), func() bool {
		status := j.show(unit, "StatusText")
		return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(status, word) })
	})
}

// ends wants a unit to end with a status, and its last line to have these words, without anybody starting it again but systemd.
func (j *joined) ends(unit, status string, words ...string) {
	j.t.Helper()
	j.until(unit+" ends with "+status, func() bool { return j.show(unit, "ExecMainStatus") == status })
	journal := j.Journal("--unit="+unit, "--output=cat")
	for _, word := range words {
		if !strings.Contains(journal, word) {
			j.t.Errorf("%s: %s does not say %q:\n%s", j.Suite(), unit, word, journal[max(0, len(journal)-2000):])
		}
	}
}

// doctor is what the doctor finds of a unit.
func (j *joined) doctor(unit, verdict string, words ...string) {
	j.t.Helper()
	out, _ := j.Run(j.t.Context(), "msgmux", "doctor", "--json")
	var list []struct{ Name, Verdict, Text, Advice string }
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		j.t.Fatalf("%v in %q", err, out)
	}
	for _, d := range list {
		if d.Name != strings.TrimSuffix(unit, ".service") {
			continue
		}
		for _, word := range words {
			if d.Verdict != verdict || !strings.Contains(d.Text+"\n"+d.Advice, word) {
				j.t.Errorf("%s: the doctor: %+v; want %s and %q", j.Suite(), d, verdict, word)
			}
		}
		return
	}
	j.t.Errorf("%s: the doctor does not know %s: %s", j.Suite(), unit, out)
}

// scrape wants the metrics of a bridge to have a line.
func (j *joined) scrape(folder, line string) {
	j.t.Helper()
	path := fmt.Sprintf("/proc/%d/root/run/%s/metrics", j.Leader(), folder)
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	var text []byte
	answer, err := client.Get("http://localhost/metrics")
	if err == nil {
		text, err = io.ReadAll(answer.Body)
		answer.Body.Close()
	}
	if err != nil || !strings.Contains(string(text), "\n"+line+"\n") {
		j.t.Errorf("%s: no %q, %v in\n%s", j.Suite(), line, err, text)
	}
}

// TestBridgeUnderSystemd installs the bridge beside two channels and a nats-server, has it carry, restarts and kills what there is,
// and has the stream become full, sealed, and go: each has its status and its line, and it goes on by itself when it is mended.
func TestBridgeUnderSystemd(t *testing.T) {
	onEach(t, func(t *testing.T, m *rig.Machine, by tool) {
		install(t, m, by, first)
		m.MustRun("systemctl", "start", "msgmux.target", "msgmux.service") // not every package does
		before := snapshot(m)
		file := bridgeFile(t, "*."+by.name)
		m.Install(file, "/tmp/"+filepath.Base(file), 0o644)
		do(t, m, append(slices.Clone(by.install), "/tmp/"+filepath.Base(file))...)
		if active := m.MustRun("sh", "-c", "systemctl list-units --all --no-legend 'msgmux-nats*'"); active != "" {
			t.Errorf("%s: installing it has started %s", m.Suite(), active)
		}
		j := joinByStream(t, m, by)
		j.say(1000)
		j.hears()
		for unit, folder := range map[string]string{bridgeOut: "msgmux-nats-out.site", bridgeIn: "msgmux-nats-in.far"} {
			j.says(unit, "joined to nats://127.0.0.1:4222", "1000 messages carried", "lag 0")
			if got := j.show(unit, "Type") + j.show(unit, "User"); got != "notifymsgmux-nats" || j.show(unit, "WatchdogUSec") != "30s" {
				t.Errorf("%s: %s: %s, watchdog %s", m.Suite(), unit, got, j.show(unit, "WatchdogUSec"))
			}
			if status := m.MustRun("systemctl", "status", "--no-pager", unit); !strings.Contains(status, "joined to nats://127.0.0.1:4222") {
				t.Errorf("%s: systemctl status shows\n%s", m.Suite(), status)
			}
			direction, name, _ := strings.Cut(strings.TrimPrefix(folder, "msgmux-nats-"), ".")
			j.scrape(folder, fmt.Sprintf("msgmux_nats_messages_total{bridge=%q,direction=%q} 1000", name, direction))
			// At most 1.9 of 10: of what it lists there is nothing but the network, and what every service has.
			exposure := strings.Fields(m.MustRun("sh", "-c", "systemd-analyze security --no-pager "+unit+" | tail -n 1"))
			if !slices.ContainsFunc(exposure, func(word string) bool { return len(word) == 3 && word < "2.0" && word[1] == '.' }) {
				t.Errorf("%s: systemd-analyze security %s: %s", m.Suite(), unit, exposure)
			}
			j.checkLog(unit)
		}
		j.doctor(bridgeOut, "ok", "joined to")
		j.doctor(bridgeIn, "ok", "joined to")

		// Restarted and killed, one after the other and the server with them.
		for _, unit := range []string{bridgeOut, bridgeIn, "nats.service", "msgmux.service", "msgmux@far.service"} {
			for _, argv := range [][]string{{"systemctl", "restart", unit}, {"systemctl", "kill", "--signal=KILL", unit}} {
				j.say(200)
				m.MustRun(argv...)
				j.say(200)
			}
		}
		j.hears()

		// While its server is away it waits, and says so.
		m.MustRun("systemctl", "stop", "nats.service")
		j.says(bridgeOut, "cannot connect")
		j.doctor(bridgeOut, "warn", "not joined")
		j.say(100)
		m.MustRun("systemctl", "start", "nats.service")
		j.hears()

		j.stream("UPDATE", fmt.Sprintf(`,"max_msgs":%d,"discard":"new"`, j.sent+10))
		j.say(50)
		j.ends(bridgeOut, "4", "the stream is full")
		j.doctor(bridgeOut, "fail", "status 4", "make room in the stream")
		j.stream("UPDATE", "")
		j.hears()

		j.stream("UPDATE", `,"sealed":true,"deny_delete":true,"deny_purge":true,"discard":"new"`)
		j.say(10)
		j.ends(bridgeOut, "5", "sealed")
		if answer, ok := j.ask("$JS.API.STREAM.DELETE.SITE", ""); !ok {
			t.Fatalf("%s: %s", m.Suite(), answer)
		}
		for _, unit := range []string{bridgeOut, bridgeIn} {
			j.ends(unit, "3", "there is no such stream")
		}
		// Made anew, it is not the one that the channels have their places in.
		j.makeStream("")
		for _, unit := range []string{bridgeOut, bridgeIn} {
			j.ends(unit, "6", "the stream is not the one it was")
		}
		// Somebody has decided that they go on with it as it is. What was said to the sealed stream is abandoned.
		for unit, group := range map[string]string{bridgeOut: "msgmux", bridgeIn: "msgmux-send"} {
			m.MustRun("systemctl", "stop", unit)
			name, _, _ := strings.Cut(unit[strings.Index(unit, "@")+1:], ".")
			m.MustRun("runuser", "-u", "msgmux-nats", "-G", group, "--", "msgmux-nats", "forget", "/etc/msgmux/nats/"+name+".conf")
			m.MustRun("systemctl", "start", unit)
			j.says(unit, "joined to nats://127.0.0.1:4222")
		}
		was := len(j.far.Stdout())
		j.say(100)
		j.until("what is said then", func() bool { return strings.HasSuffix(j.far.Stdout(), fmt.Sprintf("\n%d\n", j.sent)) })
		if got := strings.Count(j.far.Stdout()[was:], "\n"); got != 100 {
			t.Errorf("%s: of 100 messages came %d", m.Suite(), got)
		}

		m.WriteFile("/etc/msgmux/nats/wrong.conf", []byte("server=nats://127.0.0.1:4222\n"), 0o644)
		m.Run(t.Context(), "systemctl", "start", "msgmux-nats-out@wrong.service")
		j.ends("msgmux-nats-out@wrong.service", "2", "stream= is missing")
		j.until("it is left alone", func() bool { return j.show("msgmux-nats-out@wrong.service", "ActiveState") == "failed" })

		j.far.Signal(syscall.SIGKILL)
		m.MustRun("systemctl", "disable", "--now", bridgeOut, bridgeIn)
		m.MustRun("systemctl", "stop", "nats.service", "said.service", "msgmux@far.target", "msgmux@far.service")
		m.MustRun("sh", "-c", "rm -r /etc/msgmux /run/msgmux.far /etc/nats.conf /etc/systemd/system/nats.service /etc/systemd/system/said.service /usr/local/bin/* /var/lib/nats /var/lib/said; systemctl daemon-reload; systemctl reset-failed")
		purge := slices.Clone(by.purge)
		purge[len(purge)-1] = "msgmux-nats"
		do(t, m, purge...)
		// Its user stays, since files of its own may be among the settings; and brokers were restarted.
		others := func(all []string) []string {
			return slices.DeleteFunc(all, func(line string) bool {
				return strings.Contains(line, "msgmux-nats:") || strings.HasPrefix(line, "process ")
			})
		}
		checkSame(t, others(before), others(snapshot(m)))
	})
}

// checkLog wants no warning of a bridge that nobody has disturbed.
func (j *joined) checkLog(unit string) {
	j.t.Helper()
	for line := range strings.Lines(j.Journal("--unit="+unit, "--priority=warning")) {
		j.t.Errorf("%s: %s warns: %s", j.Suite(), unit, line)
	}
}
