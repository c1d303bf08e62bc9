// SPDX-License-Identifier: Apache-2.0

package recipes

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/docs/recipes/stage"
)

// TestJournald runs a journald of its own, with /run and so the journal in a mount namespace of its own, and in it what
// the page's unit runs.
func TestJournald(t *testing.T) {
	stage.NeedRoot(t)
	stage.Need(t, "journalctl", "systemd-cat", "jq")
	const daemon = "/lib/systemd/systemd-journald"
	if _, err := os.Stat(daemon); err != nil {
		stage.Lacking(t, "there is no "+daemon)
	}
	broker := stage.StartBroker(t)
	recipe := stage.ReadPage(t, "journald.md")
	unit := recipe.File("/etc/systemd/system/msgmux-journal.service")
	command := regexp.MustCompile(`(?m)^ExecStart=/bin/sh -c '(.*)'$`).FindStringSubmatch(unit)
	if command == nil {
		t.Fatalf("cannot find what the unit runs: %s", unit)
	}
	journald := stage.Start(t, []string{"unshare", "--mount", "--propagation", "private", "sh", "-euc", `
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\nAudit=no\nReadKMsg=no\n' >/run/systemd/journald.conf.d/test.conf
exec ` + daemon})
	inside := func(script string) []string {
		return []string{"nsenter", "--mount", "--target", strconv.Itoa(journald.PID()), "sh", "-euc", script}
	}
	stage.Until(t, "journald's start", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d/root/run/systemd/journal/stdout", journald.PID()))
		return err == nil
	})
	stage.Start(t, inside(command[1]))

	// journalctl shows what is logged from its start on; it has started when something comes.
	first := broker.Subscribe("first")
	see := stage.Shell(t, strings.Replace(recipe.Commands("see"), "jq -r", "jq --unbuffered -r", 1))
	stage.Until(t, "a first entry", func() bool {
		stage.Start(t, inside("echo ready | systemd-cat -t demo")).Succeed()
		return len(first.Messages()) > 0
	})
	stage.Until(t, "what the page's filter shows", func() bool { return strings.Contains(see.Out(), ": ready\n") })
	first.Stop()
	see.Stop()
	broker.WaitForNobody()

	const n = 1000
	stage.Start(t, inside("seq 1 "+strconv.Itoa(n)+" | systemd-cat -t demo")).Succeed()
	time.Sleep(time.Second)
	sink := broker.Subscribe("all")
	var got, others []string
	withPID := 0
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%d of the entries came; beside them:\n%s", len(got), strings.Join(others, "\n"))
		}
	})
	stage.Until(t, "the last entry", func() bool {
		got, others, withPID = nil, nil, 0
		for _, m := range sink.Messages() {
			var entry struct {
				Message    any    `json:"MESSAGE"`
				Identifier string `json:"SYSLOG_IDENTIFIER"`
				PID        string `json:"_PID"`
			}
			if err := json.Unmarshal([]byte(m), &entry); err != nil {
				t.Fatalf("a message is no JSON: %v\n%s", err, m)
			}
			if text, _ := entry.Message.(string); entry.Identifier == "demo" && text != "ready" {
				got = append(got, text)
				withPID += min(1, len(entry.PID))
			} else {
				others = append(others, m)
			}
		}
		return len(got) >= n
	})
	if strings.Join(got, "\n")+"\n" != numbers(n) {
		t.Errorf("the entries that came are not those that were logged: %d", len(got))
	}
	if withPID == 0 {
		t.Error("none of the entries has the fields that journald adds")
	}
}

// TestMessageQueue runs the page's writer on a queue in an IPC namespace of its own.
func TestMessageQueue(t *testing.T) {
	stage.NeedRoot(t)
	stage.Need(t, "gcc")
	recipe := stage.ReadPage(t, "message-queue.md")
	dir, run := stage.Folder(t), stage.Folder(t)
	writer := filepath.Join(dir, "writer")
	build(t, "gcc", "-Wall", "-Wextra", "-Werror", "-O2", "-o", writer, stage.Write(t, dir, "writer.c", recipe.Source("c")))
	queues := filepath.Join(dir, "mqueue")
	broker := stage.StartBrokerBy(t, run, []string{"unshare", "--mount", "--ipc", "sh", "-euc", `
mkdir ` + queues + `
mount -t mqueue mqueue ` + queues + `
: >` + queues + `/msgmux
` + recipe.Commands("broker", "/dev/mqueue", queues, "/run/msgmux", run)})
	write := func(messages ...string) *stage.Program {
		return stage.Start(t, append([]string{"nsenter", "--mount", "--ipc", "--target", strconv.Itoa(broker.PID()), writer}, messages...))
	}

	early := strings.Fields(numbers(100))
	waiting := write(early...)
	time.Sleep(500 * time.Millisecond)
	if !waiting.Running() {
		t.Fatalf("the writer did not wait: %s", waiting.Err())
	}
	queue := read(t, fmt.Sprintf("/proc/%d/root%s/msgmux", broker.PID(), queues))
	t.Logf("with no sink, in the queue: %s", strings.Join(strings.Fields(queue), " "))
	sink := broker.Subscribe("all")
	waiting.Succeed()
	write("the end").Succeed()
	if got := strings.Join(sink.WaitFor(101), " "); got != strings.Join(early, " ")+" the end" {
		t.Errorf("what came is %q", got)
	}
	odd := []string{"", "\xff\x01 \t", strings.Repeat("x", 8192)} // as long as a queue takes that nobody has said more of
	write(odd...).Succeed()
	if got := sink.WaitFor(104)[101:]; !slices.Equal(got, odd) {
		t.Errorf("of messages of all sorts %.60q came", got)
	}
	if p := write(strings.Repeat("x", 8193)); p.Wait() == 0 || p.Err() == "" {
		t.Error("the writer does not say that a message is too long for the queue")
	}
}
