// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/broker/control"
	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/test"
)

// lookerRole makes this program somebody who looks at a channel on the bus at that address.
const lookerRole = "MSGMUX_TEST_LOOKER"

// TestBeLooker is that process, and not a test.
func TestBeLooker(t *testing.T) {
	address := os.Getenv(lookerRole)
	if address == "" {
		t.Skip("runs within TestInstalledPolicy")
	}
	conn, err := dbus.Connect(address, dbus.WithAuth(dbus.AuthExternal(fmt.Sprint(os.Geteuid()))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	if err := conn.AddMatchSignal(dbus.WithMatchObjectPath(control.BusPath)); err != nil {
		t.Fatal(err)
	}
	o := conn.Object(control.BusName(""), control.BusPath)
	said := func(what string, call *dbus.Call) { fmt.Printf("%s=%v\n", what, call.Err == nil) }
	said("list", o.Call(iface+".ListSinks", 0))
	said("get", o.Call("org.freedesktop.DBus.Properties.Get", 0, iface, "SinkCount"))
	said("all", o.Call("org.freedesktop.DBus.Properties.GetAll", 0, iface))
	said("introspect", o.Call("org.freedesktop.DBus.Introspectable.Introspect", 0))
	said("drop", o.Call(iface+".DropSink", 0, "nobody"))
	for late := time.After(2 * time.Second); ; {
		select {
		case s := <-signals:
			if s.Path == control.BusPath { // the bus has some of its own
				fmt.Println("signal=true")
				return
			}
		case <-late:
			fmt.Println("signal=false")
			return
		}
	}
}

// TestInstalledPolicy: on a bus with the policy that is installed, group msgmux may look and nobody else, as at the control
// socket. Another group and user of every Debian play msgmux here, so that the test does not need the package.
func TestInstalledPolicy(t *testing.T) {
	need.Root(t, "unit")
	text, err := os.ReadFile("../../packaging/dbus/io.github.msgmux.conf")
	if err != nil {
		t.Fatal(err)
	}
	inner := regexp.MustCompile(`(?s)<busconfig>(.*)</busconfig>`).FindSubmatch(text)
	rules := strings.NewReplacer(`group="msgmux"`, `group="games"`, `user="msgmux"`, `user="sync"`).Replace(string(inner[1]))
	program(t, kinds[0])
	d := &daemon{t: t, kind: kinds[0], dir: test.Folder(t), closed: true, limits: rules}
	os.Chmod(d.dir, 0o755)
	d.address = "unix:path=" + d.dir + "/bus"
	d.start()
	t.Cleanup(d.stop)
	b := brokertest.Start(t)
	show(t, d, b)
	object(t, d.connect())
	stop, stopped := make(chan struct{}), make(chan struct{})
	defer func() { close(stop); <-stopped }()
	go func() { // so that there are signals
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
				s := brokertest.NewSink(t, b.Dir)
				brokertest.Register(t, b.Dir, s.Name, "remove")
				s.Close()
			}
		}
	}()
	const games, gamesGroup, other = 5, 60, 65534 // the last is nobody: the bus takes only users that there are
	for who, want := range map[[2]uint32]string{
		{0, 0}:              "list=true get=true all=true introspect=true drop=false signal=true",
		{games, gamesGroup}: "list=true get=true all=true introspect=true drop=false signal=true",
		{other, other}:      "list=false get=false all=false introspect=true drop=false signal=false",
	} {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestBeLooker$")
		cmd.Env, cmd.Dir = append(os.Environ(), lookerRole+"="+d.address), "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: who[0], Gid: who[1]}}
		out, err := cmd.CombinedOutput()
		got := strings.Join(regexp.MustCompile(`\w+=(true|false)`).FindAllString(string(out), -1), " ")
		if err != nil || got != want {
			t.Errorf("uid %d: %v %s, want %s\n%s", who[0], err, got, want, out)
		}
	}
}
