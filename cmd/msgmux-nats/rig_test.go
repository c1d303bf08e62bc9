// SPDX-License-Identifier: Apache-2.0

package main_test

// Hosts, each a network namespace, with real brokers, bridges and NATS servers that can be killed, and links that can be cut.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/activation/activationtest"
	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/cmd/msgmux-nats/natstest"
	"github.com/msgmux/msgmux/internal/need"
)

// programs are the folder of msgmuxd and msgmux-nats, built once.
var programs = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "mmp")
	if err != nil {
		return "", err
	}
	for _, build := range []struct{ folder, name string }{{".", "msgmux-nats"}, {"../..", "msgmuxd"}} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(folder, build.name), map[string]string{"msgmux-nats": ".", "msgmuxd": "./cmd/msgmuxd"}[build.name])
		cmd.Dir = build.folder
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("cannot build %s: %w\n%s", build.name, err, out)
		}
	}
	return folder, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if folder, err := programs(); err == nil {
		os.RemoveAll(folder)
	}
	os.Exit(status)
}

func program(t testing.TB, name string) string {
	t.Helper()
	folder, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(folder, name)
}

// network joins hosts by a switch.
type network struct {
	t     testing.TB
	name  string // what the names of its namespaces begin with
	hosts int
}

var networks atomic.Uint32

// newNetwork makes the switch. It needs root.
func newNetwork(t testing.TB) *network {
	t.Helper()
	need.Root(t, "bridge")
	need.Program(t, "bridge", "ip", "iproute2")
	n := &network{t: t, name: fmt.Sprintf("mm%d-%d", os.Getpid(), networks.Add(1))}
	n.namespace("hub")
	n.ip("-n", n.name+"-hub", "link", "add", "switch", "type", "bridge")
	n.ip("-n", n.name+"-hub", "link", "set", "switch", "up")
	return n
}

// namespace makes a network namespace that goes with the test.
func (n *network) namespace(name string) {
	n.t.Helper()
	n.ip("netns", "add", n.name+"-"+name)
	n.t.Cleanup(func() { exec.Command("ip", "netns", "del", n.name+"-"+name).Run() })
}

func (n *network) ip(words ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", words...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v\n%s", strings.Join(words, " "), err, out)
	}
}

// host is a network namespace with an address.
type host struct {
	net     *network
	name    string
	Address string
	Prefix  []string // runs a command there
	cut     bool
}

// newHost adds a host to the network.
func (n *network) newHost(name string) *host {
	n.t.Helper()
	n.hosts++
	h := &host{net: n, name: name, Address: fmt.Sprintf("10.77.0.%d", n.hosts)}
	n.namespace(name)
	space, hub := n.name+"-"+name, n.name+"-hub"
	h.Prefix = []string{"ip", "netns", "exec", space}
	n.ip("-n", hub, "link", "add", "name", name, "type", "veth", "peer", "name", "eth0", "netns", space)
	n.ip("-n", hub, "link", "set", name, "master", "switch")
	n.ip("-n", hub, "link", "set", name, "up")
	n.ip("-n", space, "addr", "add", h.Address+"/24", "dev", "eth0")
	n.ip("-n", space, "link", "set", "eth0", "up")
	n.ip("-n", space, "link", "set", "lo", "up")
	return h
}

// Cut takes the host's cable out of the switch, or puts it in again.
func (h *host) Cut(out bool) {
	h.net.t.Helper()
	h.cut = out
	h.net.ip("-n", h.net.name+"-hub", "link", "set", h.name, map[bool]string{true: "down", false: "up"}[out])
}

