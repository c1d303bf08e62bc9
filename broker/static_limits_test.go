// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestStaticFolderUnreadable: a folder that cannot be read just now, because the process has no descriptor left, says
// nothing about its entries. They stay as they are.
func TestStaticFolderUnreadable(t *testing.T) {
	log := &keptLog{}
	b := brokertest.Start(t, keepLog(log), func(cfg *broker.Config) { broker.SetGoneAfter(cfg, 50*time.Millisecond) })
	sink := brokertest.NewSocket(t, b.Dir+"/sinks/s")
	id := becomes(t, b, "s", "ready").ID
	source := brokertest.NewSource(t, b.Dir)

	withoutDescriptors(t, func() {
		b.Channel.Rescan()
		for range 300 {
			if s, ok := static(b, "s"); !ok || s.State != "ready" {
				t.Errorf("%+v, there: %v", s, ok)
				break
			}
			time.Sleep(time.Millisecond)
		}
	})
	log.logged(t, 1, "cannot read the folder")
	if s := becomes(t, b, "s", "ready"); s.ID != id {
		t.Errorf("it is another sink now: %+v", s)
	}
	if err := source.Send(stamped(1, 0, 100)); err != nil {
		t.Fatal(err)
	}
	receiveSeq(t, sink, 1, 0, 1)
}

// withoutDescriptors runs f while the process can open no descriptor.
func withoutDescriptors(t *testing.T, f func()) {
	t.Helper()
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	// The limit is on the number of a descriptor: what is free below the highest one has to be taken.
	highest := 0
	entries, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if n, _ := strconv.Atoi(filepath.Base(e)); n > highest {
			highest = n
		}
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(highest + 1), Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old)
	var taken []*os.File
	for {
		file, err := os.Open("/dev/null")
		if err != nil {
			break
		}
		taken = append(taken, file)
	}
	defer func() {
		for _, file := range taken {
			file.Close()
		}
	}()
	f()
}

// TestStaticSinksAreCounted: those that are absent take a place too, of the table and of what may wait in the kernel: they
// may be back at any time, when nobody is asked.
func TestStaticSinksAreCounted(t *testing.T) {
	log := &keptLog{}
	b := brokertest.Start(t, keepLog(log), func(cfg *broker.Config) {
		cfg.Geometry.MaxSinks = 3
		for i := range 5 {
			if err := os.Symlink("nowhere", fmt.Sprintf("%s/absent%d", cfg.SinksDir, i)); err != nil {
				t.Fatal(err)
			}
		}
	})
	log.logged(t, 1, "static sink not added", "max-sinks")
	if n := b.Channel.Status().Sinks.Total; n != 3 {
		t.Errorf("%d sinks where there may be 3", n)
	}
	if r := brokertest.Register(t, b.Dir, brokertest.NewSocket(t, brokertest.Name()).Name); r.Err == nil || r.Err.Code != wire.CodeQuota {
		t.Errorf("one more: %+v", r)
	}
}

// TestStaticFlagIsTriedAgain: a sink on the command line for which there is no place at the start has one as soon as somebody leaves
// his, as an entry of the folder has.
func TestStaticFlagIsTriedAgain(t *testing.T) {
	plain, fixed := brokertest.NewSocket(t, brokertest.Name()), brokertest.NewSocket(t, test.Folder(t)+"/fixed")
	log := &keptLog{}
	b := brokertest.StartWith(t, onePlace(t, fixed, ring.Spec{Kind: ring.Dynamic, Label: "plain", Address: plain.Name, UID: uint32(os.Getuid())},
		stored(t, plain, 1)), keepLog(log))
	log.logged(t, 1, "static sink not added", "sink=fixed", "max-sinks")
	b.Channel.Rescan()
	if e := b.Channel.Drop(0, "plain"); e != nil {
		t.Fatal(e)
	}
	b.Channel.Rescan()
	becomes(t, b, "fixed", "ready")
	log.logged(t, 1, "static sink not added") // and not with each scan
}

// TestStaticFlagTakesAPlace: what a predecessor had on its command line keeps its place only until it is found to be there no more, and
// then it is that of what this one has.
func TestStaticFlagTakesAPlace(t *testing.T) {
	fixed := brokertest.NewSocket(t, test.Folder(t)+"/fixed")
	b := brokertest.StartWith(t, onePlace(t, fixed, ring.Spec{Kind: ring.Static, Label: "undeclared", Address: "/nowhere"}))
	becomes(t, b, "fixed", "ready")
	if n := b.Channel.Status().Sinks.Total; n != 1 {
		t.Errorf("%d sinks where there may be 1", n)
	}
}

// onePlace has a broker go on with a ring whose only place that sink has, and another one on its command line.
func onePlace(t *testing.T, fixed *brokertest.Sink, there ring.Spec, sockets ...activation.Stored) func(*broker.Config, *activation.Set) {
	return func(cfg *broker.Config, in *activation.Set) {
		cfg.Geometry.MaxSinks = 1
		cfg.Sinks = []broker.StaticSink{{Address: wire.Address{Name: fixed.Name}}}
		data, state := ringWith(t, 0, ring.Salvaged{Spec: there})
		in.Data, in.State, in.Stored = []activation.Descriptor{data}, []activation.Descriptor{state}, sockets
	}
}
