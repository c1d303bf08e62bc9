// SPDX-License-Identifier: Apache-2.0

package view

import (
	"context"
	"encoding/binary"
	"maps"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// lies is a broker for one connection at a time that says anything.
type lies struct {
	*testing.T
	*net.UnixConn
}

func (l lies) say(b string, fds ...int) {
	if _, _, err := l.WriteMsgUnix([]byte(b), unix.UnixRights(fds...), nil); err != nil && !strings.Contains(err.Error(), "broken pipe") {
		l.Error(err)
	}
}

// attach sends descriptors with a packet of no bytes, which a WriteMsgUnix does not.
func (l lies) attach(fds ...int) {
	raw, err := l.SyscallConn()
	if err != nil {
		l.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		if e := sys.SendDescriptors(int(fd), nil, fds...); e != 0 {
			l.Error(e)
		}
	}); err != nil {
		l.Error(err)
	}
}

// file makes a memfd of that size, with those words in it by their offset, and seals it unless told otherwise.
func (l lies) file(size int64, sealed bool, words map[int]uint64) (fd int) {
	fd, err := unix.MemfdCreate("lies", unix.MFD_ALLOW_SEALING|unix.MFD_CLOEXEC)
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { sys.Close(fd) })
	if err := unix.Ftruncate(fd, size); err != nil {
		l.Fatal(err)
	}
	for at, word := range words {
		if _, err := unix.Pwrite(fd, binary.LittleEndian.AppendUint64(nil, word), int64(at)); err != nil {
			l.Fatal(err)
		}
	}
	if sealed {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
			l.Fatal(err)
		}
	}
	return fd
}

// ring is a ring of 64 KiB, but for those words.
func (l lies) ring(but map[int]uint64) int {
	words := map[int]uint64{PublishedAt + MagicAt: Magic, PublishedAt + RingAt: testRingAt, PublishedAt + SizeAt: testRing, PublishedAt + GenerationAt: 1}
	maps.Copy(words, but)
	return l.file(testRingAt+testRing, true, words)
}

func (l lies) page(but map[int]uint64) int { return l.file(PageSize, true, but) }

// stage is a stage with a ring of 64 KiB, which no broker makes, but for those words.
func (l lies) stage(but map[int]uint64) int {
	words := map[int]uint64{StageMagicAt: StageMagic, StageRingAt: testRingAt, StageSizeAt: testRing}
	maps.Copy(words, but)
	return l.file(testRingAt+testRing, true, words)
}

const (
	sixteen = "0123456789abcdef" // what wakes a sink
	granted = "ok id=1 next=0"
)

