// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/need"
)

// A user who may ask wants others to get no answer, or the broker to run out of memory. He asks, many times over, and never
// reads.

// crowdRole is the work of another user's process: whom it is to ask, what, and how many times at once without reading.
type crowdRole struct {
	Network, Address, Request string
	Unread                    int // 0: it asks one after the other, reads, and says how many answers it got
}

const (
	roleOf   = "MSGMUX_TEST_CROWD"
	attacker = 65531
	witness  = 65532
	asked    = 5 // questions of a witness
)

// TestBeCrowd is that process, and not a test.
func TestBeCrowd(t *testing.T) {
	var r crowdRole
	if text := os.Getenv(roleOf); text == "" {
		t.Skip("runs within the tests of attacks")
	} else if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	if r.Unread == 0 {
		answers := 0
		for range asked {
			if r.ask() {
				answers++
			}
		}
		fmt.Printf("\nanswers=%d\n", answers)
		return
	}
	open := make(chan net.Conn, r.Unread)
	for range 4 {
		go func() {
			for {
				conn, err := net.Dial(r.Network, r.Address)
				if err != nil {
					time.Sleep(time.Millisecond)
					continue
				}
				io.WriteString(conn, r.Request)
				select {
				case open <- conn:
				default:
					(<-open).Close()
					open <- conn
				}
			}
		}()
	}
	select {} // until it is killed
}

// ask says whether a whole answer came in time.
func (r *crowdRole) ask() bool {
	deadline := time.Now().Add(within)
	conn, err := net.Dial(r.Network, r.Address)
	for errors.Is(err, syscall.EAGAIN) && time.Now().Before(deadline) { // the listen queue is full
		time.Sleep(100 * time.Microsecond)
		conn, err = net.Dial(r.Network, r.Address)
	}
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.SetDeadline(deadline)
	if _, err := io.WriteString(conn, r.Request); err != nil {
		return false
	}
	text, err := io.ReadAll(conn)
	return err == nil && (strings.Contains(string(text), `"ok":true`) || strings.Contains(string(text), "# EOF") || strings.Contains(string(text), "msgmux_sinks"))
}

// as makes a command of a role.
func (r *crowdRole) as(t *testing.T, uid uint32) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	// Another user cannot reach the folder of the test binary; the link in procfs is not looked up by path.
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestBeCrowd$")
	cmd.Env = append(os.Environ(), roleOf+"="+string(text))
	cmd.Dir, cmd.Stderr = "/", t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return cmd
}

// TestAskingAndNotReading keeps nobody out, root nor another user, and takes bounded memory and goroutines.
func TestAskingAndNotReading(t *testing.T) {
	need.Root(t, "unit")
	b := brokertest.Start(t, manySinks(255))
	addSinks(t, b, 255)
	metrics := serveMetrics(t, b, "unix")
	os.Chmod(b.Dir, 0o755)
	os.Chmod(b.Dir+"/control", 0o666)
	os.Chmod(metrics, 0o666)
	for _, test := range []struct {
		name   string
		role   crowdRole
		places int
	}{
		{"control", crowdRole{"unixpacket", b.Dir + "/control", `{"op":"list"}`, 0}, 64},
		{"metrics", crowdRole{"unix", metrics, "GET /metrics HTTP/1.1\r\n\r\n", 0}, 16},
	} {
		t.Run(test.name, func(t *testing.T) {
			goroutines := runtime.NumGoroutine()
			attack := test.role
			attack.Unread = 500
			cmd := attack.as(t, attacker)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { cmd.Process.Kill(); cmd.Wait() }()
			time.Sleep(300 * time.Millisecond)

			most := 0
			stop, counted := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(counted)
				for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
					most = max(most, runtime.NumGoroutine())
					select {
					case <-stop:
						return
					default:
					}
				}
			}()
			answers, began := 0, time.Now()
			for range asked {
				if test.role.ask() {
					answers++
				}
			}
			if answers < asked {
				t.Errorf("root got %d answers of %d", answers, asked)
			}
			t.Logf("root's %d answers: %v", asked, time.Since(began))
			out, err := test.role.as(t, witness).Output()
			if !strings.Contains(string(out), fmt.Sprintf("answers=%d\n", asked)) {
				t.Errorf("another user: %v, %s", err, out)
			}
			close(stop)
			<-counted
			// Each place has a goroutine and what watches over it; the rest is this test's.
			if limit := goroutines + 2*test.places + 20; most > limit {
				t.Errorf("%d goroutines, %d before", most, goroutines)
			}
			t.Logf("%d goroutines, %d before", most, goroutines)
		})
	}
}
