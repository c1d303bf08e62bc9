// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/activation/activationtest"
	"github.com/msgmux/msgmux/broker/journal"
)

// patience is how long a broker may take for anything before that counts as a hang. It is far more than any step
// takes, also on a machine that has other things to do.
const patience = 20 * time.Second

// ErrDied means that the broker died before it was where it should get to.
var ErrDied = errors.New("the broker died")

// Keeper holds everything of a channel that must outlive its broker, and starts one broker after the other. It is for
// one goroutine; what asks the channel something may be called from any.
type Keeper struct {
	Setup   Setup // of the next broker, but for its Death
	systemd *activationtest.Manager
	sockets *activation.Sockets
	log     *os.File // what brokers say
	child   *child   // nil: none runs
	Deaths  int      // brokers that were killed
}

// child is a broker that was started.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once it is dead and waited for
}

// NewKeeper makes the sockets of a channel in a folder of their own. Close ends it.
func NewKeeper(s Setup) (k *Keeper, err error) {
	// Not the test's own folder: its path is too long for a socket.
	if s.Dir, err = os.MkdirTemp("", "mm"); err != nil {
		return nil, err
	}
	k = &Keeper{Setup: s}
	defer func() {
		if err != nil {
			k.Close()
		}
	}()
	for _, d := range []string{"sinks", "options"} {
		if err = os.Mkdir(filepath.Join(s.Dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if k.log, err = os.OpenFile(filepath.Join(s.Dir, "log"), os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if k.sockets, err = activation.Bind(s.Dir, 0o660, filepath.Join(s.Dir, secondSource)); err != nil {
		return nil, err
	}
	if k.systemd, err = activationtest.New(s.Dir); err != nil {
		return nil, err
	}
	// As socket units do it: bound once, kept by the service manager, and no other process holds a copy.
	for _, d := range k.sockets.All() {
		if err = k.systemd.Give(d.Name, d.FD); err != nil {
			return nil, err
		}
		unix.Close(d.FD)
	}
	return k, nil
}

// Close kills the broker and forgets the channel.
func (k *Keeper) Close() {
	if k.child != nil {
		k.child.cmd.Process.Kill()
		<-k.child.done
	}
	if k.systemd != nil {
		k.systemd.Close()
	}
	if k.sockets != nil {
		k.sockets.Unlink()
	}
	if k.log != nil {
		k.log.Close()
	}
	os.RemoveAll(k.Setup.Dir)
}

// Start starts a broker that will die as d says.
func (k *Keeper) Start(d Death) error {
	s := k.Setup
	s.Death = d
	mark, err := json.Marshal(s)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childMark+"="+string(mark))
	cmd.Stdout, cmd.Stderr = k.log, k.log
	// No broker outlives a test that was killed itself.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := k.systemd.Start(cmd); err != nil {
		return err
	}
	c := &child{cmd, make(chan struct{})}
	go func() {
		defer close(c.done)
		cmd.Wait()
	}()
	k.child = c
	return nil
}

// AwaitReady waits until the broker has said that it is. ErrDied: it did not get there.
func (k *Keeper) AwaitReady() error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if k.systemd.State().Ready > 0 {
			return nil
		}
		select {
		case <-k.child.done:
			// Its last words may still be in the queue.
			if k.systemd.Sync() == nil && k.systemd.State().Ready > 0 {
				return nil
			}
			return ErrDied
		case <-time.After(500 * time.Microsecond):
		}
	}
	return fmt.Errorf("the broker was not ready after %v\n%s", patience, k.Autopsy())
}

// AwaitDeath waits for at most d until the broker is dead, and says whether it is.
func (k *Keeper) AwaitDeath(d time.Duration) bool {
	select {
	case <-k.child.done:
		return true
	case <-time.After(d):
		return false
	}
}

