// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// patient is who the doctor looks at: a host, and one channel on it.
type patient struct {
	channel msgmux.Channel
	units   channelUnits
	status  *wire.Status // nil: the broker does not answer
	sinks   []wire.Sink
	silence error // why it does not

	explained []string // findings about sinks that say why these are as they are
}

func newPatient(where *location) (*patient, error) {
	c, err := where.locate()
	if err != nil {
		return nil, err
	}
	p := &patient{channel: c, units: unitsOf(c)}
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	status, sinks, err := look(ctx, c, wire.OpList)
	if p.silence = err; err == nil {
		p.status, p.sinks = &status, sinks
	}
	return p, nil
}

// examine looks at everything, from the ground up.
func (p *patient) examine() []finding {
	findings := []finding{p.queueLength(), p.sendBuffer(), sockDiag(), p.groups()}
	findings = append(findings, p.examineUnits()...)
	findings = append(findings, p.descriptors(), p.lockedMemory(), p.memory())
	return append(findings, p.examineChannel()...)
}

// kernelNumber reads a setting of the kernel (sysctl(8)).
func kernelNumber(name string) (uint64, error) {
	text, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

// queueLength is how many datagrams may wait in one socket. The kernel's own value of 10 makes senders wait for every
// wink of the broker; systemd raises it at boot to 512, which two busy senders fill, and the packages to 4096.
func (p *patient) queueLength() finding {
	const name = "net.unix.max_dgram_qlen"
	n, err := kernelNumber(name)
	advice := "sysctl -w " + name + "=4096, and a file in /etc/sysctl.d for the next boot; sockets that are there keep their limit, so restart " + p.units.nameOr("target", "the channel") + " when nobody sends: what is queued in them is lost, and who is connected has to connect again"
	switch {
	case err != nil:
		return found(name, poor, "see whether /proc is mounted here", "cannot be read: %v", err)
	case n < 512:
		return found(name, poor, advice, "only %d datagrams may wait in a socket: senders wait at every turn, and those that never wait lose messages", n)
	case n < 4096:
		return found(name, poor, advice, "%d datagrams may wait in a socket: beside two busy senders, one that never waits loses messages", n)
	}
	return found(name, good, "", "%d datagrams may wait in a socket", n)
}

// defaultMaxMessage is that of msgmuxd, for when no broker can be asked.
const defaultMaxMessage = 256 << 10

// sendBuffer is how large a message can be. The kernel doubles what a program asks for and takes off 32 bytes.
func (p *patient) sendBuffer() finding {
	const name = "net.core.wmem_max"
	n, err := kernelNumber(name)
	if err != nil {
		return found(name, poor, "see whether /proc is mounted here", "cannot be read: %v", err)
	}
	want := uint64(defaultMaxMessage)
	if p.status != nil {
		want = p.status.MaxMessage
	}
	if 2*n < want+4096 {
		return found(name, bad, fmt.Sprintf("sysctl -w %s=%d, or a smaller --max-message; then restart the broker", name, want+4096),
			"%s: a message of %s does not fit into any socket", byteCount(n), byteCount(want))
	}
	return found(name, good, "", "%s, for messages of up to %s", byteCount(n), byteCount(want))
}

// sockDiag asks the kernel who made the socket at the other end of one of ours, as the broker does for each sink that is
// registered.
func sockDiag() finding { return judgeSockDiag(socketOwner()) }

func judgeSockDiag(uid uint32, err error) finding {
	const name = "sock_diag"
	switch {
	case errors.Is(err, sys.ErrNoDiag):
		return found(name, bad, "modprobe unix_diag, or a kernel with CONFIG_UNIX_DIAG", "the kernel does not tell about unix sockets: no sink can be registered")
	case err != nil:
		return found(name, bad, "sinks cannot be registered; use the subscribe socket, or static sinks", "the kernel does not tell whose a socket is: %v", err)
	case uid != uint32(os.Geteuid()):
		return found(name, bad, "please report this with the version of the kernel", "a socket of user %d is said to be of %d", os.Geteuid(), uid)
	}
	return found(name, good, "", "the kernel tells whose a socket is")
}

// socketOwner is the user that the kernel takes a socket of ours for to be of.
func socketOwner() (uid uint32, err error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socketpair", err)
	}
	defer syscall.Close(pair[0])
	defer syscall.Close(pair[1])
	diag, err := sys.NewSockDiag()
	if err != nil {
		return 0, err
	}
	defer diag.Close()
	socket, err := diag.LookupFD(pair[0])
	if err == nil && !socket.HasUID {
		err = errors.New("its kernel is older than 5.3")
	}
	return socket.UID, err
}

