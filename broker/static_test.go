// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// static finds the static sink with that label.
func static(b *brokertest.Broker, label string) (wire.Sink, bool) {
	_, sinks := b.Channel.List()
	for _, s := range sinks {
		if s.Label == label && s.Kind == "static" {
			return s, true
		}
	}
	return wire.Sink{}, false
}

// becomes waits until the static sink with that label is in one of these states.
func becomes(t *testing.T, b *brokertest.Broker, label string, states ...string) (s wire.Sink) {
	t.Helper()
	test.Eventually(t, fmt.Sprintf("%s is %v", label, states), func() bool {
		var ok bool
		s, ok = static(b, label)
		return ok && strings.Contains(strings.Join(states, " "), s.State)
	})
	return s
}

// optionsIn makes a folder for the options of static sinks.
func optionsIn(t *testing.T) (dir string, change func(*broker.Config)) {
	dir = t.TempDir()
	return dir, func(cfg *broker.Config) { cfg.OptionsDir = dir }
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestStaticFolder: every entry of the folder is a sink, whether it was there first or came later, and a symbolic link
// is what it leads to. What is no socket is absent and logged once; hidden entries are nothing.
func TestStaticFolder(t *testing.T) {
	log := &keptLog{}
	elsewhere := test.Folder(t)
	var early *brokertest.Sink
	b := brokertest.Start(t, keepLog(log), func(cfg *broker.Config) { early = brokertest.NewSocket(t, cfg.SinksDir+"/early") })
	source := brokertest.NewSource(t, b.Dir)
	becomes(t, b, "early", "ready")
	late := brokertest.NewSocket(t, b.Dir+"/sinks/late")
	becomes(t, b, "late", "ready")
	linked := brokertest.NewSocket(t, elsewhere+"/agent")
	if err := os.Symlink(linked.Name, b.Dir+"/sinks/linked"); err != nil {
		t.Fatal(err)
	}
	becomes(t, b, "linked", "ready")
	hidden := brokertest.NewSocket(t, b.Dir+"/sinks/.hidden")

	writeFile(t, b.Dir+"/sinks/file", "text")
	os.Mkdir(b.Dir+"/sinks/folder", 0o755)
	os.Symlink("nowhere", b.Dir+"/sinks/dangling")
	os.Symlink("round", b.Dir+"/sinks/round")
	os.Symlink(b.Dir+"/control", b.Dir+"/sinks/seqpacket")
	odd := brokertest.NewSocket(t, b.Dir+"/sinks/no label")
	for _, label := range []string{"file", "folder", "dangling", "round", "seqpacket"} {
		becomes(t, b, label, "absent")
	}
	for i := range uint64(20) {
		if err := source.Send(stamped(1, i, 100)); err != nil {
			t.Fatal(err)
		}
		for _, s := range []*brokertest.Sink{early, late, linked} {
			receiveSeq(t, s, 1, i, i+1)
		}
	}
	receivesNothing(t, hidden, "a hidden entry")
	receivesNothing(t, odd, "an entry with a name that is no label")
	for _, words := range [][]string{{"sink=file", "not a socket"}, {"sink=folder", "not a socket"}, {"sink=seqpacket", "SOCK_DGRAM"}, {"no label"}} {
		log.logged(t, 1, append(words, "static-sink")...)
	}
	log.logged(t, 0, "static-sink", "sink=dangling") // nobody there is nothing to tell
	if st := b.Channel.Status(); st.Sinks.Static != 8 || st.Sinks.Absent != 5 {
		t.Errorf("%+v", st.Sinks)
	}
	if e := b.Channel.Drop(0, "early"); codeOf(e) != wire.CodeDenied || !strings.Contains(e.Text, "folder") {
		t.Errorf("dropped: %v", e)
	}
	// What was no socket becomes one.
	removeFile(t, b.Dir+"/sinks/file")
	mended := brokertest.NewSocket(t, b.Dir+"/sinks/file")
	becomes(t, b, "file", "ready", "stalled")
	if m, err := mended.Receive(); err != nil {
		t.Errorf("%q, %v: it counts from when its entry came", m, err)
	}
}

// TestStaticFirst: whoever comes while a broker starts comes after the declared sinks, which get everything from the first message on.
func TestStaticFirst(t *testing.T) {
	t.Parallel()
	const declared = 60
	var archives []*brokertest.Sink
	b := brokertest.StartWith(t, func(cfg *broker.Config, _ *activation.Set) {
		for i := range declared {
			archives = append(archives, brokertest.NewSocket(t, fmt.Sprintf("%s/s%03d", cfg.SinksDir, i)))
		}
		guest := brokertest.NewSocket(t, brokertest.Name())
		to := &net.UnixAddr{Name: cfg.RuntimeDir + "/register", Net: "unixgram"}
		if _, err := guest.Conn.WriteToUnix([]byte(guest.Name+"\n"), to); err != nil {
			t.Fatal(err)
		}
		source := brokertest.NewSource(t, cfg.RuntimeDir)
		for i := range uint64(5) {
			if err := source.Send(stamped(1, i, 100)); err != nil {
				t.Fatal(err)
			}
		}
	})
	for _, a := range archives {
		receiveSeq(t, a, 1, 0, 5)
	}
	test.Eventually(t, "the guest is there", func() bool { return b.Channel.Status().Sinks.Dynamic == 1 })
}

// TestStaticOptions: options come from NAME.conf; a bad file means defaults and one log line; changes count from the
// next scan on.
func TestStaticOptions(t *testing.T) {
	log := &keptLog{}
	dir, change := optionsIn(t)
	writeFile(t, dir+"/good.conf", "# comment\n\nlabel=nice\r\npatience=1h\nframes=yes\n")
	writeFile(t, dir+"/forever.conf", "patience=forever")
	writeFile(t, dir+"/eye.conf", "tap=yes\n")
	writeFile(t, dir+"/one.conf", "share=pair\n")
	writeFile(t, dir+"/two.conf", "share=pair\n")
	writeFile(t, dir+"/bad.conf", "patience=0\npatience=1s\n")
	writeFile(t, dir+"/binary.conf", "\xff\x00\x1b[31m")
	os.Mkdir(dir+"/folder.conf", 0o755)
	b := brokertest.Start(t, keepLog(log), change)
	sinks := make(map[string]*brokertest.Sink)
	for _, name := range []string{"good", "forever", "eye", "one", "two", "bad", "binary", "folder", "none"} {
		sinks[name] = brokertest.NewSocket(t, b.Dir+"/sinks/"+name)
	}
	for label, want := range map[string]wire.Sink{
		"nice": {Patience: "1h", Frames: true}, "forever": {Patience: "forever"}, "eye": {Tap: true},
		"one": {Share: "pair", Patience: "1s"}, "two": {Share: "pair", Patience: "1s"},
		"bad": {Patience: "1s"}, "binary": {Patience: "1s"}, "folder": {Patience: "1s"}, "none": {Patience: "1s"},
	} {
		s := becomes(t, b, label, "ready")
		if want.Patience == "" {
			want.Patience = s.Patience
		}
		d, err := wire.ParsePatience(s.Patience)
		w, _ := wire.ParsePatience(want.Patience)
		if err != nil || d != w || s.Frames != want.Frames || s.Tap != want.Tap || s.Share != want.Share {
			t.Errorf("%s: %+v, want %+v", label, s, want)
		}
	}
	for _, name := range []string{"bad", "binary", "folder"} {
		log.logged(t, 1, "options of a static sink are not used", name+".conf")
	}
	log.logged(t, 0, "\x1b")
	if err := brokertest.NewSource(t, b.Dir).Send(stamped(1, 0, 100)); err != nil {
		t.Fatal(err)
	}
	m, err := sinks["good"].Receive()
	if err != nil {
		t.Fatal(err)
	}
	if p, err := wire.ParseSinkPacket(m); err != nil || len(p.Records) != wire.Padded(100) {
		t.Errorf("frames=yes: %+v, %v", p, err)
	}
	receiveSeq(t, sinks["bad"], 1, 0, 1)

	writeFile(t, dir+"/bad.conf", "patience=0\nlabel=mended\n")
	b.Channel.Rescan()
	if s := becomes(t, b, "mended", "ready"); s.Patience != "0s" && s.Patience != "0" {
		t.Errorf("%+v", s)
	}
	removeFile(t, dir+"/bad.conf")
	b.Channel.Rescan()
	becomes(t, b, "bad", "ready")
}

// TestStaticOptionsThatCannotBeRead leave those that hold; what is no file of options, or is gone, does not.
func TestStaticOptionsThatCannotBeRead(t *testing.T) {
	log := &keptLog{}
	options, change := optionsIn(t)
	file := options + "/s.conf"
	writeFile(t, file, "patience=7s\n")
	b := brokertest.Start(t, keepLog(log), change)
	brokertest.NewSocket(t, b.Dir+"/sinks/s")
	becomes(t, b, "s", "ready")
	patience := func(want string) {
		t.Helper()
		test.Eventually(t, "a patience of "+want, func() bool { return becomes(t, b, "s", "ready").Patience == want })
	}
	patience("7s")
	removeFile(t, file)
	if err := os.Symlink(file, file); err != nil { // no way leads to the end of it
		t.Fatal(err)
	}
	b.Channel.Rescan()
	log.logged(t, 1, "options of a static sink are not used", "s.conf", "too many levels")
	time.Sleep(100 * time.Millisecond) // for what would follow
	patience("7s")
	removeFile(t, file)
	b.Channel.Rescan()
	patience("1s")
}

// TestStaticOptionsOddFiles: an options file that is a FIFO, a device, or has no end, is a bad file like another: defaults, and
// a line. It neither keeps the other sinks from coming nor the broker from its end, and takes no memory.
func TestStaticOptionsOddFiles(t *testing.T) {
	for kind, mk := range map[string]func(path string) error{
		"fifo":    func(path string) error { return unix.Mkfifo(path, 0o644) },
		"device":  func(path string) error { return os.Symlink("/dev/zero", path) },
		"endless": func(path string) error { writeFile(t, path, ""); return os.Truncate(path, 1<<40) },
	} {
		t.Run(kind, func(t *testing.T) {
			log := &keptLog{}
			options, change := optionsIn(t)
			if err := mk(options + "/bad.conf"); err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			b := brokertest.Start(t, keepLog(log), change)
			brokertest.NewSocket(t, b.Dir+"/sinks/bad")
			brokertest.NewSocket(t, b.Dir+"/sinks/good")
			becomes(t, b, "good", "ready")
			becomes(t, b, "bad", "ready")
			log.logged(t, 1, "options of a static sink are not used", "bad.conf")
			if runtime.ReadMemStats(&after); after.TotalAlloc-before.TotalAlloc > 64<<20 {
				t.Errorf("%d MiB for a file of options", (after.TotalAlloc-before.TotalAlloc)>>20)
			}
		})
	}
}

// TestStaticGone: an entry that is removed is absent, with its cursor, and the same sink when it comes back in time;
// later it is another one, and what waited for the first is abandoned.
func TestStaticGone(t *testing.T) {
	t.Parallel()
	const soon = 700 * time.Millisecond
	b := brokertest.Start(t, withPatience(time.Hour), func(cfg *broker.Config) { broker.SetGoneAfter(cfg, soon) })
	source, other := brokertest.NewSource(t, b.Dir), brokertest.NewSink(t, b.Dir)
	path := b.Dir + "/sinks/s"
	sink := brokertest.NewSocket(t, path)
	first := becomes(t, b, "s", "ready")
	pass := func(i uint64) {
		t.Helper()
		if err := source.Send(stamped(1, i, 100)); err != nil {
			t.Fatal(err)
		}
		receiveSeq(t, other, 1, i, i+1)
	}
	pass(0)
	receiveSeq(t, sink, 1, 0, 1)

	removeFile(t, path)
	becomes(t, b, "s", "absent")
	b.Channel.Rescan()
	time.Sleep(50 * time.Millisecond)
	pass(1)
	pass(2)
	receivesNothing(t, sink, "a sink whose entry was removed")
	again := brokertest.NewSocket(t, path)
	if s := becomes(t, b, "s", "ready", "stalled"); s.ID != first.ID || s.Lost != 0 {
		t.Errorf("come back in time: %+v, was %+v", s, first)
	}
	receiveSeq(t, again, 1, 1, 3) // what came meanwhile

	removeFile(t, path)
	becomes(t, b, "s", "absent")
	began := time.Now()
	pass(3)
	pass(4)
	gone(t, b, first.ID)
	if took := time.Since(began); took < soon*8/10 {
		t.Errorf("gone after %s", took)
	}
	if st := b.Channel.Status(); st.Abandoned != 2 || st.Lost != 0 {
		t.Errorf("abandoned %d, lost %d; two were waiting", st.Abandoned, st.Lost)
	}
	third := brokertest.NewSocket(t, path)
	if s := becomes(t, b, "s", "ready"); s.ID == first.ID {
		t.Errorf("%+v: it is another sink by now", s)
	}
	pass(5)
	receiveSeq(t, third, 1, 5, 6)
}

// TestStaticDropped: a static sink can be dropped as soon as its entry is gone, and not before; the entry may come back as another
// sink. Only root and the broker's user may.
func TestStaticDropped(t *testing.T) {
	b := brokertest.Start(t)
	path := b.Dir + "/sinks/archive"
	brokertest.NewSocket(t, path)
	first := becomes(t, b, "archive", "ready")
	root := uint32(os.Geteuid())
	if refusal := b.Channel.Drop(root, "archive"); refusal == nil || refusal.Code != wire.CodeDenied || !strings.Contains(refusal.Text, "take its entry out") {
		t.Errorf("with its entry there: %v", refusal)
	}
	if _, there := static(b, "archive"); !there {
		t.Fatal("it was dropped all the same")
	}
	if err := os.Rename(path, b.Dir+"/aside"); err != nil {
		t.Fatal(err)
	}
	if refusal := b.Channel.Drop(root+1, "archive"); refusal == nil || refusal.Code != wire.CodeDenied || strings.Contains(refusal.Text, "entry") {
		t.Errorf("asked by a stranger: %v", refusal)
	}
	if refusal := b.Channel.Drop(root, "archive"); refusal != nil {
		t.Errorf("with its entry gone: %v", refusal)
	}
	if s, there := static(b, "archive"); there {
		t.Errorf("after it was dropped there is %+v", s)
	}
	if err := os.Rename(b.Dir+"/aside", path); err != nil {
		t.Fatal(err)
	}
	if again := becomes(t, b, "archive", "ready"); again.ID == first.ID {
		t.Errorf("the new sink has the id of the dropped one: %+v", again)
	}
}

// TestStaticReplaced: when another socket takes the place of a connected one, it is the sink from then on, where the
// other one stopped; likewise when the consumer died and is started again.
func TestStaticReplaced(t *testing.T) {
	b := brokertest.Start(t)
	source := brokertest.NewSource(t, b.Dir)
	path := b.Dir + "/sinks/s"
	old := brokertest.NewSocket(t, path)
	id := becomes(t, b, "s", "ready").ID
	for i := range uint64(3) {
		if err := source.Send(stamped(1, i, 100)); err != nil {
			t.Fatal(err)
		}
	}
	receiveSeq(t, old, 1, 0, 3)
	// At once, as rename does it: the old one is still open.
	anew := brokertest.NewSocket(t, b.Dir+"/sinks/.anew")
	if err := os.Rename(anew.Name, path); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(brokertest.Within)
	for i := uint64(3); ; i++ {
		if err := source.Send(stamped(1, i, 100)); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatal("the old socket is the sink still")
		}
		if _, err := old.ReceiveWithin(20 * time.Millisecond); err != nil {
			receiveSeq(t, anew, 1, i, i+1)
			break
		}
	}
	// It dies: absent, at the first message, and nothing is lost, as it is the only sink. How many of the messages are received
	// before that shows is a matter of speed; what is sent afterwards is not.
	anew.Close()
	const early, all = 4, 5
	for i := range uint64(all) {
		if i == early {
			becomes(t, b, "s", "absent")
		}
		if err := source.Send(stamped(2, i, 100)); err != nil {
			t.Fatal(err)
		}
	}
	test.Eventually(t, "with nobody there the sources are blocked", func() bool { return b.Channel.Status().Sources.Blocked })
	removeFile(t, path)
	back := brokertest.NewSocket(t, path)
	receiveSeq(t, back, 2, 0, all)
	if s := becomes(t, b, "s", "ready"); s.ID != id || s.Lost != 0 {
		t.Errorf("%+v", s)
	}
}

