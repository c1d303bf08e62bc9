// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation"
)

// Config says what is held, and for which program.
type Config struct {
	Dir      string                  // of the channel
	Sockets  []activation.Descriptor // the channel's own; they stay the caller's
	Unlink   func() error            // takes their files away
	Most     int                     // how many descriptors brokers may give to keep
	Watchdog time.Duration           // a broker without a sign of life for so long is killed; 0: never
	Args     []string                // the broker's command line; the program is looked up anew each time, since an upgrade replaces it
	Above    *activation.Notifier    // the service manager above us, nil if there is none
	Log      *slog.Logger
}

const (
	// firstPause is the time from the end of a broker to the start of the next one, as RestartSec= of the units. As long as brokers
	// end before they are ready the pause doubles each time: up to lastPause if they end by themselves, and would again, and up to
	// killedPause if they are killed, which need not happen to the next one.
	firstPause  = 50 * time.Millisecond
	killedPause = time.Second
	lastPause   = 10 * time.Second
	// startPatience is how long a broker may take until it is ready, as TimeoutStartSec= of the units.
	startPatience = 30 * time.Second
	// stopPatience is how long the last broker may take to end: less than a container's runtime gives us (10 s).
	stopPatience = 8 * time.Second
	// lookEvery is how often the broker is looked at without a reason.
	lookEvery = time.Second
)

// socketName is the socket in the channel's folder by which brokers talk to their holder. Whether one is bound there tells whether
// there is a holder.
const socketName = ".hold"

// holder is what holds. It belongs to the goroutine that runs it.
type holder struct {
	Config
	store    *store
	signals  chan os.Signal
	children chan os.Signal
	pid      int       // the broker; 0: there is none
	began    time.Time // when it was started
	looked   time.Time // when it was last looked at
	ready    bool      // some broker was
	stopping bool      // no other is to come after the one that is there, or
	told     bool      // it has been told so; one that is killed then has done nothing about it
	killAt   time.Time // when it is killed, if it has not ended; zero is never
}

// Run holds until a SIGTERM or SIGINT: it starts a broker, and another one whenever that has ended. SIGHUP is passed on to the
// broker. Children of others, which the first process of a pid namespace is left with, are waited for. A broker that ends by
// itself before any was ready is an error: there is nothing to hold yet, and no other would fare better.
//
// When it is told to stop it takes the sockets' files away, so that nobody new sends, and tells the broker by SIGINT that no other
// comes after it. Killed, it leaves a broker that goes on alone.
func Run(cfg Config) (err error) {
	h := &holder{Config: cfg, signals: make(chan os.Signal, 8), children: make(chan os.Signal, 1)}
	signal.Notify(h.signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	signal.Notify(h.children, unix.SIGCHLD)
	defer signal.Stop(h.signals)
	defer signal.Stop(h.children)
	if h.store, err = newStore(filepath.Join(cfg.Dir, socketName), cfg.Most, h.tellAbove); err != nil {
		return err
	}
	defer h.store.close()
	go h.store.listen()
	for pause := firstPause; ; {
		err := h.start()
		status := h.attend()
		ready, _ := h.store.life()
		h.ready = h.ready || ready
		switch {
		case h.told && status == 0, h.stopping && (!h.ready || time.Now().After(h.killAt)):
			return nil
		case err != nil && !h.ready:
			return err
		case err != nil:
			h.Log.Error("cannot start a broker", "event", "held", "error", err)
		case status.Exited() && status.ExitStatus() != 0 && !h.ready:
			return fmt.Errorf("the broker cannot start: exit status %d", status.ExitStatus())
		case ready:
			pause = firstPause
		}
		h.say(status, pause)
		h.rest(pause)
		longest := lastPause
		if status.Signaled() {
			longest = killedPause
		}
		if !ready {
			pause = min(2*pause, longest)
		}
	}
}

// say logs how a broker has ended. One that was told to, as for an upgrade, is no news.
func (h *holder) say(status syscall.WaitStatus, pause time.Duration) {
	switch {
	case status.Signaled():
		h.Log.Warn("the broker was killed; the next one goes on", "event", "held", "signal", status.Signal().String(), "in", pause)
	case status.ExitStatus() != 0:
		h.Log.Warn("the broker has failed; the next one goes on", "event", "held", "status", status.ExitStatus(), "in", pause)
	}
}

// tellAbove passes on what a broker says to the service manager above.
func (h *holder) tellAbove(ready bool, status string) {
	if ready {
		h.Above.Ready(status)
	} else {
		h.Above.Status(status)
	}
}

// start starts a broker with all that is held.
func (h *holder) start() error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	files, names := []uintptr{0, 1, 2}, []string(nil)
	for _, d := range h.Sockets {
		files, names = append(files, uintptr(d.FD)), append(names, d.Name)
	}
	for _, k := range h.store.begin() {
		files, names = append(files, uintptr(k.fd)), append(names, k.name)
	}
	h.began, h.told = time.Now(), false
	if !h.stopping {
		h.killAt = time.Time{}
	}
	h.pid, err = syscall.ForkExec(program, h.Args, &syscall.ProcAttr{Env: h.store.environment(names, h.Watchdog), Files: files})
	if err != nil {
		h.pid = 0
		return fmt.Errorf("cannot start %s: %w", program, err)
	}
	return nil
}

