// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/broker/control"
	"github.com/msgmux/msgmux/internal/test"
)

// descriptor duplicates that of a file, for somebody who wants to own it.
func descriptor(f *os.File) (int, error) {
	defer f.Close()
	return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
}

// newControl makes a control server of a listening socket.
func newControl(f *os.File) error {
	fd, err := descriptor(f)
	if err != nil {
		return err
	}
	_, err = control.NewServer(fd, nil)
	return err
}

// manySinks lets one user have so many.
func manySinks(n int) func(*broker.Config) {
	return func(c *broker.Config) {
		c.Geometry.MaxSinks, c.SinksPerUser, c.QueueTotal = uint64(n)+16, n, 1<<40
	}
}

// addSinks adds sinks that nobody waits for.
func addSinks(t testing.TB, b *brokertest.Broker, n int) {
	t.Helper()
	var group sync.WaitGroup
	for w := range 4 {
		group.Go(func() {
			for i := w; i < n; i += 4 {
				brokertest.NewSink(t, b.Dir, fmt.Sprintf("label=sink-%04d", i), "patience=0")
			}
		})
	}
	group.Wait()
}

// serveMetrics serves the metrics of a broker until the test ends, and returns the address.
func serveMetrics(t testing.TB, b *brokertest.Broker, network string) string {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = b.Dir + "/metrics"
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	f, err := l.(interface{ File() (*os.File, error) }).File()
	address = l.Addr().String()
	l.Close()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := descriptor(f)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := control.ListenMetrics(fd)
	if err != nil {
		t.Fatal(err)
	}
	m := control.NewMetrics(ours, b.Channel)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); m.Serve(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return address
}

// scrape gets the metrics over HTTP, by Go's own client.
func scrape(t testing.TB, network, address, accept string) (text, kind string) {
	t.Helper()
	client := http.Client{Timeout: within, Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial(network, address) }}}
	defer client.CloseIdleConnections()
	request, _ := http.NewRequest("GET", "http://msgmux/metrics", nil)
	if accept != "" {
		request.Header.Set("Accept", accept)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != 200 {
		t.Fatalf("status %d, %v", response.StatusCode, err)
	}
	return string(body), response.Header.Get("Content-Type")
}