// groups are those that the units give the sockets to.
func (p *patient) groups() finding {
	const name = "groups"
	if p.units.user || p.units.unmanaged {
		return found(name, good, "", "not needed: the channel is of one user")
	}
	for _, group := range []string{"msgmux", "msgmux-send"} {
		if _, err := user.LookupGroup(group); err != nil {
			return found(name, bad, "systemd-sysusers makes what /usr/lib/sysusers.d/msgmux.conf says; or groupadd --system "+group, "there is no group %s", group)
		}
	}
	if _, err := user.Lookup("msgmux"); err != nil {
		return found(name, bad, "systemd-sysusers makes what /usr/lib/sysusers.d/msgmux.conf says", "there is no user msgmux")
	}
	return found(name, good, "", "msgmux may look and listen, msgmux-send may send")
}

// ofBroker is the number that stands behind name in a file of /proc/PID of the broker (proc_pid_limits(5), proc_pid_status(5)).
func (p *patient) ofBroker(file, name string) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.status.PID, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, name)
		if fields := strings.Fields(rest); ok && len(fields) > 0 {
			if fields[0] == "unlimited" {
				return math.MaxUint64, nil
			}
			return strconv.ParseUint(fields[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s does not say %s", file, name)
}

// descriptors compares what the broker may open with what it may need: one for each sink, and those of systemd's store.
func (p *patient) descriptors() finding {
	const name = "descriptors"
	if p.status == nil {
		return found(name, poor, p.toSeeTheBroker(), "not known: there is no broker to be looked at")
	}
	n, err := p.ofBroker("limits", "Max open files")
	if err != nil {
		return found(name, poor, "run the doctor as root", "not known: %v", err)
	}
	need := p.status.MaxSinks + 1024
	if p.units.storeMax > 0 {
		need = max(need, p.units.storeMax+1024)
	}
	used := "-"
	if entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.status.PID)); err == nil {
		used = strconv.Itoa(len(entries))
	}
	if n < need {
		return found(name, bad, fmt.Sprintf("LimitNOFILE=%d in a drop-in: %s edit %s; by hand, ulimit -n", need, p.units.systemctl(), p.units.nameOr("service", "msgmux.service")),
			"the broker may open %d, and %d sinks and the descriptor store need %d", n, p.status.MaxSinks, need)
	}
	return found(name, good, "", "%s of %d are open, %d may be needed", used, n, need)
}

// lockedMemory is whether the part of the ring that the kernel writes to can be swapped out. A page that cannot be had in
// the middle of a receive loses a datagram.
func (p *patient) lockedMemory() finding {
	const name = "memlock"
	if p.status == nil {
		return found(name, poor, p.toSeeTheBroker(), "not known: there is no broker to be looked at")
	}
	locked, err := p.ofBroker("status", "VmLck:")
	if err != nil {
		return found(name, poor, "run the doctor as root", "not known: %v", err)
	}
	if locked == 0 {
		limit, _ := p.ofBroker("limits", "Max locked memory")
		return found(name, poor, fmt.Sprintf("LimitMEMLOCK=infinity in a drop-in: %s edit %s; by hand, ulimit -l", p.units.systemctl(), p.units.nameOr("service", "msgmux.service")),
			"nothing of the broker is locked in memory; its limit is %s", byteCount(limit))
	}
	return found(name, good, "", "%s of the broker are locked in memory", byteCount(locked<<10))
}

// memory adds up what waits for sinks that do not read, which the kernel keeps in the broker's memory: how many there is room for
// beside the ring, and how many there are.
func (p *patient) memory() finding {
	const name = "memory"
	if p.status == nil {
		return found(name, poor, p.toSeeTheBroker(), "not known: there is no broker to be looked at")
	}
	limit, file := sys.MemoryLimit("/sys/fs/cgroup", fmt.Sprintf("/proc/%d/cgroup", p.status.PID))
	return p.judgeMemory(limit, file)
}

