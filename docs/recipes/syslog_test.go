// SPDX-License-Identifier: Apache-2.0

package recipes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/docs/recipes/stage"
)

// TestRsyslog runs one rsyslog with both of the page's files: it sends what is logged, and receives everything.
func TestRsyslog(t *testing.T) {
	stage.Need(t, "logger")
	rsyslog := stage.Debian(t, "rsyslog")
	broker := stage.StartBroker(t)
	dir := stage.Folder(t)
	recipe := stage.ReadPage(t, "rsyslog.md")
	log, file := dir+"/devlog", dir+"/file"
	conf := stage.Write(t, dir, "rsyslog.conf", `
global(workDirectory="`+dir+`")
`+recipe.File("/etc/rsyslog.d/10-from-msgmux.conf", `module(load="imuxsock")`, `module(load="imuxsock" SysSock.Use="off")`,
		"/run/rsyslog/msgmux", dir+"/in", "/var/log/msgmux.log", file)+`
input(type="imuxsock" Socket="`+log+`" RateLimit.Interval="0")
`+recipe.File("/etc/rsyslog.d/60-msgmux.conf", "/run/msgmux", broker.Dir))
	start := func() *stage.Program {
		os.Remove(log)
		p := stage.Start(t, []string{rsyslog.Path("/usr/sbin/rsyslogd"), "-n", "-f", conf, "-i", dir + "/pid",
			"-M", rsyslog.Glob(t, "/usr/lib/*/rsyslog")}, stage.Env(rsyslog.Env()...))
		awaitSocket(t, log)
		return p
	}
	daemon := start()

	// Nobody takes messages: rsyslog waits with them.
	logLines(t, log, "early", 1, 2000)
	waitBlocked(t, broker)
	sink := broker.Subscribe("all")
	expectLogged(t, sink.WaitFor(2000), "early", 2000)
	sink.Stop()

	// Its own restart while it waits is rsyslog's affair: most of its queue comes back from disk.
	broker.WaitForNobody()
	logLines(t, log, "kept", 1, 2000)
	time.Sleep(time.Second) // it has to read them first
	daemon.Stop()
	daemon = start()
	sink = broker.Subscribe("all")
	logLines(t, log, "end", 1, 1)
	stage.Until(t, "the last message", func() bool { return strings.Contains(sink.Out(), " end: 1\x00") })
	kept := map[string]bool{}
	before := 0
	stage.Until(t, "the end of the queue", func() bool { n := before; before = len(sink.Messages()); time.Sleep(time.Second); return n == before })
	for _, m := range sink.Messages() {
		if strings.Contains(m, " kept: ") {
			kept[m[strings.Index(m, " kept: "):]] = true
		}
	}
	t.Logf("rsyslog was restarted while it waited: of 2000 messages %d came", len(kept))
	if len(kept) < 1900 {
		t.Error("that is less than the page says")
	}

	// As a sink beside the other. It starts with what no sink has had, so it sees the late ones only.
	stage.Until(t, "rsyslog's socket", func() bool { return os.Symlink(dir+"/in", broker.Sock("sinks/rsyslog")) == nil })
	broker.WaitSink("rsyslog")
	logLines(t, log, "late", 1, 1000)
	expectLogged(t, sink.WaitFor(before + 1000)[before:], "late", 1000)
	expectFile(t, file, "late", 1000)

	// It reads the forms that other sources have, and messages wait while it is restarted.
	daemon.Stop()
	stage.Until(t, "the absence of the sink", func() bool { return state(broker, "rsyslog") == "absent" })
	stage.Shell(t, `msgmux pub "<190>Nov 24 08:08:01 nginx: GET / HTTP/1.1" "no priority"`).Succeed()
	start()
	stage.Until(t, "the lines of the file", func() bool {
		text := read(t, file)
		return strings.Contains(text, " nginx: GET / HTTP/1.1\n") && strings.Contains(text, "no priority\n")
	})
}