// busy is a broker that has something to tell.
func busy(t *testing.T) *brokertest.Broker {
	t.Helper()
	b := brokertest.Start(t)
	one := brokertest.NewSink(t, b.Dir, "label=one", "patience=forever")
	brokertest.NewSink(t, b.Dir, "label=two", "tap=yes")
	brokertest.NewSink(t, b.Dir, "label=three", "share=pair")
	brokertest.NewSubscriber(t, b.Dir, "label=four")
	source := brokertest.NewSource(t, b.Dir)
	for range 5 {
		if err := source.Send([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		one.Receive()
	}
	brokertest.Register(t, b.Dir, "@nobody-has-this")
	return b
}

// acceptPrometheus is what a Prometheus asks for.
const acceptPrometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"

// TestMetricsText in both formats: each name is introduced once, has its samples behind it, and a unit at its end.
func TestMetricsText(t *testing.T) {
	b := busy(t)
	address := serveMetrics(t, b, "unix")
	for _, test := range []struct {
		accept, kind string
		open         bool
	}{
		{"", "text/plain; version=0.0.4; charset=utf-8", false},
		{"text/plain", "text/plain; version=0.0.4; charset=utf-8", false},
		{acceptPrometheus, "application/openmetrics-text; version=1.0.0; charset=utf-8", true},
	} {
		text, kind := scrape(t, "unix", address, test.accept)
		if kind != test.kind {
			t.Errorf("the type is %q", kind)
		}
		checkText(t, text, test.open)
		for _, want := range []string{
			"msgmux_messages_received_total 5\n",
			`msgmux_sink_messages_accepted_total{sink="one"} 5` + "\n",
			`msgmux_sink_patience_seconds{sink="one"} +Inf` + "\n",
			`msgmux_sink_lag_messages{sink="three"} 0` + "\n",
			`msgmux_sink_info{sink="two",kind="dynamic",uid="` + fmt.Sprint(os.Getuid()) + `",share="",tap="yes"} 1` + "\n",
			`msgmux_sinks{kind="framed"} 1` + "\n", `msgmux_sinks{kind="dynamic"} 3` + "\n",
			`msgmux_registrations_total{outcome="no-peer"} 1` + "\n",
			`msgmux_build_info{version="test"} 1` + "\n",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("there is no %q in\n%s", want, text)
			}
		}
		if strings.Contains(text, fmt.Sprint(os.Getpid())) {
			t.Error("the process id is in the text")
		}
	}
}

// TestFarBehindFiresWithShortMessages: a sink that does not read is as far behind as the alert of the page on monitoring wants it to be, also
// with messages of 8 bytes, by the time that it makes the sources wait.
func TestFarBehindFiresWithShortMessages(t *testing.T) {
	page, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	rule := regexp.MustCompile(`expr: msgmux_sink_lag_bytes > .* (0\.\d+) \* msgmux_ring_size_bytes\n`).FindSubmatch(page)
	if rule == nil {
		t.Fatal("the page has no such alert")
	}
	part, err := strconv.ParseFloat(string(rule[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	b := brokertest.Start(t)
	brokertest.NewSink(t, b.Dir, "label=hung", "patience=forever")
	source := brokertest.NewPublisher(t, b.Dir)
	packet := make([][]byte, 100)
	for i := range packet {
		packet[i] = []byte("8 bytes.")
	}
	test.Eventually(t, "the sink makes the sources wait", func() bool {
		for source.TrySend(packet...) == nil {
		}
		return b.Channel.Status().Sources.Sink == "hung"
	})
	text, _ := scrape(t, "unix", serveMetrics(t, b, "unix"), "")
	value := func(sample string) float64 {
		t.Helper()
		_, rest, found := strings.Cut(text, "\n"+sample+" ")
		first, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.ParseFloat(first, 64)
		if !found || err != nil {
			t.Fatalf("%s is %q: %v", sample, first, err)
		}
		return n
	}
	lag, size := value(`msgmux_sink_lag_bytes{sink="hung"}`), value("msgmux_ring_size_bytes")
	if lag <= part*size {
		t.Errorf("it is %v of %v bytes behind, and the alert fires from %v on", lag, size, part*size)
	}
	if n := value(`msgmux_sink_lag_messages{sink="hung"}`); n < 0.9*part*size/12 {
		t.Errorf("a ring of %v bytes holds %v messages of 8", size, n)
	}
}

// checkText holds a text to the rules of its format.
func checkText(t *testing.T, text string, open bool) {
	t.Helper()
	if !strings.HasSuffix(text, "\n# EOF\n") || strings.Count(text, "# EOF") != 1 {
		t.Error("the text does not end as it should")
	}
	comment := regexp.MustCompile(`^# (HELP|TYPE|UNIT) ([a-z_]+) (.*)$`)
	sample := regexp.MustCompile(`^([a-z_]+)(\{[^{}]*\})? ([0-9.e+-]+|\+Inf)$`)
	kinds, helps, seen := map[string]string{}, map[string]bool{}, map[string]bool{}
	var now string
	for line := range strings.Lines(strings.TrimSuffix(text, "# EOF\n")) {
		line = strings.TrimSuffix(line, "\n")
		if m := comment.FindStringSubmatch(line); m != nil {
			switch m[1] {
			case "HELP":
				if helps[m[2]] {
					t.Errorf("%s is introduced twice", m[2])
				}
				helps[m[2]] = true
				now = m[2]
			case "TYPE":
				kinds[m[2]] = m[3]
			case "UNIT":
				if !open || !strings.HasSuffix(m[2], "_"+m[3]) {
					t.Errorf("unit %s of %s", m[3], m[2])
				}
			}
			if m[2] != now {
				t.Errorf("%q stands among %s", line, now)
			}
			continue
		}
		m := sample.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("no metric: %q", line)
			continue
		}
		name := now
		if kinds[now] == "counter" && open {
			name += "_total"
		}
		if m[1] != name || strings.HasSuffix(m[1], "_total") != (kinds[now] == "counter") {
			t.Errorf("%q stands among %s, a %s", line, now, kinds[now])
		}
		if seen[m[1]+m[2]] {
			t.Errorf("%s%s is there twice", m[1], m[2])
		}
		seen[m[1]+m[2]] = true
	}
	if len(helps) < 20 || len(helps) != len(kinds) {
		t.Errorf("%d metrics with help and %d with a type", len(helps), len(kinds))
	}
}

// TestMetricsByHand: what a client of HTTP may do wrong, and what needs no HTTP.
func TestMetricsByHand(t *testing.T) {
	b := busy(t)
	address := serveMetrics(t, b, "unix")
	talk := func(request string) string {
		conn, err := net.Dial("unix", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(within))
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		conn.(*net.UnixConn).CloseWrite()
		text, err := io.ReadAll(conn)
		if err != nil {
			t.Fatalf("%.40q: %v", request, err)
		}
		return string(text)
	}
	checkText(t, talk(""), false)
	for request, want := range map[string]string{
		"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n":                     "HTTP/1.1 200 OK\r\n",
		"GET / HTTP/1.0\n\n":                                           "HTTP/1.1 200 OK\r\n",
		"GET http://host/metrics?x=1 HTTP/1.1\r\n\r\n":                 "HTTP/1.1 200 OK\r\n",
		"GET /metrics HTTP/1.1\r\n\r\n" + strings.Repeat("more", 9000): "HTTP/1.1 200 OK\r\n",
		"HEAD /metrics HTTP/1.1\r\n\r\n":                               "HTTP/1.1 200 OK\r\n",
		"GET /other HTTP/1.1\r\n\r\n":                                  "HTTP/1.1 404 ",
		"POST /metrics HTTP/1.1\r\n\r\n":                               "HTTP/1.1 405 ",
		"GET /metrics\r\n\r\n":                                         "HTTP/1.1 400 ",
		"\x16\x03\x01\r\n\r\n":                                         "HTTP/1.1 400 ",
		"GET /metrics HTTP/1.1\r\nX: " + strings.Repeat("x", 9000):     "HTTP/1.1 431 ",
	} {
		got := talk(request)
		if !strings.HasPrefix(got, want) {
			t.Errorf("%.40q is answered %.60q", request, got)
		}
		r, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got)), &http.Request{Method: strings.Fields(request)[0]})
		if err != nil {
			t.Errorf("%.40q: %v", request, err)
			continue
		}
		if body, err := io.ReadAll(r.Body); err != nil || len(body) == 0 && r.Request.Method != "HEAD" {
			t.Errorf("%.40q: %d bytes and %v", request, len(body), err)
		}
	}
}