// command is a command that runs on the host and not longer than the test; nil is this host.
func (h *host) command(words ...string) *exec.Cmd {
	if h != nil {
		words = append(append([]string{}, h.Prefix...), words...)
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// process is one that is started again and again.
type process struct {
	t     testing.TB
	name  string
	start func(output io.Writer) (*exec.Cmd, error)

	settings string // the file that a bridge has
	mu       sync.Mutex
	cmd      *exec.Cmd
	always   bool // it is started again when it ends by itself
	ended    bool // the test has
	exited   chan struct{}
	output   buffer
}

// buffer keeps what a process says, the end of it.
type buffer struct {
	mu   sync.Mutex
	text []byte
}

func (b *buffer) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, text...)
	b.text = b.text[max(0, len(b.text)-16<<10):]
	return len(text), nil
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

// newProcess is a process that runs until the test ends.
func newProcess(t testing.TB, name string, start func(output io.Writer) (*exec.Cmd, error)) *process {
	t.Helper()
	p := &process{t: t, name: name, start: start}
	t.Cleanup(func() {
		ended := p.HasEnded()
		p.mu.Lock()
		p.ended = true
		p.mu.Unlock()
		p.Kill()
		if t.Failed() {
			t.Logf("%s (had ended: %v):\n%s", name, ended, p.output.String())
		}
	})
	p.Run()
	return p
}

// Run starts it, if it does not run.
func (p *process) Run() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil || p.ended {
		return
	}
	cmd, err := p.start(&p.output)
	if err != nil {
		p.t.Errorf("cannot start %s: %v", p.name, err)
		return
	}
	p.cmd, p.exited = cmd, make(chan struct{})
	go func(exited chan struct{}) {
		err := cmd.Wait()
		close(exited)
		p.mu.Lock()
		byItself := p.cmd == cmd && p.always
		if byItself {
			p.cmd = nil
		}
		p.mu.Unlock()
		if byItself { // Restart=always
			p.t.Logf("%s has ended by itself: %v\n%s", p.name, cmp.Or(err, errors.New("in good order")), p.output.String())
			time.Sleep(50 * time.Millisecond)
			p.Run()
		}
	}(p.exited)
}

// supervise has it started again when it ends by itself, as Restart=always does.
func (p *process) supervise() *process {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.always = true
	return p
}

// Kill ends it with SIGKILL, if it runs.
func (p *process) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		p.cmd.Process.Kill()
		<-p.exited
		p.cmd = nil
	}
}

// Stop ends it with SIGTERM and returns its exit status.
func (p *process) Stop() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd.Process.Signal(syscall.SIGTERM)
	return p.await()
}

// Status waits for its end and returns its exit status.
func (p *process) Status() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.await()
}

func (p *process) await() int {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(30 * time.Second):
		p.t.Fatalf("%s has not ended within 30 s:\n%s", p.name, p.output.String())
	}
	status := p.cmd.ProcessState.ExitCode()
	p.cmd = nil
	return status
}

// HasEnded says whether it runs no more.
func (p *process) HasEnded() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return true
	}
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// channelOn is a channel with a broker, for which this process plays the service manager.
type channelOn struct {
	msgmux.Channel
	broker *process
}

// newChannel makes a channel on a host and starts its broker.
func newChannel(t testing.TB, h *host, flags ...string) *channelOn {
	t.Helper()
	dir, err := os.MkdirTemp("", "mm") // t.TempDir is too long for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Mkdir(filepath.Join(dir, "sinks"), 0o755); err != nil {
		t.Fatal(err)
	}
	sockets, err := activation.Bind(dir, 0o660)
	if err != nil {
		t.Fatal(err)
	}
	systemd, err := activationtest.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { systemd.Close() })
	systemd.SetStoreMax(8192) // as in msgmux@.service
	for _, d := range sockets.All() {
		if err := systemd.Give(d.Name, d.FD); err != nil {
			t.Fatal(err)
		}
		syscall.Close(d.FD)
	}
	c := &channelOn{Channel: msgmux.Channel{RuntimeDir: dir}}
	name := "broker"
	if h != nil {
		name += " on " + h.name
	}
	broker := program(t, "msgmuxd")
	c.broker = newProcess(t, name, func(output io.Writer) (*exec.Cmd, error) {
		cmd := h.command(append([]string{broker, "--runtime-dir", dir, "--dbus", "off"}, flags...)...)
		cmd.Stderr = output
		return cmd, systemd.Start(cmd)
	})
	c.broker.supervise()
	eventually(t, "a broker", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // nobody may be there to answer
		defer cancel()
		_, err := c.Status(ctx)
		return err == nil || c.broker.HasEnded()
	})
	return c
}