// TestStaticAbsent: an absent sink has its patience like anyone, and is left behind after that; what it lost is counted.
func TestStaticAbsent(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, withPatience(300*time.Millisecond))
	path := b.Dir + "/sinks/s"
	brokertest.NewSocket(t, path).Close()
	unix.Mknod(path, unix.S_IFSOCK|0o600, 0) // nobody is there, but its entry is
	becomes(t, b, "s", "absent")
	other := brokertest.NewSink(t, b.Dir)
	stop := make(chan struct{})
	got := drained(other, stop, nil)
	sent := flood(brokertest.NewSource(t, b.Dir), 1, 1000, stop)
	s := becomes(t, b, "s", "lagging", "absent")
	test.Eventually(t, "it loses", func() bool { s, _ = static(b, "s"); return s.Lost > 2000 })
	if blocked := blockedFor(b); blocked < 250*time.Millisecond || blocked > 2*time.Second {
		t.Errorf("the sources waited for %s", blocked)
	}
	close(stop)
	n := <-sent
	if g := <-got; g != n {
		t.Errorf("the other sink received %d of %d", g, n)
	}
	s, _ = static(b, "s")
	if s.State != "absent" || s.Accepted != 0 || s.Lost+s.Waiting != n {
		t.Errorf("%+v of %d", s, n)
	}
	removeFile(t, path)
	sink := brokertest.NewSocket(t, path)
	receiveSeq(t, sink, 1, s.Lost, n)
}

