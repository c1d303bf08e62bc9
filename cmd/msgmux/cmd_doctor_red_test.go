// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// under makes a program run behind others, such as prlimit.
func (p *program) under(t *testing.T, argv ...string) *program {
	t.Helper()
	path, err := exec.LookPath(argv[0])
	if err != nil {
		t.Skipf("there is no %s", argv[0])
	}
	p.cmd.Path, p.cmd.Args = path, append(argv, append([]string{p.cmd.Path}, p.cmd.Args[1:]...)...)
	return p
}

// TestDoctorSeesSmallLimits of a broker that may open few files and lock no memory.
func TestDoctorSeesSmallLimits(t *testing.T) {
	dir := folder(t)
	if os.Getuid() == 0 {
		const nobody = 65534 // a broker takes no folder that belongs to somebody else
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	broker := prepare(t, dir, "--runtime-dir", dir, "--buffer", "1M", "--max-sinks", "100", "--max-clients", "100")
	broker.cmd.Args[0] = "msgmuxd"
	broker.cmd.Path = filepath.Join(binaries, "msgmuxd")
	// Root may lock what it likes, whatever the limit.
	broker.asNobody().under(t, "prlimit", "--nofile=1100:1100", "--memlock=0:0").start()
	test.Eventually(t, "the broker's start", func() bool {
		_, err := msgmux.Channel{RuntimeDir: dir}.Status(t.Context())
		return err == nil
	})
	found := diagnose(t, prepare(t, dir, "doctor", "--json"), exitFailure)
	if f := found["descriptors"]; f.Verdict != bad || !strings.Contains(f.Text, "may open 1100") || !strings.Contains(f.Advice, "LimitNOFILE=1124") {
		t.Errorf("descriptors: %+v", f)
	}
	if f := found["memlock"]; f.Verdict != poor || !strings.Contains(f.Advice, "LimitMEMLOCK=infinity") {
		t.Errorf("memlock: %+v", f)
	}
	// With nobody to take a message, sources wait.
	if f := found["sources"]; f.Verdict != poor || !strings.Contains(f.Text, "no sink") {
		t.Errorf("sources: %+v", f)
	}
}

// TestDoctorSeesWhoBlocks: a sink that has to have everything, and does not read. What is advised helps: as the only sink, no
// patience does, but another sink; beside another one, its patience.
func TestDoctorSeesWhoBlocks(t *testing.T) {
	_, dir := startBroker(t)
	sub := startSub(t, dir, "--label", "archive", "--patience", "forever")
	sub.signal(syscall.SIGSTOP)
	defer sub.signal(syscall.SIGCONT)
	pub := prepare(t, dir, "pub", "-l")
	pub.cmd.Stdin = endless{}
	pub.start()
	test.Eventually(t, "sources wait long", func() bool {
		s, err := msgmux.Channel{RuntimeDir: dir}.Status(t.Context())
		return err == nil && s.Sources.Blocked && s.Sources.For.Seconds() > blockedLong
	})
	f := diagnose(t, prepare(t, dir, "doctor", "--json"), exitFailure)["sources"]
	if f.Verdict != bad || !strings.Contains(f.Text, fmt.Sprintf("for the sink archive (msgmux[%d]", sub.cmd.Process.Pid)) || strings.Contains(f.Advice, "sinks set") ||
		!strings.Contains(f.Advice, "restart its program, or attach another sink: msgmux --runtime-dir "+dir+" sub") {
		t.Errorf("sources: %+v", f)
	}
	if got := prepare(t, dir, "status").want(0).stdout.String(); strings.Contains(got, "sends to this channel") ||
		!strings.Contains(got, fmt.Sprintf("its socket is held by msgmux[%d]", sub.cmd.Process.Pid)) {
		t.Errorf("of one that sends nothing the status says\n%s", got)
	}
	startSub(t, dir, "--label", "other")
	f = diagnose(t, prepare(t, dir, "doctor", "--json"), exitFailure)["sources"]
	if f.Verdict != bad || !strings.Contains(f.Text, "for the sink archive") || !strings.Contains(f.Advice, "sinks set 'archive' --patience 1s") {
		t.Errorf("beside another sink: %+v", f)
	}
	prepare(t, dir, "sinks", "set", "archive", "--patience", "1s").want(0)
	test.Eventually(t, "the sources go on", func() bool {
		s, err := msgmux.Channel{RuntimeDir: dir}.Status(t.Context())
		return err == nil && s.Lost > 0
	})
}

// TestDoctorSeesACircle: a consumer that logs into the channel that it reads waits for itself when it has much to say.
func TestDoctorSeesACircle(t *testing.T) {
	_, dir := startBroker(t)
	channel := msgmux.Channel{RuntimeDir: dir}
	sink, err := channel.Subscribe(t.Context(), msgmux.SinkOptions{Label: "shipper"})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	source, err := channel.Dial(t.Context(), msgmux.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for source.Send(ctx, make([]byte, 60<<10)) == nil {
		}
	}()
	test.Eventually(t, "it waits for itself", func() bool {
		s, err := channel.Status(t.Context())
		return err == nil && s.Sources.Blocked && s.Sources.Sink == "shipper" && s.Sources.For.Seconds() > blockedLong
	})
	f := diagnose(t, prepare(t, dir, "doctor", "--json"), exitFailure)["sources"]
	if f.Verdict != bad || !strings.Contains(f.Text, fmt.Sprintf("[%d] sends to this channel too", os.Getpid())) || !strings.Contains(f.Advice, "elsewhere") {
		t.Errorf("sources: %+v", f)
	}
	want := fmt.Sprintf("[%d] sends to this channel too, so that it may wait for itself", os.Getpid())
	if got := prepare(t, dir, "status").want(0).stdout.String(); !strings.Contains(got, want) {
		t.Errorf("no %q in\n%s", want, got)
	}
}

// TestDoctorSeesAnAbsentSink and one that only a tap is left beside.
func TestDoctorSeesAnAbsentSink(t *testing.T) {
	_, dir := startBroker(t)
	if err := os.Symlink("/nowhere/at/all", filepath.Join(dir, "sinks", "agent")); err != nil {
		t.Fatal(err)
	}
	test.Eventually(t, "the absent sink", func() bool { s := sinksOf(t, dir); return len(s) == 1 && s[0].State == "absent" })
	found := diagnose(t, prepare(t, dir, "doctor", "--json"), exitFailure)
	if f := found["sink agent"]; f.Verdict != poor || !strings.Contains(f.Text, "nobody is at") {
		t.Errorf("the sink: %+v", f)
	}
	if f := found["sources"]; f.Verdict != bad || !strings.Contains(f.Text, "no sink is there") {
		t.Errorf("sources: %+v", f)
	}
}

// TestDoctorSeesAKeptSink whose program is away: there is no path that somebody could bind.
func TestDoctorSeesAKeptSink(t *testing.T) {
	_, dir := startBroker(t)
	startSub(t, dir, "--label", "db", "--keep", "1h").signal(syscall.SIGKILL)
	test.Eventually(t, "the absent sink", func() bool { s := sinksOf(t, dir); return len(s) == 1 && s[0].State == "absent" })
	f := diagnose(t, prepare(t, dir, "doctor", "--json"), exitFailure)["sink db"]
	if f.Verdict != poor || !strings.Contains(f.Text, "its place is kept for 59 min") || !strings.Contains(f.Advice, "start its program") || !strings.Contains(f.Advice, "sinks drop 'db'") ||
		strings.Contains(f.Advice, ".socket") {
		t.Errorf("the sink: %+v", f)
	}
	prepare(t, dir, "sinks", "drop", "db").want(0)
	test.Eventually(t, "it is forgotten", func() bool { return len(sinksOf(t, dir)) == 0 })
}

// TestDoctorSeesMissingGroups on a host whose /etc/group is empty, which is one in a mount namespace of its own.
func TestDoctorSeesMissingGroups(t *testing.T) {
	if os.Geteuid() != 0 || exec.Command("unshare", "--mount", "true").Run() != nil {
		t.Skip("needs root and a mount namespace")
	}
	for file, want := range map[string]string{
		"root:x:0:": "there is no group msgmux", "root:x:0:\nmsgmux:x:801:": "there is no group msgmux-send",
		"root:x:0:\nmsgmux:x:801:\nmsgmux-send:x:802:": "there is no user msgmux",
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{"group": file, "passwd": "root:x:0:0::/root:/bin/sh"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		p := prepare(t, "")
		p.cmd = exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-euc",
			"mount --bind "+dir+"/group /etc/group; mount --bind "+dir+"/passwd /etc/passwd; exec "+binaries+"/msgmux --runtime-dir /run/msgmux doctor --json")
		p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
		if f := diagnose(t, p, exitFailure)["groups"]; f.Verdict != bad || f.Text != want || !strings.Contains(f.Advice, "systemd-sysusers") {
			t.Errorf("groups: %+v", f)
		}
	}
}

// TestDoctorKnowsWhatItCannotCause on a host that is well: limits of other kernels, and a broker that may not be asked.
func TestDoctorKnowsWhatItCannotCause(t *testing.T) {
	p := &patient{channel: msgmux.Channel{RuntimeDir: "/run/msgmux"}, status: &wire.Status{MaxMessage: 1 << 40}}
	if f := p.sendBuffer(); f.Verdict != bad || !strings.Contains(f.Advice, "sysctl -w net.core.wmem_max=") {
		t.Errorf("wmem_max: %+v", f)
	}
	p = &patient{channel: msgmux.Channel{RuntimeDir: "/run/msgmux"}, silence: fs.ErrPermission}
	if f := p.examineChannel()[0]; f.Verdict != bad || !strings.Contains(f.Advice, "in the group of /run/msgmux/control") {
		t.Errorf("channel: %+v", f)
	}
	for _, test := range []struct {
		room       uint64
		sinks      int
		file       string
		want       verdict
		text, then string
	}{
		{4096, 3, "", good, "no limit is set: beside the ring of 1.00 MiB there is room for the queues of 4,096 sinks, of which there are 3", ""},
		{40, 35, "/sys/fs/cgroup/a/memory.max", good, "the limit is 64.0 MiB (/sys/fs/cgroup/a/memory.max)", ""},
		{40, 36, "/sys/fs/cgroup/a/memory.max", poor, "there is room for the queues of 40 sinks, and there are 36: others are refused", "raise MemoryMax="},
		{2048, 2000, "", poor, "others are refused", "raise --queue-total"},
		{0, 5, "", good, "does not tell", ""},
	} {
		p := &patient{status: &wire.Status{Buffer: 1 << 20, SinksRoom: test.room, Sinks: wire.SinkCounts{Total: test.sinks}}}
		if f := p.judgeMemory(64<<20, test.file); f.Verdict != test.want || !strings.Contains(f.Text, test.text) || !strings.Contains(f.Advice, test.then) {
			t.Errorf("%+v: %+v", test, f)
		}
	}
	for _, test := range []struct {
		uid  uint32
		err  error
		want string
	}{
		{0, fmt.Errorf("cannot open: %w", sys.ErrNoDiag), "modprobe unix_diag"}, {0, errors.New("its kernel is older than 5.3"), "use the subscribe socket"},
		{uint32(os.Geteuid()) + 1, nil, "please report"},
	} {
		if f := judgeSockDiag(test.uid, test.err); f.Verdict != bad || !strings.Contains(f.Advice, test.want) {
			t.Errorf("%+v: %+v", test, f)
		}
	}
}
