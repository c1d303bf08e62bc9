// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is one running part of a cell.
type process struct {
	cmd   *exec.Cmd
	log   string        // file with what it printed
	ended chan struct{} // closed when it has been waited for
}

// start runs argv in folder dir with the board as descriptor 3. What it prints
// goes to a file, so that nobody has to be awake to read it.
func start(argv []string, dir, log string, board *os.File) (*process, error) {
	p := &process{cmd: exec.Command(argv[0], argv[1:]...), log: log, ended: make(chan struct{})}
	f, err := os.Create(log)
	if err != nil {
		return nil, fmt.Errorf("cannot create log: %w", err)
	}
	defer f.Close()
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = f, f, dir
	p.cmd.ExtraFiles = []*os.File{board}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", filepath.Base(argv[0]), err)
	}
	go func() {
		p.cmd.Wait() // how it ended does not matter: a process that ends is a failure
		close(p.ended)
	}()
	return p, nil
}

func (p *process) gone() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// said is the end of what it printed.
func (p *process) said() string {
	b, _ := os.ReadFile(p.log)
	return strings.TrimSpace(string(b[max(0, len(b)-400):]))
}

// kill ends it and waits until it is gone.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

// cpu is the user and system time of all its threads, from its CPU clock
// (clock_getcpuclockid(3)); exact to the nanosecond, unlike the ticks in stat.
func (p *process) cpu() time.Duration {
	if p == nil {
		return 0
	}
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid)<<3|2, &t); err != nil {
		return 0 // it has ended, which the caller sees elsewhere
	}
	return time.Duration(t.Nano())
}

func (p *process) proc(name string) string {
	return filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), name)
}

// switches counts how often its threads have left the CPU.
func (p *process) switches() (n uint64) {
	if p == nil {
		return 0
	}
	tasks, _ := filepath.Glob(p.proc("task/*/status"))
	for _, f := range tasks {
		for name, v := range kernelTable(f) {
			if strings.HasSuffix(name, "voluntary_ctxt_switches") {
				n += v
			}
		}
	}
	return n
}

// kernelTable reads a file of lines "Name:  NUMBER [kB]".
func kernelTable(file string) map[string]uint64 {
	t := map[string]uint64{}
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		name, rest, ok := strings.Cut(line, ":")
		if f := strings.Fields(rest); ok && len(f) > 0 {
			if v, err := strconv.ParseUint(f[0], 10, 64); err == nil {
				t[name] = v
			}
		}
	}
	return t
}

// Memory is what a process holds, in MiB. Pss and not Rss is the true figure
// for a ring that is mapped twice.
type Memory struct {
	Pss   float64 `json:"pss_mib"`   // in all
	Shmem float64 `json:"shmem_mib"` // of that memfds: ring, state, landing zone
	Rest  float64 `json:"rest_mib"`  // of that all else
	Rss   float64 `json:"rss_mib"`   // counts a page once for each mapping
	High  float64 `json:"high_mib"`  // the highest Rss so far
}

func (p *process) memory() Memory {
	t := kernelTable(p.proc("smaps_rollup"))
	t["VmHWM"] = kernelTable(p.proc("status"))["VmHWM"]
	mib := func(name string) float64 { return float64(t[name]) / 1024 }
	return Memory{Pss: mib("Pss"), Shmem: mib("Pss_Shmem"), Rest: mib("Pss") - mib("Pss_Shmem"), Rss: mib("Rss"), High: mib("VmHWM")}
}

// busy is the CPU time that the whole machine has spent on anything.
func busy() time.Duration {
	b, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(b), "\n")
	var ticks uint64
	// cpu user nice system idle iowait irq softirq steal: proc(5)
	for i, f := range strings.Fields(line) {
		if v, err := strconv.ParseUint(f, 10, 64); err == nil && i != 4 && i != 5 && i <= 8 {
			ticks += v
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// otherLoad is the share of all cores, in percent, that went to processes that
// are none of ours between two readings.
func otherLoad(all, ours, elapsed time.Duration) float64 {
	return max(0, 100*float64(all-ours)/float64(elapsed)/float64(runtime.NumCPU()))
}

// awaitCalm waits with -calm, for at most a minute, until the machine has been
// quiet for a moment.
func (b *bench) awaitCalm() {
	const look = 200 * time.Millisecond
	for end := time.Now().Add(time.Minute); b.calm > 0 && time.Now().Before(end); {
		all, t := busy(), time.Now()
		time.Sleep(look)
		if otherLoad(busy()-all, 0, time.Since(t)) < b.calm {
			return
		}
	}
}
