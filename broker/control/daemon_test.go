// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/test"
)

// program is the path of a program. Without it the test is skipped, or fails where nothing may be skipped.
func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	// Where make has unpacked a package whose daemon nobody wants on his machine.
	if path, err := filepath.Abs("../../build/unit/prometheus/usr/bin/" + name); err == nil {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	need.Lacking(t, "unit", "there is no %s (Debian: apt-get install dbus-daemon dbus-broker prometheus)", name)
	return ""
}

// daemon is a bus of the test's own, which can be stopped and started again at the same address.
type daemon struct {
	t       testing.TB
	kind    string
	dir     string
	address string
	limits  string // more lines for the configuration of dbus-daemon
	closed  bool   // nobody may have a name or call anybody, as on a system's bus; dbus-daemon only

	cmd    *exec.Cmd
	end    func() // releases what belongs to the process
	stderr test.Output
}

// kinds are the two implementations of the bus.
var kinds = []string{"dbus-daemon", "dbus-broker"}

// eachBus runs a test on every kind of bus.
func eachBus(t *testing.T, f func(t *testing.T, d *daemon)) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) { f(t, startDaemon(t, kind)) })
	}
}

func startDaemon(t testing.TB, kind string) *daemon {
	program(t, kind)
	d := &daemon{t: t, kind: kind, dir: test.Folder(t)}
	d.address = "unix:path=" + d.dir + "/bus"
	d.start()
	t.Cleanup(d.stop)
	return d
}

// busConfig is a configuration of dbus-daemon: the folder, what everybody may do, and more.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=%s/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    %s
  </policy>
  %s
</busconfig>
`

// everything is what everybody may do on an open bus and on a closed one.
var everything = map[bool]string{
	false: `<allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>`,
	true: `<deny own="*"/><deny send_type="method_call"/><allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/><allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>`,
}

func (d *daemon) start() {
	d.t.Helper()
	d.end = func() {}
	if d.kind == "dbus-daemon" {
		config := filepath.Join(d.dir, "bus.conf")
		if err := os.WriteFile(config, fmt.Appendf(nil, busConfig, d.dir, everything[d.closed], d.limits), 0o644); err != nil {
			d.t.Fatal(err)
		}
		d.run(exec.Command("dbus-daemon", "--config-file="+config, "--nofork"))
	} else {
		d.startBroker()
	}
	test.Eventually(d.t, d.kind+" listens", func() bool {
		conn, err := net.Dial("unix", d.dir+"/bus")
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
}

func (d *daemon) run(cmd *exec.Cmd) {
	d.t.Helper()
	cmd.Stderr, cmd.Stdout = &d.stderr, &d.stderr
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.cmd = cmd
}

// stop kills the bus.
func (d *daemon) stop() {
	if d.cmd == nil {
		return
	}
	d.cmd.Process.Kill()
	d.cmd.Wait()
	d.cmd = nil
	d.end()
	os.Remove(d.dir + "/bus")
}

func (d *daemon) signal(s syscall.Signal) { d.cmd.Process.Signal(s) }

// A policy as dbus-broker gets it from whoever starts it (its source, src/bus/policy.c).
type (
	ownRule struct {
		Allow    bool
		Priority uint64
		Prefix   bool
		Name     string
	}
	sendRule struct {
		Allow                         bool
		Priority                      uint64
		Name, Path, Interface, Member string
		Type, Broadcast               uint32
		MinFDs, MaxFDs                uint64
	}
	batch struct {
		Connect  bool
		Priority uint64
		Own      []ownRule
		Send     []sendRule
		Receive  []sendRule
	}
	userPolicy struct {
		UID   uint32
		Batch batch
	}
	rangePolicy struct {
		Group    bool
		From, To uint32
		Batch    batch
	}
	label  struct{ Name, Context string }
	policy struct {
		Users    []userPolicy
		Ranges   []rangePolicy
		Labels   []label
		AppArmor bool
		BusType  string
	}
)

// startBroker plays what systemd's launcher is to dbus-broker: it hands over the listening socket, with a policy in
// which everybody may do everything.
func (d *daemon) startBroker() {
	d.t.Helper()
	fatal := func(err error) {
		if err != nil {
			d.t.Helper()
			d.t.Fatal(err)
		}
	}
	control, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.dir + "/controller", Net: "unix"})
	fatal(err)
	defer control.Close()
	accepted := make(chan *net.UnixConn, 1)
	go func() {
		conn, _ := control.AcceptUnix()
		accepted <- conn
	}()
	conn, err := dbus.Dial("unix:path=" + d.dir + "/controller")
	fatal(err)
	d.end = func() { conn.Close() }
	theirs := <-accepted
	file, err := theirs.File()
	theirs.Close()
	fatal(err)
	defer file.Close()
	cmd := exec.Command("dbus-broker", "--controller", "3", "--machine-id", strings.Repeat("0123456789abcdef", 2),
		"--max-bytes", "536870912", "--max-matches", "131072", "--max-objects", "16384", "--max-fds", "4096")
	cmd.ExtraFiles = []*os.File{file}
	d.run(cmd)
	fatal(conn.Auth([]dbus.Auth{dbus.AuthExternal(fmt.Sprint(os.Geteuid()))}))

	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.dir + "/bus", Net: "unix"})
	fatal(err)
	listener.SetUnlinkOnClose(false)
	defer listener.Close()
	fatal(os.Chmod(d.dir+"/bus", 0o666))
	socket, err := listener.File()
	fatal(err)
	defer socket.Close()
	number := socket.Fd() // this makes it wait, and dbus-broker must not
	fatal(syscall.SetNonblock(int(number), true))
	all := []sendRule{{Allow: true, Priority: 1, MaxFDs: math.MaxUint64}}
	open := batch{Connect: true, Priority: 1, Own: []ownRule{{true, 1, true, ""}}, Send: all, Receive: all}
	call := conn.Object("org.bus1.DBus.Broker", "/org/bus1/DBus/Broker").Call("org.bus1.DBus.Broker.AddListener", 0,
		dbus.ObjectPath("/org/bus1/DBus/Listener/0"), dbus.UnixFD(number), dbus.MakeVariant(policy{
			Users: []userPolicy{{math.MaxUint32, open}}, Ranges: []rangePolicy{}, Labels: []label{}, BusType: "session"}))
	if call.Err != nil {
		d.t.Fatalf("dbus-broker does not take the listener: %v\n%s", call.Err, d.stderr.String())
	}
}

// connect is a client of the bus.
func (d *daemon) connect() *dbus.Conn {
	d.t.Helper()
	conn, err := dbus.Connect(d.address, dbus.WithAuth(dbus.AuthExternal(fmt.Sprint(os.Geteuid()))))
	if err != nil {
		d.t.Fatalf("cannot connect to %s: %v\n%s", d.kind, err, d.stderr.String())
	}
	d.t.Cleanup(func() { conn.Close() })
	return conn
}

// within is how long something may take that is to happen by itself.
const within = 10 * time.Second