// Kill makes an end of the broker if it has not made one itself. A broker that ended in any other way than by SIGKILL
// is an error.
func (k *Keeper) Kill() error {
	k.child.cmd.Process.Kill()
	<-k.child.done
	state := k.child.cmd.ProcessState
	k.child = nil
	// An exit code, or the signal of a panic or a fault, would pass for a kill otherwise.
	if w, ok := state.Sys().(syscall.WaitStatus); !ok || w.Signal() != syscall.SIGKILL {
		return fmt.Errorf("the broker ended by itself: %v\n%s", state, k.Log())
	}
	k.Deaths++
	return nil
}

// Stop asks the broker to stop, as systemctl restart does, and waits until it has.
func (k *Keeper) Stop() error {
	k.child.cmd.Process.Signal(syscall.SIGTERM)
	if !k.AwaitDeath(patience) {
		return fmt.Errorf("the broker did not stop within %v\n%s", patience, k.Autopsy())
	}
	state := k.child.cmd.ProcessState
	k.child = nil
	// Restart=always would go on after any other code, and nobody would see it.
	if state.ExitCode() != 0 {
		return fmt.Errorf("the broker did not stop in good order: %v\n%s", state, k.Log())
	}
	return nil
}

// Autopsy makes a broker that hangs tell where, and die of it; it returns the log.
func (k *Keeper) Autopsy() string {
	k.child.cmd.Process.Signal(syscall.SIGQUIT)
	k.AwaitDeath(patience)
	return k.tail(64 << 10)
}

// Log is the end of what the brokers have said.
func (k *Keeper) Log() string { return k.tail(4 << 10) }

func (k *Keeper) tail(most int) string {
	b, err := os.ReadFile(k.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-most):])
}

// Stored is the names in the descriptor store, those of sinks and those of memfds, once the store has heard everything.
func (k *Keeper) Stored() (sinks, memory []string, err error) {
	if err := k.systemd.Sync(); err != nil {
		return nil, nil, err
	}
	for _, name := range k.systemd.Stored() {
		switch {
		case name == activation.FirstWitness, name == activation.LastWitness:
		case strings.HasPrefix(name, activation.DataName), strings.HasPrefix(name, activation.StateName):
			memory = append(memory, name)
		default:
			sinks = append(sinks, name)
		}
	}
	return sinks, memory, nil
}

// Descriptors are those that the broker has open, by what they are of: the fewest and the most within a moment. Some come and
// go, and a broker that has just begun opens some of them by and by.
func (k *Keeper) Descriptors() (fewest, most []string) {
	dir := fmt.Sprintf("/proc/%d/fd", k.child.cmd.Process.Pid)
	for range 50 {
		if open, err := os.ReadDir(dir); err == nil {
			links := make([]string, len(open))
			for i, e := range open {
				links[i], _ = os.Readlink(filepath.Join(dir, e.Name())) // "" if it is closed by now
			}
			slices.Sort(links)
			if fewest == nil || len(links) < len(fewest) {
				fewest = links
			}
			if len(links) > len(most) {
				most = links
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fewest, most
}

// Memory is a descriptor of the stored memfd whose name begins with base. The caller owns it.
func (k *Keeper) Memory(base string) (fd int, err error) {
	_, memory, err := k.Stored()
	if err != nil {
		return -1, err
	}
	for _, name := range memory {
		if strings.HasPrefix(name, base) {
			return k.systemd.Copy(name)
		}
	}
	return -1, fmt.Errorf("there is no %s in the store", base)
}

// Faults is what a real service manager would have complained about, and what brokers found to be broken.
func (k *Keeper) Faults() ([]string, error) {
	text, err := os.ReadFile(k.log.Name())
	if err != nil {
		return nil, err
	}
	var faults []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "event="+journal.EventRingBroken) || strings.Contains(line, "panic") || strings.Contains(line, "fatal error") {
			faults = append(faults, strings.TrimSpace(line))
		}
	}
	return append(faults, k.systemd.Faults()...), nil
}