// TestStaticFolderGone: a folder that is removed and made again is watched again.
func TestStaticFolderGone(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, func(cfg *broker.Config) { broker.SetGoneAfter(cfg, 100*time.Millisecond) })
	brokertest.NewSocket(t, b.Dir+"/sinks/a")
	becomes(t, b, "a", "ready")
	if err := os.RemoveAll(b.Dir + "/sinks"); err != nil {
		t.Fatal(err)
	}
	test.Eventually(t, "it is gone", func() bool { return b.Channel.Status().Sinks.Total == 0 })
	if err := os.Mkdir(b.Dir+"/sinks", 0o755); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	brokertest.NewSocket(t, b.Dir+"/sinks/b")
	becomes(t, b, "b", "ready")
}

// TestStaticFolderHeld: that the folder was made anew is noticed soon, also where there was nothing in the old one, and somebody has that
// open still, so that the kernel tells of nothing.
func TestStaticFolderHeld(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t)
	held, err := os.Open(b.Dir + "/sinks")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	time.Sleep(100 * time.Millisecond) // it is watched
	if err := os.RemoveAll(b.Dir + "/sinks"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(b.Dir+"/sinks", 0o755); err != nil {
		t.Fatal(err)
	}
	brokertest.NewSocket(t, b.Dir+"/sinks/b")
	becomes(t, b, "b", "ready")
}