// brokersLies are what a broker may say, and what has to come of it.
var brokersLies = []struct {
	kind, want string
	say        func(l lies)
}{
	{"sink", "open: Connection reset by peer after none, ", func(lies) {}},
	{"sink", "open: Protocol error after none, error quota no more", func(l lies) { l.say("error quota no more") }},
	{"sink", "open: Protocol error after none, error quota 16", func(l lies) { l.say("error quota 16  ") }},
	{"sink", "open: Protocol error after none, anything", func(l lies) { l.say("anything") }},
	{"sink", "open: Bad message after none, ", func(l lies) { l.say(strings.Repeat("x", 2000)) }},
	{"sink", "open: Connection reset by peer after none, ok", func(l lies) { l.say(granted) }},
	{"sink", "open: Protocol error after none, error busy not now", func(l lies) { l.say(granted); l.say("error busy not now") }},
	{"sink", "open: Bad message after none, ok", func(l lies) { l.say(granted); l.say(sixteen) }},
	{"sink", "open: Bad message after none, ok", func(l lies) { l.say(granted); l.say(sixteen, l.ring(nil)) }},
	{"sink", "open: Bad message after none, ok", func(l lies) { l.say(granted); l.say(sixteen, l.ring(nil), l.page(nil), l.page(nil)) }},
	{"sink", "open: Bad message after none, ok", func(l lies) { l.say(granted, l.ring(nil)) }},
	{"sink", "open: Bad message after none, ok", func(l lies) { l.say(granted); l.attach(l.ring(nil), l.page(nil)); l.say(sixteen) }},
	{"sink", "open: Connection reset by peer after none, ok", func(l lies) { l.say(granted); l.attach(l.ring(nil), l.page(nil)) }},
	{"sink", "open: Bad message after none, ok", func(l lies) { l.say(granted); l.say(sixteen, int(l.pipe()), l.page(nil)) }},
	{"sink", "open: Bad message after none, ok", func(l lies) { l.say(granted); l.say(sixteen, l.file(1<<20, false, nil), l.page(nil)) }},
	{"sink", "open: Bad message after none, ok", func(l lies) { l.say(granted); l.say(sixteen, l.file(4096, true, nil), l.page(nil)) }},
	{"sink", "open: Bad message after none, ok", func(l lies) { l.badRing(PublishedAt+MagicAt, 1) }},
	{"sink", "open: Bad message after none, ok", func(l lies) { l.badRing(PublishedAt+SizeAt, 65535) }},
	{"sink", "open: Bad message after none, ok", func(l lies) { l.badRing(PublishedAt+SizeAt, 0) }},
	{"sink", "open: Bad message after none, ok", func(l lies) { l.badRing(PublishedAt+SizeAt, 1<<63) }},
	{"sink", "open: Bad message after none, ok", func(l lies) { l.badRing(PublishedAt+SizeAt, 128<<10) }},
	{"sink", "open: Bad message after none, ok", func(l lies) { l.badRing(PublishedAt+RingAt, 65536+4096) }},
	{"sink", "open: Bad message after none, ok", func(l lies) { l.badRing(PublishedAt+RingAt, 1<<64-4096) }},
	{"sink", "open: Invalid argument after none, ok", func(l lies) { l.badRing(PublishedAt+RingAt, 8) }},
	{"sink", "open: Bad message after none, ok", func(l lies) { l.say(granted); l.say(sixteen, l.ring(nil), l.file(PageSize, false, nil)) }},
	{"sink", "open: Bad message after none, ok", func(l lies) { l.say(granted); l.say(sixteen, l.ring(nil), l.file(100, true, nil)) }},

	{"sink", "use: end after none, ok", func(l lies) { l.say(granted); l.say(sixteen, l.ring(nil), l.page(nil)) }},
	{"sink", "use: end after none, error bad-ack you", func(l lies) { l.begin(nil, nil); l.say("error bad-ack you") }},
	{"sink", "use: end after some, ok", func(l lies) { l.begin(map[int]uint64{PublishedAt + HeadAt: 64}, nil) }},
	{"sink", "use: Bad message after none, ok", func(l lies) { l.begin(map[int]uint64{PublishedAt + HeadAt: 3}, nil) }},
	{"sink", "use: Bad message after none, ok", func(l lies) { l.begin(map[int]uint64{PublishedAt + HeadAt: testRing + 4}, nil) }},
	{"sink", "use: Bad message after none, ok", func(l lies) { l.begin(map[int]uint64{PublishedAt + HeadAt: 8}, map[int]uint64{StartAt: 1 << 40}) }},
	{"sink", "use: Bad message after none, ok", func(l lies) {
		l.begin(map[int]uint64{PublishedAt + HeadAt: 1 << 20}, map[int]uint64{StartAt: 1<<20 - 6})
	}},
	{"sink", "use: Bad message after none, ok", func(l lies) {
		l.begin(map[int]uint64{PublishedAt + HeadAt: 64, testRingAt: 1<<32 - 1}, nil)
	}},
	{"sink", "use: Bad message after none, ok", func(l lies) { l.begin(map[int]uint64{PublishedAt + HeadAt: 64, testRingAt: 61}, nil) }},
	{"sink", "use: Bad message after some, ok", func(l lies) {
		l.begin(map[int]uint64{PublishedAt + HeadAt: 1 << 62, PublishedAt + TailAt: 1<<62 - testRing, PublishedAt + TailSeqAt: 5,
			PublishedAt + TailAgainAt: 1<<62 - testRing, testRingAt + testRing - 8: 100 << 32}, nil)
	}},
	{"sink", "use: Bad message after none, ok", func(l lies) { l.begin(nil, nil); l.say(sixteen, l.ring(nil)) }},
	{"sink", "use: Bad message after none, ok", func(l lies) { l.begin(nil, nil); l.say(sixteen, l.page(nil), l.ring(nil)) }},
	{"sink", "use: end after some, ok", func(l lies) { // moved
		l.begin(nil, nil)
		l.say(sixteen, l.ring(map[int]uint64{PublishedAt + HeadAt: 64}), l.page(nil))
	}},
	{"sink", "use: end after none, error over now", func(l lies) {
		l.begin(map[int]uint64{PublishedAt + HeadAt: 64}, map[int]uint64{OverAt: 1})
		l.say("error over now")
	}},

	{"source", "open: Connection reset by peer after none, ", func(lies) {}},
	{"source", "open: Protocol error after none, error bad-option no", func(l lies) { l.say("error bad-option no") }},
	{"source", "open: Bad message after none, ok", func(l lies) { l.say(granted); l.say("\x00") }},
	{"source", "open: Bad message after none, ok", func(l lies) { l.say(granted); l.say("\x00", l.stage(nil), l.page(nil)) }},
	{"source", "open: Bad message after none, ok", func(l lies) { l.say(granted); l.say("\x00", l.file(1<<20, false, nil)) }},
	{"source", "open: Bad message after none, ok", func(l lies) {
		l.say(granted)
		l.say("\x00", l.stage(map[int]uint64{StageSizeAt: 1 << 40}))
	}},
	{"source", "use: Broken pipe after some, ok", func(l lies) { l.say(granted); l.say("\x00", l.stage(nil)) }},
	{"source", "use: Broken pipe after none, error bad-packet it", func(l lies) {
		l.say(granted)
		l.say("\x00", l.stage(map[int]uint64{StageOverAt: 1}))
		l.say("error bad-packet it")
	}},
	{"source", "use: Message too long after some, ok", func(l lies) { // another stage, with more taken than was written
		l.say(granted)
		l.say("\x00", l.stage(nil))
		l.say("\x00", l.stage(map[int]uint64{StageSizeAt: 4096, StageTakenAt: 4*20004 - 100}))
	}},
	{"source", "use: Broken pipe after none, ok", func(l lies) { // more taken than was written
		l.say(granted)
		l.say("\x00", l.stage(map[int]uint64{StageTakenAt: 1 << 40}))
		l.say("\x00")
	}},
	{"source", "use: Broken pipe after some, ok", func(l lies) {
		l.say(granted)
		l.say("\x00", l.stage(map[int]uint64{StageHeadAt: 1<<64 - 4096, StageTakenAt: 1<<64 - 8192}))
		l.say("\x00")
	}},
}