// attend waits for the end of the broker, and does what signals and the watchdog ask for meanwhile.
func (h *holder) attend() (status syscall.WaitStatus) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for h.pid != 0 {
		if s, ended := h.reap(); ended {
			status = s
			continue
		}
		select {
		case <-h.children:
		case s := <-h.signals:
			h.heed(s)
		case <-h.store.readied:
			h.ready = true
			h.heed(nil)
		case <-tick.C:
			h.look()
		}
	}
	return status
}

// rest lets a pause pass, unless there is a last broker to be started.
func (h *holder) rest(pause time.Duration) {
	over := time.After(pause)
	for {
		select {
		case <-h.children:
			h.reap()
		case s := <-h.signals:
			if h.heed(s); h.stopping {
				return
			}
		case <-over:
			return
		}
	}
}

// reap waits for all children that have ended, and says whether the broker was among them, and how it ended.
func (h *holder) reap() (broker syscall.WaitStatus, ended bool) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil || pid <= 0:
			return broker, ended
		case pid == h.pid:
			h.pid, broker, ended = 0, status, true
		}
	}
}

// kill sends the broker a signal. Its number is nobody else's: this goroutine alone waits for it.
func (h *holder) kill(s syscall.Signal) {
	if h.pid != 0 {
		syscall.Kill(h.pid, s)
	}
}

// heed does what a signal asks for, nil is none. A broker is told that it is the last one when it can hear that: one that is not
// ready would just die, and what is held with it. So a last one is started if there is none.
func (h *holder) heed(s os.Signal) {
	switch s {
	case nil:
	case unix.SIGTERM, unix.SIGINT:
		if h.stopping {
			break
		}
		h.stopping, h.killAt = true, time.Now().Add(stopPatience)
		h.Above.Stopping()
		if err := h.Unlink(); err != nil {
			h.Log.Warn("files are left behind", "event", "held", "error", err)
		}
	default:
		h.kill(s.(syscall.Signal))
	}
	ready, _ := h.store.life()
	if h.stopping && !h.told && h.pid != 0 && (ready || !h.ready) {
		h.told = true
		h.kill(unix.SIGINT)
	}
}

// look kills a broker that hangs: first so that it tells where, then for certain.
func (h *holder) look() {
	now := time.Now()
	if now.Sub(h.looked) > 3*lookEvery {
		h.store.excuse() // we were stopped or frozen, and it with us
	}
	h.looked = now
	if !h.killAt.IsZero() {
		if now.After(h.killAt) {
			h.kill(unix.SIGKILL)
		}
		return
	}
	ready, alive := h.store.life()
	if ready && h.Watchdog > 0 && now.Sub(alive) > h.Watchdog || !ready && now.Sub(h.began) > startPatience {
		h.Log.Error("the broker hangs", "event", "held", "ready", ready, "silent", now.Sub(alive))
		h.kill(unix.SIGABRT)
		h.killAt = now.Add(startPatience / 10)
	}
}
