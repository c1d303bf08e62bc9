// SPDX-License-Identifier: Apache-2.0

package units

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/units/rig/load/tally"
)

// onDemand declares a static sink with a consumer that nothing but messages starts, and that writes down every message before
// it takes it, so that its log can be counted after any end.
func (b *bed) onDemand(name string) {
	b.t.Helper()
	b.WriteFile("/etc/systemd/system/"+name+".service", fmt.Appendf(nil,
		"[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/usr/bin/load sink --inherit --log /run/%[1]s.log\n"+
			// It would go on for as long as there are messages, and has no need to end in order.
			"Sockets=msgmux-sink@%[1]s.socket\nKillSignal=SIGKILL\nSuccessExitStatus=SIGKILL\n", name), 0o644)
	b.MustRun("systemctl", "daemon-reload")
	b.MustRun("systemctl", "enable", "--now", "msgmux-sink@"+name+".socket")
}

// replay counts what the consumers of a sink have written down.
func (b *bed) replay(name string) tally.Sink {
	b.t.Helper()
	var sinks []tally.Sink
	if err := json.Unmarshal([]byte(b.MustRun("load", "replay", "--log", "/run/"+name+".log")), &sinks); err != nil {
		b.t.Fatal(err)
	}
	return sinks[0]
}

// TestConsumerOnDemand kills the consumer of a static sink twenty times and keeps it away for five seconds: it misses
// nothing that the ring and the socket hold. Then it hangs for five seconds under a flood: what it misses is counted.
func TestConsumerOnDemand(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p, consumer := b.channel(""), "archive.service"
		p.systemctl("start", "msgmux.target")
		b.onDemand("archive")
		other := b.StartLoad("sink", "--bind", "@mm-other", "--register", "/run/msgmux/register", "--option", "patience=forever", "--settle", "1s")
		source := b.StartLoad("send", "--to", "/run/msgmux/source", "--rate", "3000")
		pid := func() string { return p.showUnit(consumer, "MainPID")["MainPID"] }
		for range 20 {
			b.Until("a message starts the consumer", 20*time.Second, func() bool { return pid() != "0" })
			time.Sleep(100 * time.Millisecond)
			before := pid()
			b.MustRun("systemctl", "kill", "--signal=KILL", consumer)
			b.Until("the next message starts it again", 20*time.Second, func() bool { now := pid(); return now != before && now != "0" })
		}
		// The next one takes five seconds to start.
		b.dropIn(consumer, "slow", "[Service]\nExecStartPre=/usr/bin/sleep 5\n")
		b.MustRun("systemctl", "stop", consumer)
		b.MustRun("rm", "/etc/systemd/system/archive.service.d/slow.conf")
		time.Sleep(time.Second)
		if a := p.account(); a.sink("archive").State != "stalled" || a.sink("archive").Waiting == 0 {
			t.Errorf("without its consumer the sink is %+v", a.sink("archive"))
		}
		b.Until("the consumer is back", 20*time.Second, func() bool { return pid() != "0" })
		b.MustRun("systemctl", "daemon-reload")
		source.Signal(unix.SIGTERM)
		paced := source.Sender()
		// What a source has got rid of may be in the socket still, on a busy machine, where no sink waits for it.
		untilReceived := func(n uint64) {
			b.Until("the broker has received everything", 20*time.Second, func() bool { return p.account().Status.Received == n })
		}
		untilReceived(paced.Sent)
		p.untilDelivered()
		if problems := b.replay("archive").Problems(paced); len(problems) > 0 || p.account().Status.Lost != 0 {
			t.Errorf("killed and away, the consumer missed something: %v; %+v", problems, p.account().Status)
		}

		flood := b.StartLoad("send", "--to", "/run/msgmux/source", "--source=2", "--spread=200")
		time.Sleep(500 * time.Millisecond)
		b.MustRun("systemctl", "kill", "--signal=STOP", consumer)
		b.Until("the sink is left behind", 20*time.Second, func() bool { return p.account().sink("archive").State == "lagging" })
		p.untilStatus("that a sink is lagging", func(s statusLine) bool { return s.lagging == 1 && s.sinks == 2 })
		time.Sleep(3 * time.Second)
		b.MustRun("systemctl", "kill", "--signal=CONT", consumer)
		time.Sleep(500 * time.Millisecond)
		flood.Signal(unix.SIGTERM)
		flooded := flood.Sender()
		untilReceived(paced.Sent + flooded.Sent)
		p.untilDelivered()
		got, a := b.replay("archive"), p.account()
		missed := flooded.Sent - got.Sources[2].Count
		if missed == 0 || missed != a.sink("archive").Lost || missed != a.Status.Lost || got.Duplicates+got.Reordered+got.Corrupt > 0 {
			t.Errorf("the consumer got %d of %d, and the broker counts %d lost: %+v", got.Sources[2].Count, flooded.Sent, a.sink("archive").Lost, got)
		}
		p.untilStatus("what was lost", func(s statusLine) bool {
			return s.lost == missed && s.received == paced.Sent+flooded.Sent && s.lagging == 0
		})
		t.Logf("of %d messages the hung consumer got %d", flooded.Sent, got.Sources[2].Count)
		other.Signal(unix.SIGTERM)
		for _, problem := range other.Sinks()[0].Problems(paced, flooded) {
			t.Error(problem)
		}
	})
}