func (p *patient) judgeMemory(limit uint64, file string) finding {
	const name = "memory"
	s, bound, text := p.status, "--queue-total", "no limit is set"
	if file != "" {
		bound, text = "MemoryMax= of its control group, or --queue-total", fmt.Sprintf("the limit is %s (%s)", byteCount(limit), file)
	}
	switch room := s.SinksRoom; {
	case room == 0:
		return found(name, good, "", "%s; this broker does not tell how many sinks it has room for", text)
	case uint64(s.Sinks.Total) >= room-room/10: // the last tenth is not for ordinary users
		return found(name, poor, "raise "+bound+", or give each sink less (--queue): "+p.units.systemctl()+" edit "+p.units.nameOr("service", "msgmux.service"),
			"%s: beside the ring of %s there is room for the queues of %s, and there are %d: others are refused", text, byteCount(s.Buffer), plural(room, "sink"), s.Sinks.Total)
	default:
		return found(name, good, "", "%s: beside the ring of %s there is room for the queues of %s, of which there are %d", text, byteCount(s.Buffer), plural(room, "sink"), s.Sinks.Total)
	}
}

// blockedLong is after how long it is not a sink's patience any more that sources wait.
const blockedLong = 10 // seconds

// examineChannel is how the channel itself is.
func (p *patient) examineChannel() []finding {
	if p.status == nil {
		return []finding{found("channel", bad, p.toSeeTheBroker(), "no broker answers: %v", p.silence)}
	}
	s := p.status
	findings := []finding{found("channel", good, "", "version %s in %s, %s received, %s lost", s.Version, s.RuntimeDir, commas(s.Received), commas(s.Lost))}
	switch b := s.Sources; {
	case b.Blocked && b.Sink != "":
		v := poor
		if b.ForSeconds >= blockedLong {
			v = bad
		}
		if f, ok := p.circle(b.Sink, v); ok {
			findings = append(findings, f)
			break
		}
		held := p.holders(b.Sink)
		if p.hasOther(b.Sink) {
			findings = append(findings, found("sources", v, fmt.Sprintf("see what its program does; %s sinks set '%s' --patience 1s leaves it behind", p.msgmux(), visible(b.Sink)),
				"they have waited for the sink %s%s for %s", b.Sink, held, roughly(seconds(b.ForSeconds))))
			break
		}
		// To leave the last one behind would be to lose what nobody has: its patience does not count.
		findings = append(findings, found("sources", v, "restart its program, or attach another sink: "+p.anySink(),
			"they have waited for the sink %s%s for %s; it is the only one that takes messages, and so is waited for whatever its patience",
			b.Sink, held, roughly(seconds(b.ForSeconds))))
	case b.Blocked:
		findings = append(findings, found("sources", bad, "start a sink, taps do not count: "+p.anySink(),
			"they have waited for %s: no sink is there to take their messages", roughly(seconds(b.ForSeconds))))
	case s.Sinks.Total == 0:
		findings = append(findings, found("sources", poor, "start a consumer: "+p.anySink(), "there is no sink: what somebody sends will wait"))
	case !slices.ContainsFunc(p.sinks, func(k wire.Sink) bool { return !k.Tap && k.State != "absent" }):
		findings = append(findings, found("sources", bad, "start one, taps do not count: "+p.anySink(), "no sink is there to take their messages"))
	default:
		findings = append(findings, found("sources", good, "", "nobody makes them wait"))
	}
	for _, k := range p.sinks {
		switch k.State {
		case "lagging":
			if k.Tap || k.Patience == "0" || k.Patience == "0s" {
				continue // losing is its way of life
			}
			findings = append(findings, found("sink "+visible(k.Label), poor, fmt.Sprintf("see what its program does; %s sinks set '%s' --patience 10s has it waited for longer", p.msgmux(), visible(k.Label)),
				"it was left behind and has lost %s", plural(k.Lost, "message")))
		case "absent":
			// With what its service has, its absence is explained.
			if f := p.absent(k); !slices.Contains(p.explained, f.Name) {
				findings = append(findings, f)
			}
		}
	}
	return findings
}