func (l lies) pipe() uintptr {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { sys.Close(fds[0]); sys.Close(fds[1]) })
	return uintptr(fds[0])
}

// badRing sends a ring with a word that is wrong.
func (l lies) badRing(at int, word uint64) {
	l.say(granted)
	l.say(sixteen, l.ring(map[int]uint64{at: word}), l.page(nil))
}

// begin sends a ring and a page with some words in them.
func (l lies) begin(ring, page map[int]uint64) {
	l.say(granted)
	l.say(sixteen, l.ring(ring), l.page(page))
}

// TestPromise12_LyingBrokers: whatever a broker says, the header for C neither reads beyond what it has mapped nor spins, says what was
// wrong, and leaves no descriptor and no mapping behind. It is watched by the sanitizers for addresses and for undefined behaviour.
func TestPromise12_LyingBrokers(t *testing.T) {
	program := buildC(t, "liar", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
	path := test.Folder(t) + "/broker"
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	args := []string{path}
	for _, lie := range brokersLies {
		args = append(args, lie.kind)
	}
	over := make(chan struct{})
	defer func() { listener.Close(); <-over }()
	go func() {
		defer close(over)
		for _, lie := range brokersLies {
			conn, err := listener.AcceptUnix()
			if err != nil {
				return
			}
			if _, err := conn.Read(make([]byte, wire.MaxHello)); err != nil {
				t.Error(err)
			}
			lie.say(lies{t, conn})
			conn.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // one that spins does not outlive the test
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%v", err)
	}
	said := slices.Collect(strings.Lines(string(out)))
	for i, lie := range brokersLies {
		if i >= len(said) || !strings.HasPrefix(said[i], lie.want) {
			t.Fatalf("lie %d should lead to %q:\n%s", i, lie.want, out)
		}
	}
	if len(said) > len(brokersLies) {
		t.Errorf("%s", out)
	}
}

// TestPromise12_EndToldFirstInC: what the broker sent before it hung up is received, also where the kernel tells of the end first, in either
// form or in both.
func TestPromise12_EndToldFirstInC(t *testing.T) {
	if out, err := exec.Command(buildC(t, "ended")).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// buildC builds one of the programs in testdata, with the header for C, as a C program that warns of nothing.
func buildC(t *testing.T, name string, flags ...string) (program string) {
	t.Helper()
	gcc := need.Program(t, "unit", "gcc", "gcc libc6-dev")
	program = t.TempDir() + "/" + name
	args := append([]string{"-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O2", "-I../../docs/examples/view"}, flags...)
	if out, err := exec.Command(gcc, append(args, "-o", program, "testdata/"+name+".c")...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}