// TestRsyslogSeesSenders has rsyslog as a sink with and without credentials=pass: whose a line is, and whom its limits hit.
func TestRsyslogSeesSenders(t *testing.T) {
	stage.NeedRoot(t) // the broker is root then, and may
	rsyslog := stage.Debian(t, "rsyslog")
	recipe := stage.ReadPage(t, "rsyslog.md")
	option := strings.TrimSpace(recipe.File("/etc/msgmux/sinks/rsyslog.conf"))
	const burst, flood = 20, 200
	for _, options := range []string{"", "," + option} {
		dir := stage.Folder(t)
		broker := stage.StartBroker(t, "--sink", dir+"/in,label=rsyslog"+options)
		file := dir + "/file"
		conf := stage.Write(t, dir, "rsyslog.conf", `
global(workDirectory="`+dir+`")
`+recipe.File("/etc/rsyslog.d/10-from-msgmux.conf", `module(load="imuxsock")`, `module(load="imuxsock" SysSock.Use="off")`,
			"/run/rsyslog/msgmux", dir+"/in", "/var/log/msgmux.log", file,
			`RateLimit.Interval="0"`, fmt.Sprintf(`RateLimit.Interval="600" RateLimit.Burst="%d" RateLimit.Severity="0" Annotate="on"`, burst)))
		daemon := stage.Start(t, []string{rsyslog.Path("/usr/sbin/rsyslogd"), "-n", "-f", conf, "-i", dir + "/pid",
			"-M", rsyslog.Glob(t, "/usr/lib/*/rsyslog")}, stage.Env(rsyslog.Env()...))
		stage.Until(t, "the sink", func() bool { return state(broker, "rsyslog") == "ready" })
		loud := startSaying(t, "loud", flood)
		stage.Until(t, "what the loud one sent", func() bool { return broker.Status().Accepted == flood })
		quiet := startSaying(t, "quiet", 5)
		stage.Until(t, "what the quiet one sent", func() bool { return broker.Status().Accepted == flood+5 })
		if options == "" {
			// Both are the broker, which has had its share.
			stage.Until(t, "the loud one's lines", func() bool { return count(read(t, file), "loud: ") == burst })
			time.Sleep(time.Second)
			if text := read(t, file); count(text, "quiet: ") != 0 || count(text, "_PID="+strconv.Itoa(broker.PID())+" ") != burst {
				t.Errorf("without the option, of a loud sender and a quiet one behind it rsyslog keeps:\n%s", text)
			}
		} else {
			stage.Until(t, "the quiet one's lines", func() bool { return count(read(t, file), "quiet: ") == 5 })
			if text := read(t, file); count(text, "loud: ") != burst || count(text, "_PID="+strconv.Itoa(loud.PID())+" ") != burst ||
				count(text, "_PID="+strconv.Itoa(quiet.PID())+" ") != 5 {
				t.Errorf("of %d and %d rsyslog keeps:\n%s", loud.PID(), quiet.PID(), text)
			}
		}
		for _, p := range []*stage.Program{loud, quiet, daemon} {
			p.Stop()
		}
		broker.Stop()
	}
}

// startSaying starts a program that sends n lines with that tag, and stays until the end.
func startSaying(t *testing.T, tag string, n int) *stage.Program {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	defer r.Close()
	p := stage.Start(t, []string{"msgmux", "pub", "-q"}, func(c *exec.Cmd) { c.Stdin = r })
	for i := 1; i <= n; i++ {
		fmt.Fprintf(w, "<13>%s: %d\n", tag, i)
	}
	return p
}

// count is how many lines have that in them.
func count(text, what string) (n int) {
	for line := range strings.Lines(text) {
		if strings.Contains(line, what) {
			n++
		}
	}
	return n
}