// cpuTime is what a process has used so far.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var user, system int64
	fmt.Sscan(fields[11], &user)
	fmt.Sscan(fields[12], &system)
	return time.Duration(user+system) * time.Second / 100 // USER_HZ
}

// TestStaticIdle: static sinks that are gone, absent, or that refuse what they are sent but not to be connected to, cost
// next to nothing.
func TestStaticIdle(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "--buffer", "1M", "--log-level", "error")
	brokertest.NewSocket(t, p.Dir+"/sinks/removed").Close() // which removes the file, too
	deaf := brokertest.NewSocket(t, p.Dir+"/sinks/deaf")
	raw, _ := deaf.Conn.SyscallConn()
	raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RD) })
	os.Symlink("nowhere", p.Dir+"/sinks/absent")
	gone := brokertest.NewSocket(t, p.Dir+"/sinks/gone")
	test.Eventually(t, "all are seen", func() bool { st, _ := p.status(t); return st.Sinks.Static >= 3 })
	removeFile(t, gone.Name)
	sink := brokertest.NewSink(t, p.Dir)
	source := brokertest.NewSource(t, p.Dir)
	for i := range uint64(5) {
		if err := source.Send(stamped(1, i, 100)); err != nil {
			t.Fatal(err)
		}
		receiveSeq(t, sink, 1, i, i+1)
	}
	time.Sleep(500 * time.Millisecond)
	before := cpuTime(t, p.cmd.Process.Pid)
	time.Sleep(2 * time.Second)
	if used := cpuTime(t, p.cmd.Process.Pid) - before; used > 100*time.Millisecond {
		t.Errorf("an idle broker used %s of CPU in 2 s", used)
	}
}

