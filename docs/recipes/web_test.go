// SPDX-License-Identifier: Apache-2.0

package recipes

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/msgmux/msgmux/docs/recipes/stage"
)

// requests is how many lines a web server is made to write while no sink is connected: more than any queue takes.
const requests = 2000

// TestNginx runs nginx with the page's log format and destination.
func TestNginx(t *testing.T) {
	stage.Need(t, "jq")
	stage.NeedQueues(t)
	nginx := stage.Debian(t, "nginx")
	broker := stage.StartBroker(t)
	dir, address := stage.Folder(t), freeAddress(t)
	recipe := stage.ReadPage(t, "nginx.md")
	conf := stage.Write(t, dir, "nginx.conf", `
daemon off;
pid `+dir+`/pid;
error_log `+dir+`/error.log info;
`+userLine()+`
events {}
http {
	client_body_temp_path `+dir+`/1; proxy_temp_path `+dir+`/2; fastcgi_temp_path `+dir+`/3;
	uwsgi_temp_path `+dir+`/4; scgi_temp_path `+dir+`/5;
	include `+dir+`/conf.d/*;
	server { listen `+address+`; location / { return 200 "ok\n"; } }
}`)
	stage.Write(t, dir, "conf.d/msgmux.conf", recipe.File("/etc/nginx/conf.d/msgmux.conf", "/run/msgmux", broker.Dir))
	server := stage.Start(t, []string{nginx.Path("/usr/sbin/nginx"), "-e", "stderr", "-c", conf}, stage.Env(nginx.Env()...))
	waitFor(t, address)

	// While nobody takes messages: every request is answered, and what the queue does not take is gone.
	get(t, address, requests, "early")
	received := stalled(t, broker)
	slow := stage.Shell(t, "exec "+strings.TrimSpace(recipe.Commands("watch", ">= 0.5", ">= 0", "| jq -c", "| jq --unbuffered -c")))
	sink := broker.Subscribe("all")
	early := len(sink.WaitFor(received))
	if early == 0 || early >= requests {
		t.Errorf("of %d lines without a sink %d came: nginx does not drop any more, or drops all", requests, early)
	}
	t.Logf("without a sink nginx answered %d requests; %d lines came", requests, early)

	// With a sink, one after the other: every line comes.
	get(t, address, 100, "late")
	for i, line := range sink.WaitFor(early + 100)[early:] {
		if want := fmt.Sprintf("\"request\":\"GET /late-%d HTTP/1.1\",\"status\":200", i); !strings.HasPrefix(line, "<190>") || !strings.Contains(line, want) {
			t.Fatalf("line %d is %q, without %s", i, line, want)
		}
	}
	stage.Until(t, "the output of the page's filter", func() bool { return strings.Contains(slow.Out(), `"GET /late-99 HTTP/1.1"`) })
	if server.Err() != "" && strings.Contains(server.Err(), "emerg") {
		t.Errorf("nginx complains: %s", server.Err())
	}
	burst(t, broker, sink, address, "nginx")
}

// TestHAProxy runs HAProxy with the page's configuration.
func TestHAProxy(t *testing.T) {
	stage.Need(t, "socat")
	stage.NeedQueues(t)
	haproxy := stage.Debian(t, "haproxy")
	broker := stage.StartBroker(t)
	dir, address := stage.Folder(t), freeAddress(t)
	recipe := stage.ReadPage(t, "haproxy.md")
	admin := dir + "/admin.sock"
	conf := stage.Write(t, dir, "haproxy.cfg", recipe.File("/etc/haproxy/haproxy.cfg",
		"/run/msgmux", broker.Dir, "/run/haproxy/admin.sock", admin)+`
frontend web
    bind `+address+`
    http-request return status 200 content-type text/plain string ok
`)
	stage.Start(t, []string{haproxy.Path("/usr/sbin/haproxy"), "-db", "-f", conf}, stage.Env(haproxy.Env()...))
	waitFor(t, address)

	get(t, address, requests, "early")
	received := stalled(t, broker)
	sink := broker.Subscribe("all")
	early := len(sink.WaitFor(received))
	told := stage.Shell(t, recipe.Commands("dropped", "/run/haproxy/admin.sock", admin))
	told.Succeed()
	dropped, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(told.Out(), "DroppedLogs: ")))
	if err != nil || dropped == 0 || early+dropped != requests {
		t.Errorf("of %d lines %d came, and HAProxy says %q", requests, early, told.Out())
	}
	t.Logf("without a sink HAProxy answered %d requests; %d lines came, %d were dropped and counted", requests, early, dropped)

	get(t, address, 100, "late")
	for i, line := range sink.WaitFor(early + 100)[early:] {
		if want := fmt.Sprintf("\"GET /late-%d HTTP/1.1\"\n", i); !strings.HasPrefix(line, "<134>") || !strings.HasSuffix(line, want) {
			t.Fatalf("line %d is %q, without %s", i, line, want)
		}
	}
	burst(t, broker, sink, address, "HAProxy")
}

// burst measures how many lines come while a sink is there and the web server is under load. It is not judged: it depends
// on the length of the socket's queue and on the machine.
func burst(t *testing.T, broker *stage.Broker, sink *stage.Subscriber, address, name string) {
	before := len(sink.Messages())
	began := time.Now()
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() { get(t, address, 1000, "load") })
	}
	clients.Wait()
	d := time.Since(began)
	received := int(broker.Status().Received)
	came := len(sink.WaitFor(received)) - before
	t.Logf("with a sink, %s answered %.0f requests a second; of 8000 lines %d came", name, 8000/d.Seconds(), came)
}

// get makes n requests, one after the other, each of which must be answered with 200.
func get(t *testing.T, address string, n int, path string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	for i := range n {
		answer, err := client.Get(fmt.Sprintf("http://%s/%s-%d", address, path, i))
		if err != nil {
			t.Errorf("request %d: %v", i, err)
			return
		}
		io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Errorf("request %d: status %d", i, answer.StatusCode)
			return
		}
	}
}

// stalled returns how many messages wait in the queue of the source socket, which nobody reads.
func stalled(t *testing.T, broker *stage.Broker) int {
	t.Helper()
	if s := broker.Status(); s.Received != 0 || !s.Sources.Blocked {
		t.Fatalf("the broker took %d messages without a sink", s.Received)
	}
	return 1
}

// freeAddress is a loopback address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// waitFor waits until somebody listens on a TCP address.
func waitFor(t *testing.T, address string) {
	t.Helper()
	stage.Until(t, "the web server's start", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// userLine keeps nginx's workers from giving up root, which would leave them without the right to send here.
func userLine() string {
	out, err := exec.Command("id", "-u").Output()
	if err == nil && strings.TrimSpace(string(out)) == "0" {
		return "user root;"
	}
	return ""
}
