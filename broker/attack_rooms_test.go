// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/wire"
)

// Attacks that are not held yet. Each test runs only when it is asked for, and fails until its attack is:
//
//	MSGMUX_ATTACKS=1 go test ./broker -run TestAttack
func notHeldYet(t *testing.T) {
	t.Helper()
	if os.Getenv("MSGMUX_ATTACKS") == "" {
		t.Skip("not held yet: set MSGMUX_ATTACKS to see it")
	}
	needRoot(t)
}

// TestAttackOptionsFile: an options file that is a FIFO, or has no end, is a bad file like another: defaults, and a line.
func TestAttackOptionsFile(t *testing.T) {
	notHeldYet(t)
	for _, kind := range []string{"fifo", "endless"} {
		t.Run(kind, func(t *testing.T) {
			log := &keptLog{}
			options, change := optionsIn(t)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			b := brokertest.Start(t, keepLog(log), change)
			if kind == "fifo" {
				if err := unix.Mkfifo(options+"/bad.conf", 0o644); err != nil {
					t.Fatal(err)
				}
				// Whoever waits for a writer has one in the end, so that the broker can stop.
				defer func() {
					f, err := os.OpenFile(options+"/bad.conf", os.O_WRONLY|unix.O_NONBLOCK, 0)
					os.Remove(options + "/bad.conf")
					if err == nil {
						f.Close()
					}
				}()
			} else if err := os.Truncate(create(t, options+"/bad.conf"), 1<<30); err != nil {
				t.Fatal(err)
			}
			brokertest.NewSocket(t, b.Dir+"/sinks/bad")
			brokertest.NewSocket(t, b.Dir+"/sinks/good")
			becomes(t, b, "good", "ready")
			becomes(t, b, "bad", "ready")
			log.logged(t, 1, "options of a static sink are not used")
			if runtime.ReadMemStats(&after); after.TotalAlloc-before.TotalAlloc > 256<<20 {
				t.Errorf("%d MiB for a file of options", (after.TotalAlloc-before.TotalAlloc)>>20)
			}
		})
	}
}

func create(t *testing.T, path string) string {
	t.Helper()
	writeFile(t, path, "")
	return path
}

// TestAttackLabelSquatting: a declared sink has its name, whatever sinks there are already, so that what an administrator
// says about that name is about that sink.
func TestAttackLabelSquatting(t *testing.T) {
	notHeldYet(t)
	b := brokertest.Start(t)
	openToAll(t, b.Dir)
	mine := strangersSocket(t, brokertest.Name())
	r := registerAs(t, b.Dir, stranger, nil, mine.Name, "label=archive")
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	brokertest.NewSocket(t, b.Dir+"/sinks/archive")
	brokertest.Eventually(t, "the declared sink is there", func() bool {
		_, sinks := b.Channel.List()
		return len(sinks) == 2
	})
	_, sinks := b.Channel.List()
	for _, s := range sinks {
		if declared := s.Kind == "static"; declared != (s.Label == "archive") {
			t.Errorf("the %s sink is called %s", s.Kind, s.Label)
		}
	}
}