// TestStaticFlag: sinks on the command line, with options, and SIGHUP.
func TestStaticFlag(t *testing.T) {
	t.Parallel()
	dir := test.Folder(t)
	sink := brokertest.NewSocket(t, dir+"/a")
	p := startProcess(t, "--buffer", "1M", "--sink", sink.Name+",patience=forever,frames=yes,label=first", "--sink", dir+"/later")
	find := func(label, state string) wire.Sink {
		var found wire.Sink
		test.Eventually(t, label+" is "+state, func() bool {
			_, sinks := p.status(t)
			for _, s := range sinks {
				if s.Label == label && s.State == state {
					found = s
				}
			}
			return found.ID != 0
		})
		return found
	}
	if s := find("first", "ready"); s.Patience != "forever" || !s.Frames || s.Kind != "static" {
		t.Errorf("%+v", s)
	}
	id := find("later", "absent").ID
	time.Sleep(3300 * time.Millisecond) // it was tried after 3.1 s, and would be 2 s later
	later := brokertest.NewSocket(t, dir+"/later")
	began := time.Now()
	p.signal(t, syscall.SIGHUP)
	if s := find("later", "ready"); s.ID != id {
		t.Errorf("%+v", s)
	}
	if took := time.Since(began); took > 1400*time.Millisecond { // by itself it would after 1.8 s
		t.Errorf("connected %s after SIGHUP", took)
	}
	if err := brokertest.NewSource(t, p.Dir).Send(stamped(1, 0, 50)); err != nil {
		t.Fatal(err)
	}
	receiveSeq(t, later, 1, 0, 1)
	if _, err := sink.Receive(); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"relative", "/p,colour=red", "/p,patience=soon", "/p,tap=yes,share=x", "@abstract"} {
		out, err := exec.Command(programPath(t), "--runtime-dir", filepath.Join(dir, "x"), "--sink", bad).CombinedOutput()
		if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() != 2 || strings.Count(string(out), "\n") != 2 || !strings.HasSuffix(string(out), "Try 'msgmuxd --help'.\n") {
			t.Errorf("--sink %s: %v, %q", bad, err, out)
		}
	}
}