// newBridge runs the bridge of one direction on a host, with these settings beside the channel.
func newBridge(t testing.TB, h *host, direction string, c *channelOn, settings ...string) *process {
	t.Helper()
	file := filepath.Join(t.TempDir(), "site.conf")
	text := strings.Join(append(settings, "channel="+c.RuntimeDir), "\n") + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	bridge := program(t, "msgmux-nats")
	name := direction
	if h != nil {
		name += " on " + h.name
	}
	p := newProcess(t, name, func(output io.Writer) (*exec.Cmd, error) {
		cmd := h.command(bridge, direction, file, "--log-level", "debug")
		cmd.Stderr = output
		return cmd, cmd.Start()
	})
	p.settings = file
	return p
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// servers are the NATS servers of a test, each on a host of its own; one, or a cluster.
type servers struct {
	all   []*natstest.Server
	hosts []*host
	URLs  string
}

// newServers runs n servers.
func newServers(t testing.TB, n *network, count int) *servers {
	t.Helper()
	s := &servers{}
	var routes, urls []string
	for i := range count {
		s.hosts = append(s.hosts, n.newHost(fmt.Sprintf("nats%d", i)))
		routes = append(routes, fmt.Sprintf("nats://%s:6222", s.hosts[i].Address))
		urls = append(urls, fmt.Sprintf("nats://%s:4222", s.hosts[i].Address))
	}
	s.URLs = strings.Join(urls, ",")
	for i, h := range s.hosts {
		o := natstest.Options{Listen: h.Address + ":4222", Prefix: h.Prefix, Name: h.name}
		if count > 1 {
			o.Config = fmt.Sprintf("cluster { name: c, listen: %q, routes: [%s] }\n", h.Address+":6222", strings.Join(routes, ", "))
		}
		s.all = append(s.all, natstest.New(t, o))
		s.all[i].Run(t)
	}
	return s
}

// Dial connects from the host to an address of the network (nats.CustomDialer). A socket belongs to the namespace of the thread that
// has made it, for good.
func (h *host) Dial(network, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		conn, err := h.dial(network, address)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// dial is Dial on a thread of its own, which it gives back: with the thread, those that were started by it would end (Pdeathsig).
func (h *host) dial(network, address string) (net.Conn, error) {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		panic(err)
	}
	defer own.Close()
	space, err := os.Open("/run/netns/" + h.net.name + "-" + h.name)
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer space.Close()
	if err := unix.Setns(int(space.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	conn, err := net.DialTimeout(network, address, 5*time.Second)
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
		panic(back) // the thread must not do anything else there
	}
	runtime.UnlockOSThread()
	return conn, err
}

// connect is a connection of this process to the servers, which is made again whenever it breaks.
func (s *servers) connect(t testing.TB, from *host) jetstream.JetStream {
	t.Helper()
	var conn *nats.Conn
	eventually(t, "the servers", func() bool {
		var err error
		conn, err = nats.Connect(s.URLs, nats.SetCustomDialer(from), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond), nats.PingInterval(2*time.Second))
		return err == nil
	})
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// stream makes a stream, once there is a leader.
func (s *servers) stream(t testing.TB, js jetstream.JetStream, config jetstream.StreamConfig) {
	t.Helper()
	config.Name, config.Replicas = "S", len(s.all)
	var err error
	eventually(t, "the stream", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err = js.CreateOrUpdateStream(ctx, config)
		return err == nil
	})
}