// TestSyslogNG does the same with syslog-ng.
func TestSyslogNG(t *testing.T) {
	stage.Need(t, "logger")
	ng := stage.Debian(t, "syslog-ng-core")
	broker := stage.StartBroker(t)
	dir := stage.Folder(t)
	recipe := stage.ReadPage(t, "syslog-ng.md")
	log, file := dir+"/devlog", dir+"/file"
	start := func(flowControl string) *stage.Program {
		conf := stage.Write(t, dir, "syslog-ng.conf", `@version: 3.38
options { keep-hostname(yes); stats-freq(0); };
source s_src { unix-dgram("`+log+`" flags(no-hostname)); };
`+recipe.File("/etc/syslog-ng/conf.d/msgmux.conf", "/run/msgmux", broker.Dir, "flags(flow-control);", flowControl)+
			recipe.File("/etc/syslog-ng/conf.d/from-msgmux.conf", "/run/syslog-ng/msgmux", dir+"/in", "/var/log/msgmux.log", file))
		os.Remove(log)
		modules := ng.Glob(t, "/usr/lib/syslog-ng/[0-9]*")
		p := stage.Start(t, []string{ng.Path("/usr/sbin/syslog-ng"), "-F", "--no-caps", "-f", conf, "--module-path=" + modules,
			"-R", dir + "/persist", "-p", dir + "/pid", "-c", dir + "/ctl"}, stage.Env(ng.Env("/usr/lib/syslog-ng")...))
		awaitSocket(t, log)
		return p
	}

	// Nobody takes messages, and with flow control whoever logs comes to wait.
	daemon := start("flags(flow-control);")
	early := startLogging(t, log, "early", 1, 20000)
	waitBlocked(t, broker)
	time.Sleep(time.Second)
	if !early.Running() {
		t.Error("logger does not wait, although syslog-ng has flow control and nobody takes its messages")
	}
	sink := broker.Subscribe("all")
	early.Succeed()
	expectLogged(t, sink.WaitFor(20000), "early", 20000)

	if err := os.Symlink(dir+"/in", broker.Sock("sinks/syslog-ng")); err != nil {
		t.Fatal(err)
	}
	broker.WaitSink("syslog-ng")
	logLines(t, log, "late", 1, 1000)
	expectLogged(t, sink.WaitFor(21000)[20000:], "late", 1000)
	expectFile(t, file, "late", 1000)

	// While it is restarted, messages wait.
	daemon.Stop()
	stage.Until(t, "the absence of the sink", func() bool { return state(broker, "syslog-ng") == "absent" })
	stage.Shell(t, `msgmux pub "<190>Nov 24 08:08:01 nginx: GET / HTTP/1.1" "no priority"`).Succeed()
	daemon = start("")
	stage.Until(t, "the lines of the file", func() bool {
		text := read(t, file)
		return strings.Contains(text, " nginx: GET / HTTP/1.1\n") && strings.Contains(text, "no priority\n")
	})

	// Without flow control it drops what its queue does not take.
	os.Remove(broker.Sock("sinks/syslog-ng"))
	sink.Stop()
	broker.WaitForNobody()
	logLines(t, log, "dropped", 1, 20000)
	again := broker.Subscribe("again")
	came := len(again.WaitFor(10000))
	t.Logf("without flow control, of 20000 lines %d came", came)
	if came >= 20000 {
		t.Error("syslog-ng drops nothing without flow control: the page says that it does")
	}
}

// startLogging gives lines "tag: number" to logger, one message each.
func startLogging(t *testing.T, socket, tag string, from, to int) *stage.Program {
	t.Helper()
	var lines strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintln(&lines, i)
	}
	return stage.Start(t, []string{"logger", "-u", socket, "-t", tag, "--socket-errors=on"}, stage.Input(lines.String()))
}

func logLines(t *testing.T, socket, tag string, from, to int) {
	t.Helper()
	startLogging(t, socket, tag, from, to).Succeed()
}

// expectLogged wants exactly the messages of n lines that were logged, in their order, without a newline at the end.
func expectLogged(t *testing.T, messages []string, tag string, n int) {
	t.Helper()
	if len(messages) != n {
		t.Errorf("%d messages came, not %d", len(messages), n)
	}
	for i, m := range messages {
		if !strings.HasPrefix(m, "<13>") || !strings.HasSuffix(m, " "+tag+": "+strconv.Itoa(i+1)) {
			t.Fatalf("message %d is %q", i+1, m)
		}
	}
}

// expectFile wants the lines of the log file that a daemon writes as a sink, in their order.
func expectFile(t *testing.T, file, tag string, n int) {
	t.Helper()
	stage.Until(t, "the lines of the file", func() bool { return strings.Contains(read(t, file), fmt.Sprintf("%s: %d\n", tag, n)) })
	lines := strings.Split(strings.TrimSpace(read(t, file)), "\n")
	lines = slices.DeleteFunc(lines, func(l string) bool { return !strings.Contains(l, tag+": ") })
	if len(lines) != n {
		t.Errorf("the file has %d lines, not %d", len(lines), n)
	}
	for i, l := range lines {
		if !strings.HasSuffix(l, fmt.Sprintf(" %s: %d", tag, i+1)) {
			t.Fatalf("line %d of the file is %q", i+1, l)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

// state is that of a sink, "" if there is none of that label.
func state(b *stage.Broker, label string) string {
	for _, s := range b.Status().Sinks {
		if s.Label == label {
			return s.State
		}
	}
	return ""
}

func awaitSocket(t *testing.T, path string) {
	t.Helper()
	stage.Until(t, "the socket "+filepath.Base(path), func() bool { _, err := os.Stat(path); return err == nil })
}

// waitBlocked waits until messages wait at the source socket, and the broker does not take them.
func waitBlocked(t *testing.T, b *stage.Broker) {
	t.Helper()
	stage.Until(t, "sources that wait", func() bool { return b.Status().Sources.Blocked })
	if n := b.Status().Received; n != 0 {
		t.Fatalf("the broker took %d messages without a sink", n)
	}
}
