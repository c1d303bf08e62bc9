// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/msgmux/msgmux/internal/test"
)

// listening starts a pub that listens, and returns where.
func listening(t *testing.T, dir string, args ...string) (*program, string) {
	t.Helper()
	path := filepath.Join(folder(t), "stream")
	p := prepare(t, dir, append([]string{"pub", "--listen", path}, args...)...).start()
	test.Eventually(t, "it listens", func() bool {
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return p, path
}

func dialStream(t *testing.T, path string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestPubListens: each connection is a source of its own, whole and in its order, and so is what was written before pub ends.
func TestPubListens(t *testing.T) {
	_, dir := startBroker(t)
	sub := startSub(t, dir)
	p, path := listening(t, dir)
	const connections, lines = 5, 2000
	for c := range connections {
		conn := dialStream(t, path)
		go func() {
			for i := range lines {
				fmt.Fprintf(conn, "%d %d\n", c, i)
			}
			fmt.Fprintf(conn, "%d end", c) // the end of the connection is the end of the line
			conn.Close()
		}()
	}
	test.Eventually(t, "all lines", func() bool { return strings.Count(sub.stdout.String(), "\n") == connections*(lines+1) })
	at := make([]int, connections)
	for line := range strings.Lines(sub.stdout.String()) {
		var c, i int
		if n, _ := fmt.Sscanf(line, "%d %d", &c, &i); n == 2 {
			if i != at[c] {
				t.Fatalf("%q comes where line %d should", line, at[c])
			}
			at[c]++
		}
	}
	late := dialStream(t, path)
	fmt.Fprint(late, "accepted\n")
	test.Eventually(t, "that it is heard", func() bool { return strings.HasSuffix(sub.stdout.String(), "accepted\n") })
	fmt.Fprint(late, "late\n")
	p.signal(syscall.SIGTERM)
	p.want(exitTerminated)
	test.Eventually(t, "the late one", func() bool { return strings.HasSuffix(sub.stdout.String(), "late\n") })
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket is still there")
	}
}

// TestPubListensToFrames as StatsD clients write them; what is none ends its connection and no other.
func TestPubListensToFrames(t *testing.T) {
	_, dir := startBroker(t)
	sub := startSub(t, dir, "-o", "json")
	p, path := listening(t, dir, "--frames")
	frame := func(text string) []byte {
		return append(binary.LittleEndian.AppendUint32(nil, uint32(len(text))), text...)
	}
	good, cut, wild := dialStream(t, path), dialStream(t, path), dialStream(t, path)
	good.Write(slices.Concat(frame("a:1|c"), frame("b:2|c\nc:3|c"), frame("")))
	cut.Write(frame("whole"))
	cut.Write(frame("cut off")[:6])
	cut.Close()
	wild.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	wild.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := wild.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("what is no frame is taken: %v", err)
	}
	good.Write(frame("d"))
	test.Eventually(t, "five messages", func() bool { return strings.Count(sub.stdout.String(), "\n") == 5 })
	for _, text := range []string{`"a:1|c"`, `"b:2|c\nc:3|c"`, `""`, `"whole"`, `"d"`} {
		if !strings.Contains(sub.stdout.String(), `"text":`+text) {
			t.Errorf("no %s in\n%s", text, sub.stdout.String())
		}
	}
	test.Eventually(t, "a word about both", func() bool {
		said := p.stderr.String()
		return strings.Contains(said, "middle of frame 2") && strings.Contains(said, "no message has more than")
	})
}

// TestPubListensAndWaits: without a sink, who writes waits, and nothing is lost.
func TestPubListensAndWaits(t *testing.T) {
	_, dir := startBroker(t)
	_, path := listening(t, dir, "-l")
	conn := dialStream(t, path)
	wrote := make(chan error, 1)
	const lines = 50_000
	go func() {
		for i := range lines {
			if _, err := fmt.Fprintf(conn, "line %d %s\n", i, strings.Repeat("x", 100)); err != nil {
				wrote <- err
				return
			}
		}
		wrote <- conn.Close()
	}()
	time.Sleep(500 * time.Millisecond)
	select {
	case err := <-wrote:
		t.Fatalf("5 MB were taken without a sink: %v", err)
	default:
	}
	sub := startSub(t, dir, "-C", fmt.Sprint(lines))
	sub.want(0)
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	if got := sub.stdout.String(); !strings.HasPrefix(got, "line 0 x") || strings.Count(got, "\n") != lines {
		t.Errorf("%d lines, and first %.20q", strings.Count(got, "\n"), got)
	}
}

// TestPubListensAgain where a pub was killed, not where one listens, and on a socket that was handed over.
func TestPubListensAgain(t *testing.T) {
	_, dir := startBroker(t)
	sub := startSub(t, dir)
	p, path := listening(t, dir)
	prepare(t, dir, "pub", "--listen", path).want(exitFailure).says("address already in use")
	p.signal(syscall.SIGKILL)
	<-p.ended
	again := prepare(t, dir, "pub", "--listen", path).start()
	test.Eventually(t, "it listens again", func() bool {
		conn, err := net.Dial("unix", path)
		if err == nil {
			fmt.Fprintln(conn, "again")
			conn.Close()
		}
		return err == nil
	})
	test.Eventually(t, "the line", func() bool { return strings.Contains(sub.stdout.String(), "again\n") })
	again.signal(syscall.SIGTERM)
	again.want(exitTerminated)

	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	handed := prepare(t, dir, "pub", "--listen", path)
	handed.cmd.ExtraFiles = []*os.File{file}
	// The shell's id is the program's.
	handed.cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`, "sh", handed.cmd.Path}, handed.cmd.Args[1:]...)
	if handed.cmd.Path, err = exec.LookPath("sh"); err != nil {
		t.Fatal(err)
	}
	handed.start()
	fmt.Fprintln(dialStream(t, path), "handed over")
	test.Eventually(t, "the line", func() bool { return strings.Contains(sub.stdout.String(), "handed over\n") })

	prepare(t, dir, "pub", "--listen", path, "text").want(exitUsage)
	prepare(t, dir, "pub", "--listen", path, "--nonblock").want(exitUsage)
	prepare(t, dir, "pub", "--listen", "/nowhere/at/all").want(exitFailure).says("no such file or directory")
}

// TestPubListensInNobodysPlace: what is at the path and is no socket stays, though the kernel refuses to connect to it as to a dead one.
func TestPubListensInNobodysPlace(t *testing.T) {
	dir := folder(t)
	for name, put := range map[string]func(path string) error{
		"file":   func(path string) error { return os.WriteFile(path, []byte("precious"), 0o644) },
		"fifo":   func(path string) error { return syscall.Mkfifo(path, 0o644) },
		"folder": func(path string) error { return os.Mkdir(path, 0o755) },
	} {
		path := filepath.Join(dir, name)
		if err := put(path); err != nil {
			t.Fatal(err)
		}
		p := prepare(t, dir, "pub", "--listen", path).start()
		replaced := false
		test.Eventually(t, "its end, or a socket in the place of the "+name, func() bool {
			select {
			case <-p.ended:
				return true
			default:
			}
			now, err := os.Lstat(path)
			replaced = err == nil && now.Mode().Type() == fs.ModeSocket
			return replaced
		})
		if replaced {
			t.Errorf("the %s is gone", name)
			continue
		}
		p.want(exitFailure).says("address already in use")
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
}
