// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/msgmux/msgmux/internal/test"
)

// send has pub send each text as a message.
func send(t *testing.T, dir string, texts ...string) {
	t.Helper()
	prepare(t, dir, append([]string{"pub"}, texts...)...).start().want(exitDone)
}

// TestSubGoesOnWhereItWas: each run with --keep goes on behind what the one before has written, also one that was killed.
func TestSubGoesOnWhereItWas(t *testing.T) {
	_, dir := startBroker(t)
	keep := []string{"sub", "-q", "--keep", "1m", "--label", "db", "-C"}
	first := prepare(t, dir, append(keep, "2")...).start()
	test.Eventually(t, "a sink", func() bool { return len(sinksOf(t, dir)) == 1 })
	send(t, dir, "one", "two", "three", "four")
	first.want(exitDone).prints("one\ntwo\n")
	killed := prepare(t, dir, append(keep, "9")...).start()
	test.Eventually(t, "the next two", func() bool { return strings.Contains(killed.stdout.String(), "four\n") })
	test.Eventually(t, "that they are done", func() bool { return sinksOf(t, dir)[0].Waiting == 0 })
	killed.signal(os.Kill)
	killed.status()
	send(t, dir, "five")
	prepare(t, dir, append(keep, "1")...).start().want(exitDone).prints("five\n")
	prepare(t, dir, append(keep, "0")...).start().want(exitDone).prints("")
}

// TestSubHasACommandRun: what the command ends well with is done, and what it does not stays.
func TestSubHasACommandRun(t *testing.T) {
	_, dir := startBroker(t)
	keep := []string{"sub", "-q", "--keep", "1m", "--label", "db"}
	prepare(t, dir, append(keep, "-C", "0")...).start().want(exitDone)
	send(t, dir, "one", "two", "three")
	prepare(t, dir, append(keep, "--exec", `read -r m; echo "[$m]"; test "$m" != two`)...).start().
		want(exitFailure).prints("[one]\n[two]\n").says("exit status 1")
	prepare(t, dir, append(keep, "--exec", `echo "<$(cat)>"`, "-C", "2")...).start().want(exitDone).prints("<two>\n<three>\n")
	for i := range 7 {
		send(t, dir, fmt.Sprint(i))
	}
	prepare(t, dir, append(keep, "--batch", "5", "--exec", "wc -l", "-C", "7")...).start().want(exitDone).prints("5\n2\n")
}

// TestSubHasACommandDieOfSIGPIPE, as what a shell runs does: else a loop that writes to head(1) never ends.
func TestSubHasACommandDieOfSIGPIPE(t *testing.T) {
	_, dir := startBroker(t)
	sub := startSub(t, dir, "-q", "-C", "1", "--exec", `sh -c 'kill -s PIPE $$'; echo $?`)
	send(t, dir, "one")
	sub.want(exitDone).prints("141\n")
}

// TestSubBeginsNoCommandWhenItEnds: what no command was given is neither printed nor counted, and a place that is kept has it still.
func TestSubBeginsNoCommandWhenItEnds(t *testing.T) {
	t.Parallel() // it mostly waits
	kept := []string{"--keep", "1m", "--label", "db"}
	for _, flags := range [][]string{nil, kept} {
		_, dir := startBroker(t)
		sub := startSub(t, dir, append(flags, "-C", "3", "--exec", `echo "[$(cat)]"; sleep 1`)...)
		prepare(t, dir, "pub", "-l").input(strings.NewReader("one\ntwo\nthree\n")).want(exitDone) // in one packet
		test.Eventually(t, "the first command", func() bool { return sub.stdout.String() != "" })
		sub.signal(syscall.SIGTERM)
		sub.want(exitTerminated).says("1 message received").prints("[one]\n")
		if flags == nil {
			continue
		}
		again := append(kept, "-q", "-C", "2", "--exec", `echo "<$(cat)>"`)
		prepare(t, dir, append([]string{"sub"}, again...)...).want(exitDone).prints("<two>\n<three>\n")
	}
}

// TestSubChecksWhatIsKept: flags that do not go together are refused.
func TestSubChecksWhatIsKept(t *testing.T) {
	for _, args := range [][]string{
		{"--keep", "1m"}, {"--keep", "0", "--label", "a"}, {"--replace"}, {"--batch", "2"}, {"--tap", "--exec", "true"},
	} {
		prepare(t, folder(t), append([]string{"sub"}, args...)...).start().want(exitUsage)
	}
}