// TestMetricsClientsThatHang neither keep others out nor delay a message: those that say nothing, and those that ask and
// never read.
func TestMetricsClientsThatHang(t *testing.T) {
	for _, request := range []string{"", "GET /metrics HTTP/1.1\r\n\r\n"} {
		t.Run(fmt.Sprintf("asking=%v", request != ""), func(t *testing.T) {
			b := brokertest.Start(t, manySinks(300))
			addSinks(t, b, 300) // a text that no socket buffer takes
			for _, network := range []string{"unix", "tcp"} {
				address := serveMetrics(t, b, network)
				stop := flood(t, b)
				hanging := crowdOf(t, 1000, network, address)
				for _, c := range hanging {
					io.WriteString(c, request)
				}
				began := time.Now()
				text, _ := scrape(t, network, address, "")
				if d := time.Since(began); d > 2*slow*time.Second {
					t.Errorf("a scrape took %v", d)
				}
				checkText(t, text, false)
				n, gap := stop()
				t.Logf("%d messages, at most %v between two", n, gap)
				if n < 10 || gap > slow*time.Second {
					t.Errorf("%d messages, %v between two", n, gap)
				}
				for _, c := range hanging {
					c.Close()
				}
			}
		})
	}
}

// TestPromtoolAcceptsTheMetrics and has nothing to remark.
func TestPromtoolAcceptsTheMetrics(t *testing.T) {
	promtool := program(t, "promtool")
	text, _ := scrape(t, "unix", serveMetrics(t, busy(t), "unix"), "")
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v: %s", err, out)
	}
}

// TestPrometheusScrapes the metrics, and can be asked about them.
func TestPrometheusScrapes(t *testing.T) {
	prometheus := program(t, "prometheus")
	b := busy(t)
	address := serveMetrics(t, b, "tcp")
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf("global: {scrape_interval: 1s}\nscrape_configs: [{job_name: msgmux, static_configs: [{targets: ['%s']}]}]\n", address)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := l.Addr().String()
	l.Close()
	var log test.Output
	cmd := exec.Command(prometheus, "--config.file="+config, "--storage.tsdb.path="+dir+"/data", "--web.listen-address="+web)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	// ask is what a query finds: values, by their labels.
	ask := func(query string) map[string]string {
		client := http.Client{Timeout: within}
		r, err := client.Get("http://" + web + "/api/v1/query?query=" + url.QueryEscape(query))
		if err != nil {
			return nil
		}
		defer r.Body.Close()
		var answer struct {
			Data struct {
				Result []struct {
					Metric map[string]string
					Value  []any
				}
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
			return nil
		}
		found := make(map[string]string)
		for _, x := range answer.Data.Result {
			found[x.Metric["sink"]] = fmt.Sprint(x.Value[1])
		}
		return found
	}
	for deadline := time.Now().Add(60 * time.Second); ask("up")[""] != "1"; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("Prometheus does not scrape: %v\n%s", ask("up"), log.String())
		}
	}
	if got := ask("msgmux_sink_messages_accepted_total"); got["one"] != "5" || len(got) != 4 {
		t.Errorf("it knows %v\n%s", got, log.String())
	}
	for query, want := range map[string]string{"msgmux_messages_received_total": "5", "msgmux_ring_size_bytes": "1048576",
		"sum(msgmux_sinks)": "4", "msgmux_sink_patience_left_seconds{sink='one'}": "+Inf"} {
		got := ask(query)
		if !slices.Contains([]string{got[""], got["one"]}, want) {
			t.Errorf("%s is %v, want %s", query, got, want)
		}
	}
	if strings.Contains(log.String(), "level=warn") && strings.Contains(log.String(), "Append failed") {
		t.Errorf("it complains:\n%s", log.String())
	}
}

// BenchmarkMetrics is the text about 4,000 sinks, over the socket.
func BenchmarkMetrics(b *testing.B) {
	const n = 4000
	broker := brokertest.Start(b, manySinks(n))
	addSinks(b, broker, n)
	address := serveMetrics(b, broker, "unix")
	for b.Loop() {
		text, _ := scrape(b, "unix", address, acceptPrometheus)
		b.ReportMetric(float64(len(text)), "bytes")
	}
}