// TestAttackSilentJournal: a user with many labels and many reasons does not silence what is said about others.
func TestAttackSilentJournal(t *testing.T) {
	notHeldYet(t)
	log := &keptLog{}
	b := brokertest.Start(t, keepLog(log), withPatience(50*time.Millisecond), func(cfg *broker.Config) {
		cfg.Geometry.MaxSinks, cfg.SinksPerUser = 1024, 1024
	})
	openToAll(t, b.Dir)
	stop := make(chan struct{})
	reader := brokertest.NewSink(t, b.Dir)
	got := drained(reader, stop, nil)
	sent := flood(brokertest.NewSource(t, b.Dir), 1, 1000, stop)
	// 600 sinks that hang, one name each: more than the limiter knows.
	for i := range 600 {
		s := strangersSocket(t, brokertest.Name())
		if r := registerAs(t, b.Dir, stranger, nil, s.Name, fmt.Sprintf("label=loud-%d", i), "patience=1ms"); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	brokertest.Eventually(t, "they are left behind", func() bool { return b.Channel.Status().Sinks.Lagging > 550 })
	victim := brokertest.NewSink(t, b.Dir, "label=victim")
	lagging(t, b, victim.ID)
	brokertest.Eventually(t, "the journal says that root's sink is left behind", func() bool { return len(log.grep("sink-lagging", "sink=victim")) > 0 })
	close(stop)
	<-sent
	<-got
}

// TestAttackAllPlaces: ordinary users, however many, leave a tenth of the sinks and of the connected sources to root and to
// declared sinks.
func TestAttackAllPlaces(t *testing.T) {
	notHeldYet(t)
	b := brokertest.Start(t, func(cfg *broker.Config) { cfg.Geometry.MaxSinks, cfg.SinksPerUser = 40, 40 })
	openToAll(t, b.Dir)
	taken := 0
	for range 40 {
		s := strangersSocket(t, brokertest.Name())
		if r := registerAs(t, b.Dir, stranger, nil, s.Name); r.Err == nil {
			taken++
		}
	}
	if taken != 36 {
		t.Errorf("an ordinary user has %d of 40 places", taken)
	}
	if r := brokertest.Register(t, b.Dir, brokertest.NewSocket(t, brokertest.Name()).Name); r.Err != nil {
		t.Errorf("root: %v", r.Err)
	}
	brokertest.NewSocket(t, b.Dir+"/sinks/declared")
	becomes(t, b, "declared", "ready")
}

// TestAttackBorrowedRoot: a program that root runs writes to whatever it was given as its output. What it writes, with
// root's credentials, into a socket that somebody connected to register gives him none of root's rights.
func TestAttackBorrowedRoot(t *testing.T) {
	notHeldYet(t)
	b := brokertest.Start(t)
	openToAll(t, b.Dir)
	foreign := brokertest.NewSocket(t, brokertest.Name()) // root's own, and nobody asked for it to be a sink
	sink := brokertest.NewSink(t, b.Dir)
	theirs := strangersSocket(t, brokertest.Name())
	if r := registerAs(t, b.Dir, stranger, nil, theirs.Name); r.Err != nil {
		t.Fatal(r.Err)
	}
	var connected *net.UnixConn
	asStranger(func() {
		var err error
		if connected, err = net.DialUnix("unixgram", nil, &net.UnixAddr{Name: b.Dir + "/register", Net: "unixgram"}); err != nil {
			t.Error(err)
		}
	})
	defer connected.Close()
	for _, text := range []string{theirs.Name + "\npatience=1m", sink.Name + "\nremove", strangersSocket(t, brokertest.Name()).Name, foreign.Name + "\npatience=forever"} {
		if _, err := connected.Write([]byte(text)); err != nil { // root's process, the stranger's socket
			t.Fatal(err)
		}
	}
	time.Sleep(500 * time.Millisecond)
	_, sinks := b.Channel.List()
	if len(sinks) != 2 {
		t.Errorf("there are %d sinks instead of root's and the stranger's", len(sinks))
	}
	for _, s := range sinks {
		if s.UID == stranger && s.Patience != "1s" {
			t.Errorf("the stranger's sink has a patience of %s", s.Patience)
		}
	}
}

// TestAttackLinkHop: a declared sink that is a link into somebody's folder leads to that somebody's socket, and not by
// another hop, which he plants there, to one that only the broker may write to.
func TestAttackLinkHop(t *testing.T) {
	notHeldYet(t)
	b := brokertest.Start(t)
	openToAll(t, b.Dir)
	for _, dir := range []string{"/private", "/theirs"} {
		if err := os.Mkdir(b.Dir+dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	private := brokertest.NewSocket(t, b.Dir+"/private/in")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Chown(b.Dir+"/theirs", stranger, stranger))
	must(os.Symlink(private.Name, b.Dir+"/theirs/in"))
	must(os.Lchown(b.Dir+"/theirs/in", stranger, stranger))
	must(os.Symlink(b.Dir+"/theirs/in", b.Dir+"/sinks/hop"))
	reader := brokertest.NewSink(t, b.Dir)
	brokertest.Eventually(t, "the sink is declared", func() bool {
		_, sinks := b.Channel.List()
		return len(sinks) == 2
	})
	time.Sleep(500 * time.Millisecond)
	must(brokertest.NewSource(t, b.Dir).Send([]byte("a message")))
	if _, err := reader.Receive(); err != nil {
		t.Fatal(err)
	}
	receivesNothing(t, private, "a socket in root's folder, by way of a stranger's link,")
}

// TestAttackBoughtWakeUps: entries of poll(2) on a sink's or source's own socket, for events that never come, cost whoever
// sends to it a walk through them all, and that is not to be the others' time.
func TestAttackBoughtWakeUps(t *testing.T) {
	notHeldYet(t)
	for _, socket := range []string{"subscribe", "publish"} {
		t.Run(socket, func(t *testing.T) {
			b := brokertest.Start(t)
			openToAll(t, b.Dir)
			got := paced(t, b)
			rate := func(d time.Duration) float64 {
				n, began := got.Load(), time.Now()
				time.Sleep(d)
				return float64(got.Load()-n) / time.Since(began).Seconds()
			}
			whole := rate(time.Second)
			be(t, &hog{Dir: b.Dir, Socket: socket, Many: 1, Entries: 1_000_000})
			time.Sleep(6 * time.Second)
			rest := rate(3 * time.Second)
			t.Logf("%.0f messages/s before, %.0f meanwhile", whole, rest)
			if rest < 0.8*whole {
				t.Errorf("%.0f messages/s before, %.0f meanwhile", whole, rest)
			}
		})
	}
}

// poll has a million entries on one descriptor, in threads of their own, and reads or sends all the time.
func (h *hog) poll(conn *net.UnixConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	// poll(2) takes as many entries as there may be descriptors.
	var limit unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	each := min(int(limit.Cur), h.Entries)
	raw.Control(func(fd uintptr) {
		for range h.Entries / each {
			go func() {
				entries := make([]unix.PollFd, each)
				for i := range entries {
					entries[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLPRI}
				}
				for {
					unix.Poll(entries, -1)
				}
			}()
		}
		b := make([]byte, 256<<10)
		packet := wire.AppendRecord(nil, []byte(strings.Repeat("x", 100)))
		for {
			if h.Socket == "publish" {
				unix.Write(int(fd), packet)
			} else {
				unix.Read(int(fd), b)
			}
		}
	})
}
