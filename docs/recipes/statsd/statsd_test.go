// SPDX-License-Identifier: Apache-2.0

package statsd

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/DataDog/datadog-go/v5/statsd"

	"github.com/msgmux/msgmux/docs/recipes/stage"
)

func TestMain(m *testing.M) {
	stage.Main(m, stage.Setup{Commands: []string{"github.com/prometheus/statsd_exporter"}})
}

// agent is a statsd_exporter, started as the page's unit does.
type agent struct {
	*stage.Program
	socket, address string
}

func startAgent(t *testing.T, dir, name string) *agent {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{socket: dir + "/" + name + ".sock", address: l.Addr().String()}
	l.Close()
	a.run(t)
	return a
}

func (a *agent) run(t *testing.T) {
	t.Helper()
	unit := stage.ReadPage(t, "statsd.md").File("/etc/systemd/system/statsd-exporter.service",
		"/run/statsd-exporter/statsd.sock", a.socket, "127.0.0.1:9102", a.address)
	found := regexp.MustCompile(`(?ms)^ExecStartPre=(.*?)\nExecStart=/usr/local/bin/(.*?[^\\])\n`).FindStringSubmatch(unit)
	if found == nil {
		t.Fatalf("cannot find what the unit runs: %s", unit)
	}
	a.Program = stage.Shell(t, found[1]+"\nexec "+found[2])
	stage.Until(t, "the agent's start", func() bool {
		_, err := os.Stat(a.socket)
		return err == nil && exec.Command("curl", "-sf", "http://"+a.address+"/metrics").Run() == nil
	})
}

// value is what the agent tells of a metric, "" if it does not know it.
func (a *agent) value(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("curl", "-s", "http://"+a.address+"/metrics").Output()
	if err != nil {
		t.Fatalf("cannot ask the agent: %v", err)
	}
	if found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(out); found != nil {
		return string(found[1])
	}
	return ""
}

func (a *agent) expect(t *testing.T, name, want string) {
	t.Helper()
	stage.Until(t, fmt.Sprintf("%s being %s and not %q", name, want, a.value(t, name)), func() bool { return a.value(t, name) == want })
}

// TestStatsD runs the DogStatsD client and two statsd_exporters.
func TestStatsD(t *testing.T) {
	stage.Need(t, "curl")
	broker := stage.StartBroker(t)
	dir := stage.Folder(t)
	t.Setenv("DD_DOGSTATSD_URL", "unix://"+broker.Sock("source"))
	client := func() *statsd.Client {
		c, err := statsd.New("")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}

	// With no sink, the application is not held up, and the client counts what it throws away.
	early := client()
	began := time.Now()
	large := strings.Repeat("x", 4000)
	for range 100 { // two fit into a packet
		if err := early.Event(&statsd.Event{Title: "early", Text: large}); err != nil {
			t.Fatal(err)
		}
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("the application was held up for %v", d)
	}
	stage.Until(t, "dropped packets", func() bool { early.Flush(); return early.GetTelemetry().TotalPayloadsDroppedWriter > 0 })
	early.Close() // sends the rest
	told := early.GetTelemetry()
	sink := broker.Subscribe("all")
	came := len(sink.WaitFor(int(told.TotalPayloadsSent)))
	t.Logf("without a sink, the client sent %d packets, of which %d came, and dropped %d", told.TotalPayloadsSent, came, told.TotalPayloadsDropped)
	if uint64(came) != told.TotalPayloadsSent {
		t.Errorf("%d packets came, and the client says that it sent %d", came, told.TotalPayloadsSent)
	}
	sink.Stop()

	// Two agents, one of them the page's, with a restart of that one.
	agents := []*agent{startAgent(t, dir, "one"), startAgent(t, dir, "two")}
	for i, a := range agents {
		name := []string{"prometheus", "second"}[i]
		if err := os.Symlink(a.socket, broker.Sock("sinks/"+name)); err != nil {
			t.Fatal(err)
		}
		broker.WaitSink(name)
	}
	app := client()
	send := func() {
		t.Helper()
		for range 500 {
			if err := app.Incr("requests", nil, 1); err != nil {
				t.Fatal(err)
			}
		}
		app.Gauge("depth", 7, nil, 1)
		app.Flush()
	}
	send()
	for _, a := range agents {
		a.expect(t, "requests", "500")
		a.expect(t, "depth", "7")
	}
	agents[0].Stop()
	send()
	agents[1].expect(t, "requests", "1000")
	agents[0].run(t)
	agents[0].expect(t, "requests", "500") // it counts from zero, and gets what it missed

	see := stage.Shell(t, strings.ReplaceAll(stage.ReadPage(t, "statsd.md").Commands("see", "curl", "sleep 1; curl"), "127.0.0.1:9102", agents[0].address))
	see.Succeed()
	if see.Out() != "requests 501\n" {
		t.Errorf("the page's command shows %q", see.Out())
	}
}

// TestStatsDByAStream runs the DogStatsD client on a stream socket, and the program that the page has for that, which is restarted in
// between.
func TestStatsDByAStream(t *testing.T) {
	broker := stage.StartBroker(t)
	path := stage.Folder(t) + "/stream"
	unit := stage.ReadPage(t, "statsd.md").File("/etc/systemd/system/statsd-stream.service", "/run/statsd.stream", path)
	found := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/(.*)$`).FindStringSubmatch(unit)
	if found == nil {
		t.Fatalf("cannot find what the unit runs: %s", unit)
	}
	sink := broker.Subscribe("all")
	listen := func() *stage.Program {
		p := stage.Shell(t, "exec "+found[1])
		stage.Until(t, "that it listens", func() bool {
			conn, err := net.Dial("unix", path)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
		return p
	}
	relay := listen()
	client, err := statsd.New("unixstream://"+path, statsd.WithoutTelemetry())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	send := func(name string, n int) {
		t.Helper()
		for range n {
			if err := client.Gauge(name, 1, nil, 1); err != nil {
				t.Fatal(err)
			}
		}
		client.Flush()
	}
	lines := func(name string) (n int) {
		for _, m := range sink.Messages() {
			for line := range strings.Lines(m) {
				if strings.HasPrefix(line, name+":1|g") {
					n++
				}
			}
		}
		return n
	}
	send("before", 1)
	stage.Until(t, "the metric", func() bool { return lines("before") == 1 })
	relay.Stop()
	listen()
	// The client connects again when it finds its connection broken, and loses what it writes until then.
	stage.Until(t, "a metric after the restart", func() bool { send("after", 1); return lines("after") > 0 })
}
