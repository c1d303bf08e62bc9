// SPDX-License-Identifier: Apache-2.0

// Package natstest runs nats-server for the tests of the bridge: the real one, as a process that can be killed, of the version
// that go.mod names. The package makes no compatibility promise.
package natstest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// Program is the path of nats-server. It is built once and kept in build/bridge of the repository.
func Program(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/nats-io/nats-server/v2").Output()
	if err != nil {
		t.Fatalf("cannot find out which nats-server there is: %v", err)
	}
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatalf("cannot find the module: %v", err)
	}
	folder := filepath.Join(filepath.Dir(string(mod)), "..", "..", "build", "bridge")
	program := filepath.Join(folder, "nats-server-"+strings.TrimSpace(string(out)))
	if _, err := os.Stat(program); err == nil {
		return program
	}
	// Under a name of its own first: several tests may do this at the same time.
	fresh := fmt.Sprintf("%s.%d", program, os.Getpid())
	build := exec.Command("go", "build", "-o", fresh, "github.com/nats-io/nats-server/v2")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build nats-server: %v\n%s", err, out)
	}
	if err := os.Rename(fresh, program); err != nil {
		t.Fatalf("cannot keep nats-server: %v", err)
	}
	return program
}

// Server is a nats-server that can be killed and started again, with what it has stored.
type Server struct {
	URL string

	program string
	config  string
	log     string
	cmd     *exec.Cmd
	prefix  []string // what the command is run by, such as in a network namespace
	dialer  nats.CustomDialer
	exited  chan struct{}
}

// Options say how a server is run. The zero value is one server on a port of the loopback device.
type Options struct {
	Config string            // what its file of settings says beside the address and the folder
	Listen string            // HOST:PORT; "": a free port of 127.0.0.1
	Prefix []string          // the command line that the command is put behind
	Name   string            // "" for none
	Dialer nats.CustomDialer // how this process gets to the server; nil: as everybody does
}

// Start runs a server until the test ends, and waits until it answers.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s := New(t, o)
	s.Run(t)
	s.Await(t)
	return s
}

// New prepares a server, in a folder of its own.
func New(t testing.TB, o Options) *Server {
	t.Helper()
	folder := t.TempDir()
	if o.Listen == "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatalf("cannot find a free port: %v", err)
		}
		o.Listen = l.Addr().String()
		l.Close()
	}
	name := ""
	if o.Name != "" {
		name = "server_name: " + o.Name + "\n"
	}
	s := &Server{URL: "nats://" + o.Listen, program: Program(t), prefix: o.Prefix, dialer: o.Dialer,
		config: filepath.Join(folder, "nats.conf"), log: filepath.Join(folder, "log")}
	text := fmt.Sprintf("%slisten: %q\njetstream { store_dir: %q, max_file: 4G }\n%s", name, o.Listen, filepath.Join(folder, "store"), o.Config)
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatalf("cannot write the settings of nats-server: %v", err)
	}
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("%s %s:\n%s", s.URL, o.Name, s.Tail(3000))
		}
	})
	return s
}

// Run starts the server if it does not run, and does not wait for it.
func (s *Server) Run(t testing.TB) {
	t.Helper()
	if s.cmd != nil {
		return
	}
	words := append(append([]string{}, s.prefix...), s.program, "--config", s.config, "--log", s.log)
	s.cmd = exec.Command(words[0], words[1:]...)
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("cannot start nats-server: %v", err)
	}
	s.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		cmd.Wait()
		close(exited)
	}(s.cmd, s.exited)
}

// Await returns once JetStream answers.
func (s *Server) Await(t testing.TB) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var conn *nats.Conn
		if conn, err = nats.Connect(s.URL, s.through()...); err != nil {
			continue
		}
		var answer *nats.Msg
		answer, err = conn.Request("$JS.API.INFO", nil, time.Second)
		conn.Close()
		if err == nil && !bytes.Contains(answer.Data, []byte(`"error"`)) {
			return
		}
	}
	t.Fatalf("nats-server does not answer: %v\n%s", err, s.Tail(2000))
}

func (s *Server) through() []nats.Option {
	if s.dialer == nil {
		return nil
	}
	return []nats.Option{nats.SetCustomDialer(s.dialer)}
}

// Kill ends the server with SIGKILL, if it runs.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Kill()
	<-s.exited
	s.cmd = nil
}

// Process is the running process, nil if there is none.
func (s *Server) Process() *os.Process {
	if s.cmd == nil {
		return nil
	}
	return s.cmd.Process
}

// Tail is the end of its log, of n bytes at most.
func (s *Server) Tail(n int) string {
	text, _ := os.ReadFile(s.log)
	return string(text[max(0, len(text)-n):])
}
