// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// built is the broker, once it was built.
var built = sync.OnceValues(func() (path string, err error) {
	path = filepath.Join(binaries, "msgmuxd")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build: %w\n%s", err, out)
	}
	return path, nil
})

// binaries is the folder that it is in; anybody may run it.
var binaries string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "mm")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries = dir
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

// program is the path of the broker.
func program(t *testing.T) string {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// untilReady waits until the broker in dir answers.
func untilReady(t *testing.T, dir string) {
	t.Helper()
	test.Eventually(t, "the broker answers", func() bool {
		conn, err := net.Dial("unixpacket", dir+"/control")
		if err != nil {
			return false
		}
		defer conn.Close()
		// Its answer, and not its socket: that is bound first, and the others after it.
		_, err = conn.Write([]byte(`{"op":"status"}`))
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		return err == nil
	})
}

// TestHealthyBrokerIsSilent from its start to its end: sinks come, are slow for a moment, and go.
func TestHealthyBrokerIsSilent(t *testing.T) {
	dir := test.Folder(t)
	var said bytes.Buffer
	cmd := exec.Command(program(t), "--runtime-dir", dir, "--buffer", "1M", "--metrics", dir+"/metrics", "--dbus", "unix:path="+dir+"/no-bus")
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	untilReady(t, dir)
	source := brokertest.NewSource(t, dir)
	for range 3 {
		plain := brokertest.NewSink(t, dir)
		tap := brokertest.NewSink(t, dir, "tap=yes") // which reads nothing
		framed := brokertest.NewSubscriber(t, dir)
		done := make(chan int)
		go func() {
			n := 0
			for ; n < 2000; n++ {
				if n == 1000 {
					time.Sleep(200 * time.Millisecond)
				}
				if _, err := plain.Receive(); err != nil {
					break
				}
			}
			done <- n
		}()
		go func() {
			for {
				if _, err := framed.ReceivePacketWithin(time.Minute); err != nil {
					return
				}
			}
		}()
		for range 2000 {
			if err := source.Send(make([]byte, 4000)); err != nil {
				t.Fatal(err)
			}
		}
		if n := <-done; n != 2000 {
			t.Fatalf("only %d messages came", n)
		}
		brokertest.Register(t, dir, plain.Name, "remove")
		plain.Close()
		tap.Close()
		framed.Close()
		test.Eventually(t, "all are gone", func() bool {
			return brokertest.Ask(t, dir, wire.Request{Op: wire.OpStatus}).Status.Sinks.Total == 0
		})
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if said.Len() > 0 {
		t.Errorf("it said:\n%s", said.String())
	}
	if _, err := os.Stat(dir + "/metrics"); err == nil {
		t.Error("the metrics socket is left behind")
	}
}

// TestLinesByHandAreText with the event in them.
func TestLinesByHandAreText(t *testing.T) {
	dir := test.Folder(t)
	var said bytes.Buffer
	cmd := exec.Command(program(t), "--runtime-dir", dir, "--log-level", "debug")
	// A name of another stream: not standard error's.
	cmd.Env = append(os.Environ(), "JOURNAL_STREAM=1:1")
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	untilReady(t, dir)
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Wait()
	if !strings.Contains(said.String(), "level=DEBUG msg=\"started with an empty ring\" event=started\n") {
		t.Errorf("it said %q", said.String())
	}
}

// inNamespace is what tells the test's program that it is the one with a mount namespace of its own.
const inNamespace = "MSGMUX_TEST_JOURNAL"

// TestNativeEntries runs the broker beside a journal of its own, in a mount namespace: its socket has a fixed path.
func TestNativeEntries(t *testing.T) {
	if os.Getenv(inNamespace) != "" {
		t.Skip("this is TestInNamespace's process")
	}
	const daemon = "/lib/systemd/systemd-journald"
	if _, err := os.Stat(daemon); err != nil || os.Geteuid() != 0 {
		need.Lacking(t, "unit", "needs root and %s", daemon)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestInNamespace$", "-test.v")
	cmd.Env = append(os.Environ(), inNamespace+"="+program(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil && bytes.Contains(out, []byte("cannot mount")) {
		need.Lacking(t, "unit", "this host lets nobody mount: %s", out)
	}
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestInNamespace")) {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestInNamespace is the other half of TestNativeEntries, in the namespaces that end with it.
func TestInNamespace(t *testing.T) {
	broker := os.Getenv(inNamespace)
	if broker == "" {
		t.Skip("runs within TestNativeEntries")
	}
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
	}{{"", "/", "", unix.MS_REC | unix.MS_PRIVATE}, {"tmpfs", "/run", "tmpfs", 0}, {"proc", "/proc", "proc", 0}} {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			t.Fatalf("cannot mount %s: %v", m.target, err)
		}
	}
	for _, dir := range []string{"/run/systemd/journal", "/run/log/journal", "/run/x"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	journald := exec.Command("/lib/systemd/systemd-journald")
	journald.Stderr = &log
	if err := journald.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { journald.Process.Kill(); journald.Wait() }()

	// As systemd does it (exec_context, connect_logger_as): a stream with a few lines that say whose it is.
	var stream *net.UnixConn
	test.Eventually(t, "the journal listens", func() bool {
		conn, err := net.Dial("unix", "/run/systemd/journal/stdout")
		if err == nil {
			stream = conn.(*net.UnixConn)
		}
		return err == nil
	})
	if _, err := stream.Write([]byte("msgmuxd\n\n30\n1\n0\n0\n0\n")); err != nil {
		t.Fatal(err)
	}
	file, err := stream.File()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(broker, "--runtime-dir", "/run/x", "--channel", "web", "--log-level", "debug")
	cmd.Stderr = file
	cmd.Env = append(os.Environ(), fmt.Sprintf("JOURNAL_STREAM=%d:%d", st.Dev, st.Ino))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	untilReady(t, "/run/x")
	brokertest.NewSink(t, "/run/x", "label=archive")
	brokertest.Register(t, "/run/x", "@nobody-has-this")
	brokertest.NewSource(t, "/run/x").Send(make([]byte, 300<<10))

	entries := map[string]map[string]any{}
	test.Eventually(t, "the entries are there", func() bool {
		out, err := exec.Command("journalctl", "--directory=/run/log/journal", "--output=json", "--quiet", "_PID="+fmt.Sprint(cmd.Process.Pid)).Output()
		if err != nil {
			return false
		}
		for line := range bytes.Lines(out) {
			var e map[string]any
			if json.Unmarshal(line, &e) == nil {
				entries[fmt.Sprint(e["MSGMUX_EVENT"])] = e
			}
		}
		return entries["message-refused"] != nil && entries["registration-refused"] != nil
	})
	for event, want := range map[string]map[string]string{
		"started":              {"PRIORITY": "7", "MESSAGE": "started with an empty ring", "SYSLOG_IDENTIFIER": "msgmuxd", "MSGMUX_CHANNEL": "web", "_TRANSPORT": "journal"},
		"sink-added":           {"PRIORITY": "7", "MSGMUX_SINK": "archive", "MSGMUX_UID": "0", "MESSAGE_ID": "57c170c21b549fa0493828c316d18b87"},
		"registration-refused": {"PRIORITY": "4", "MSGMUX_CODE": "no-peer", "MESSAGE_ID": "69d85547df43e0c847787d0d52383370"},
		"message-refused":      {"PRIORITY": "4", "MSGMUX_MESSAGES": "1", "MESSAGE_ID": "423e740cce0f3fe082ed4885db542548"},
	} {
		for field, value := range want {
			if got := fmt.Sprint(entries[event][field]); got != value {
				t.Errorf("%s: %s is %q, want %q", event, field, got, value)
			}
		}
	}
	if got := fmt.Sprint(entries["registration-refused"]["MESSAGE"]); !strings.Contains(got, "registration refused (") || !strings.Contains(got, "code=no-peer") {
		t.Errorf("the message is %q", got)
	}

	// One whose standard error leads elsewhere writes text there, although there is a journal.
	var said bytes.Buffer
	other := exec.Command(broker, "--runtime-dir", "/run/y", "--log-level", "debug")
	other.Stderr, other.Env = &said, cmd.Env
	if err := os.Mkdir("/run/y", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Process.Kill()
	untilReady(t, "/run/y")
	other.Process.Signal(syscall.SIGTERM)
	other.Wait()
	if !strings.Contains(said.String(), "level=DEBUG msg=\"started with an empty ring\" event=started\n") {
		t.Errorf("beside a journal it said %q", said.String())
	}
}
