// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/DataDog/datadog-go/v5/statsd"

	"github.com/msgmux/msgmux/docs/recipes/stage"
)

func TestMain(m *testing.M) {
	stage.Main(m, stage.Setup{Commands: []string{"./otelcol", "./telegraf"}})
}

// page is the recipe.
const page = "statsd.md"

// sink declares the socket at path as a static sink, with the options that the page has for it.
func sink(t *testing.T, name, path string) string {
	return path + ",label=" + name + "," + strings.TrimSpace(stage.ReadPage(t, page).File("/etc/msgmux/sinks/"+name+".conf"))
}

// dial is the DogStatsD client at the channel's source.
func dial(t *testing.T, b *stage.Broker) *statsd.Client {
	t.Helper()
	c, err := statsd.New("unix://"+b.Sock("source"), statsd.WithoutTelemetry(), statsd.WithoutClientSideAggregation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// collector is the OpenTelemetry collector with the page's configuration, told to add up once a second.
func collector(t *testing.T, dir, socket string) *stage.Program {
	t.Helper()
	text := stage.ReadPage(t, page).File("/etc/otelcol-contrib/config.yaml", "/run/otelcol/statsd.sock", socket, "aggregation_interval: 10s", "aggregation_interval: 1s")
	text = strings.Replace(text, "service:\n", "service:\n  telemetry: {}\n", 1)
	p := stage.Start(t, []string{"otelcol", "--config", stage.Write(t, dir, "otel.yaml", text)})
	stage.Until(t, "the collector's socket", func() bool { _, err := os.Stat(socket); return err == nil })
	return p
}

// counted is the sum of the counter requests that a collector has printed: each time it tells what has come since.
func counted(p *stage.Program) (sum int) {
	for _, m := range regexp.MustCompile(`(?s)-> Name: requests\n.*?\nValue: (\d+)`).FindAllStringSubmatch(p.Out()+p.Err(), -1) {
		n := 0
		_, _ = fmt.Sscan(m[1], &n)
		sum += n
	}
	return sum
}

// TestTelegrafAndCollector has both read what one client sends, and the collector restarted in between.
func TestTelegrafAndCollector(t *testing.T) {
	stage.Need(t, "socat")
	dir := stage.Folder(t)
	otel, tel := dir+"/otel.sock", dir+"/telegraf.sock"
	broker := stage.StartBroker(t, "--sink", sink(t, "telegraf", tel))

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	input := stage.ReadPage(t, page).File("/etc/telegraf/telegraf.d/statsd.conf", "127.0.0.1:8125", address)
	conf := stage.Write(t, dir, "telegraf.conf", "[agent]\ninterval = \"1s\"\nflush_interval = \"1s\"\nomit_hostname = true\n[[outputs.file]]\nfiles = [\"stdout\"]\n"+
		input+"delete_counters = false\n")
	telegraf := stage.Start(t, []string{"telegraf", "--config", conf})
	stage.Until(t, "that Telegraf listens", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	unit := stage.ReadPage(t, page).File("/etc/systemd/system/telegraf-statsd.service", "/run/telegraf-statsd/statsd.sock", tel, "127.0.0.1:8125", address)
	found := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/(.*)$`).FindStringSubmatch(unit)
	if found == nil {
		t.Fatalf("cannot find what the unit runs: %s", unit)
	}
	stage.Shell(t, "exec "+found[1])
	stage.Until(t, "the relay's socket", func() bool { _, err := os.Stat(tel); return err == nil })
	broker.WaitSink("telegraf")
	first := collector(t, dir, otel)
	if err := os.Symlink(otel, broker.Sock("sinks/otel")); err != nil {
		t.Fatal(err)
	}
	broker.WaitSink("otel")

	client := dial(t, broker)
	send := func(n int) {
		t.Helper()
		for range n {
			if err := client.Incr("requests", nil, 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := client.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	telegrafHas := func(n int) {
		t.Helper()
		stage.Until(t, fmt.Sprintf("%d in Telegraf", n), func() bool {
			return strings.Contains(telegraf.Out(), fmt.Sprintf("requests,metric_type=counter value=%di ", n))
		})
	}
	send(500)
	telegrafHas(500)
	stage.Until(t, "500 in the collector", func() bool { return counted(first) == 500 })
	first.Kill()
	send(300) // while it is away
	telegrafHas(800)
	second := collector(t, dir, otel)
	send(200)
	telegrafHas(1000)
	stage.Until(t, "500 more in the collector", func() bool { return counted(second) == 500 })
}

// TestVendorsAgent is a receiver that does with its socket what Datadog's agent does with its own: it removes what lies at the path, lets
// everybody write, asks the kernel who has sent, and reads into 8 KiB.
func TestVendorsAgent(t *testing.T) {
	path := stage.Folder(t) + "/dsd.socket"
	broker := stage.StartBroker(t, "--sink", sink(t, "agent", path))
	agent := func() *net.UnixConn {
		t.Helper()
		if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		raw, err := conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) {
			if err := syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_PASSCRED, 1); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o722); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	read := func(conn *net.UnixConn) (text string, pid int32) {
		t.Helper()
		b, oob := make([]byte, 8192), make([]byte, 64)
		n, oobn, flags, _, err := conn.ReadMsgUnix(b, oob)
		if err != nil || flags&syscall.MSG_TRUNC != 0 {
			t.Fatalf("the agent reads %d bytes with flags %#x: %v", n, flags, err)
		}
		control, err := syscall.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(control) != 1 {
			t.Fatalf("the agent is told %v of who has sent: %v", control, err)
		}
		who, err := syscall.ParseUnixCredentials(&control[0])
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n]), who.Pid
	}
	first := agent()
	broker.WaitSink("agent")
	client := dial(t, broker)
	gauge := func(conn *net.UnixConn, value int) {
		t.Helper()
		if err := client.Gauge("depth", float64(value), nil, 1); err != nil {
			t.Fatal(err)
		}
		if err := client.Flush(); err != nil {
			t.Fatal(err)
		}
		if conn == nil {
			return
		}
		text, pid := read(conn)
		if want := fmt.Sprintf("depth:%d|g\n", value); text != want || pid == int32(os.Getpid()) || pid == 0 {
			t.Errorf("the agent reads %q of pid %d, want %q of the broker", text, pid, want)
		}
	}
	gauge(first, 1)
	// What it would cut it does not get, and what comes behind that it does.
	source, err := net.Dial("unixgram", broker.Sock("source"))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if _, err := source.Write([]byte(strings.Repeat("x", 8193))); err != nil {
		t.Fatal(err)
	}
	gauge(first, 2)
	// It dies, leaves its socket behind, and comes back.
	first.Close()
	gauge(nil, 3)
	second := agent()
	if text, _ := read(second); text != "depth:3|g\n" {
		t.Errorf("after a restart the agent reads %q first", text)
	}
	gauge(second, 4)
}
