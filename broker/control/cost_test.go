// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/broker/control"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// The environment of the measurement below, and of its processes.
const (
	costPairs = "MSGMUX_COST"      // how many pairs; unset: no measurement
	costRole  = "MSGMUX_COST_ROLE" // role, folder, bus, beginning of the first window in ns, pairs
)

// A window is one run: even ones are idle, odd ones busy. What is near its ends is left out.
const (
	window     = time.Second
	windowFrom = 150 * time.Millisecond
	windowTo   = 950 * time.Millisecond
	costRate   = 5000 // messages a second, to 4 sinks
)

// TestCost measures what the fronts cost the data path, in windows of a second in turn: in one nobody looks; in the next
// somebody asks for the list ten times and scrapes once, with four who hear the signals of the bus. Load and looking are
// processes of their own. The data thread's processor time for a delivery and the 99th percentile of the time that a
// message takes must stay within 1.05 of what they are otherwise, by the medians of the pairs. It needs a machine that
// has little else to do:
//
//	MSGMUX_COST=60 go test -run TestCost -v ./broker/control
func TestCost(t *testing.T) {
	pairs, _ := strconv.Atoi(os.Getenv(costPairs))
	if pairs == 0 {
		t.Skipf("%s is not set", costPairs)
	}
	program := filepath.Join(t.TempDir(), "msgmuxd")
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/msgmuxd").CombinedOutput(); err != nil {
		t.Fatalf("cannot build: %v\n%s", err, out)
	}
	d := startDaemon(t, kinds[0])
	dir := test.Folder(t)
	broker := exec.Command(program, "--runtime-dir", dir, "--metrics", dir+"/metrics", "--dbus", d.address)
	broker.Stderr = os.Stderr
	if err := broker.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { broker.Process.Kill(); broker.Wait() }()
	object(t, d.connect())

	first := time.Now().Add(2 * time.Second)
	role := func(name string) *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCostRole$")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s %d %d", costRole, name, dir, d.address, first.UnixNano(), pairs))
		cmd.Stderr = os.Stderr
		return cmd
	}
	looking := role("look")
	if err := looking.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { looking.Process.Kill(); looking.Wait() }()
	load := role("load")
	answer, err := load.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { load.Process.Kill(); load.Wait() }()
	var thread, process []float64 // ns in each window
	for w := range 2 * pairs {
		time.Sleep(time.Until(first.Add(time.Duration(w)*window + windowFrom)))
		before := threads(t, broker.Process.Pid)
		time.Sleep(time.Until(first.Add(time.Duration(w)*window + windowTo)))
		var most, all uint64
		for id, ns := range threads(t, broker.Process.Pid) {
			all += ns - before[id]
			most = max(most, ns-before[id]) // the data thread is the busiest
		}
		thread, process = append(thread, float64(most)), append(process, float64(all))
	}
	var seen []costWindow
	if err := json.NewDecoder(answer).Decode(&seen); err != nil || len(seen) != 2*pairs {
		t.Fatalf("%d windows, %v", len(seen), err)
	}
	for k, name := range []string{"thread", "process", "p50", "p99"} {
		var values [2][]float64
		var ratios []float64
		for w := range seen {
			n := float64(max(seen[w].Deliveries, 1))
			values[w%2] = append(values[w%2], []float64{thread[w] / n, process[w] / n, seen[w].P50, seen[w].P99}[k])
		}
		for i := range pairs {
			ratios = append(ratios, values[1][i]/values[0][i])
		}
		for _, x := range [][]float64{values[0], values[1], ratios} {
			slices.Sort(x)
		}
		q := func(x []float64, f float64) float64 { return x[int(f*float64(len(x)-1))] }
		t.Logf("%-8s idle %8.0f, busy %8.0f; busy to idle in pairs: %.3f (quartiles %.3f, %.3f)", name,
			q(values[0], 0.5), q(values[1], 0.5), q(ratios, 0.5), q(ratios, 0.25), q(ratios, 0.75))
		if (name == "thread" || name == "p99") && q(ratios, 0.5) > 1.05 {
			t.Errorf("%s: %.3f", name, q(ratios, 0.5))
		}
	}
}