// TestStaticBoundAnew: whatever a declared path leads to, when it is made anew while somebody has the old one open, the new one is
// the sink within 2 s, where the old one stopped, and what lies unread in the old one is told.
func TestStaticBoundAnew(t *testing.T) {
	dir := test.Folder(t)
	const agent = "/agent"
	for name, how := range map[string]struct {
		declare func(b *brokertest.Broker) // sinks/s
		anew    func(b *brokertest.Broker) *brokertest.Sink
	}{
		"the socket that a link leads to": {
			func(b *brokertest.Broker) {
				brokertest.NewSocket(t, dir+agent)
				os.Symlink(dir+agent, b.Dir+"/sinks/s")
			},
			func(*brokertest.Broker) *brokertest.Sink {
				removeFile(t, dir+agent)
				return brokertest.NewSocket(t, dir+agent)
			}},
		"a link on the way": {
			func(b *brokertest.Broker) {
				os.Mkdir(dir+"/v1", 0o755)
				os.Mkdir(dir+"/v2", 0o755)
				os.Symlink("v1", dir+"/current")
				brokertest.NewSocket(t, dir+"/v1/s")
				os.Symlink(dir+"/current/s", b.Dir+"/sinks/s")
			},
			func(*brokertest.Broker) *brokertest.Sink {
				os.Symlink("v2", dir+"/next")
				os.Rename(dir+"/next", dir+"/current")
				return brokertest.NewSocket(t, dir+"/v2/s")
			}},
		"the socket in the folder": {
			func(b *brokertest.Broker) { brokertest.NewSocket(t, b.Dir+"/sinks/s") },
			func(b *brokertest.Broker) *brokertest.Sink {
				removeFile(t, b.Dir+"/sinks/s")
				return brokertest.NewSocket(t, b.Dir+"/sinks/s")
			}},
	} {
		t.Run(name, func(t *testing.T) {
			log := &keptLog{}
			b := brokertest.Start(t, keepLog(log))
			how.declare(b)
			id := becomes(t, b, "s", "ready").ID
			source := brokertest.NewSource(t, b.Dir)
			if err := source.Send(stamped(1, 0, 100)); err != nil {
				t.Fatal(err)
			}
			test.Eventually(t, "the old one has it", func() bool { return sinkOf(t, b, id).Accepted == 1 })
			anew := how.anew(b)
			// Whoever sends does not help to notice: the old one takes it all.
			log.logged(t, 1, "stays where its path led", "sink=s")
			becomes(t, b, "s", "ready")
			if err := source.Send(stamped(1, 1, 100)); err != nil {
				t.Fatal(err)
			}
			receiveSeq(t, anew, 1, 1, 2)
			if s := sinkOf(t, b, id); s.Accepted != 2 || s.Lost != 0 || s.Unread != 1 || counted(b).Unread != 1 {
				t.Errorf("%+v; of the channel %d are unread", s, b.Channel.Status().Unread)
			}
		})
	}
}