// costWindow is what the load saw in one window.
type costWindow struct {
	Deliveries int
	P50, P99   float64 // ns
}

// threads is the processor time of each thread so far, in ns (proc_pid_schedstat(5)).
func threads(t *testing.T, pid int) map[string]uint64 {
	t.Helper()
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(names) == 0 {
		t.Skipf("this kernel does not tell what threads use: %v", err)
	}
	used := make(map[string]uint64)
	for _, name := range names {
		text, _ := os.ReadFile(name)
		if fields := strings.Fields(string(text)); len(fields) > 0 {
			used[name], _ = strconv.ParseUint(fields[0], 10, 64)
		}
	}
	return used
}

// TestCostRole is the other processes of TestCost.
func TestCostRole(t *testing.T) {
	var role, dir, address string
	var ns int64
	var pairs int
	if _, err := fmt.Sscan(os.Getenv(costRole), &role, &dir, &address, &ns, &pairs); err != nil {
		t.Skip("runs within TestCost")
	}
	first := time.Unix(0, ns)
	if role == "look" {
		look(t, dir, address, first, pairs)
		return
	}
	out, _ := json.Marshal(load(t, dir, first, pairs))
	fmt.Println(string(out))
	os.Exit(0) // before the test framework prints more
}

// look is busy in the odd windows.
func look(t *testing.T, dir, address string, first time.Time, pairs int) {
	for range 4 {
		conn, err := dbus.Connect(address)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.AddMatchSignal(dbus.WithMatchObjectPath(control.BusPath)); err != nil {
			t.Fatal(err)
		}
		conn.Signal(make(chan *dbus.Signal, 1000))
	}
	client := http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", dir+"/metrics") }}}
	for w := 1; w < 2*pairs; w += 2 {
		for i := range 10 {
			time.Sleep(time.Until(first.Add(time.Duration(w)*window + time.Duration(i)*window/10)))
			brokertest.Ask(t, dir, wire.Request{Op: wire.OpList})
			if i == 5 {
				if r, err := client.Get("http://msgmux/metrics"); err == nil {
					r.Body.Close()
				}
			}
		}
	}
}

// load sends at its rate to sinks of its own, and measures how long each message takes.
func load(t *testing.T, dir string, first time.Time, pairs int) []costWindow {
	latencies := make([][][]float64, 4)
	var receivers sync.WaitGroup
	for i := range latencies {
		latencies[i] = make([][]float64, 2*pairs)
		sink := brokertest.NewSink(t, dir)
		receivers.Go(func() {
			for {
				b, err := sink.ReceiveWithin(time.Minute)
				if err != nil || len(b) == 8 {
					return
				}
				now := time.Since(first)
				w, at := int(now/window), now%window
				if now >= 0 && w < 2*pairs && at >= windowFrom && at < windowTo {
					latencies[i][w] = append(latencies[i][w], float64(now)-float64(int64(binary.LittleEndian.Uint64(b))))
				}
			}
		})
	}
	source := brokertest.NewSource(t, dir)
	message := make([]byte, 256)
	began := time.Now()
	for n := 0; time.Since(first) < time.Duration(2*pairs)*window; n++ {
		if d := time.Until(began.Add(time.Duration(n) * time.Second / costRate)); d > 0 {
			time.Sleep(d)
		}
		binary.LittleEndian.PutUint64(message, uint64(time.Since(first)))
		if err := source.Send(message); err != nil {
			t.Fatal(err)
		}
	}
	source.Send(message[:8])
	receivers.Wait()
	seen := make([]costWindow, 2*pairs)
	for w := range seen {
		all := slices.Concat(latencies[0][w], latencies[1][w], latencies[2][w], latencies[3][w])
		slices.Sort(all)
		if n := len(all); n > 0 {
			seen[w] = costWindow{n, all[n/2], all[n*99/100]}
		}
	}
	return seen
}
