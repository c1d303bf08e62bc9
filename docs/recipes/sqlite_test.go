// SPDX-License-Identifier: Apache-2.0

package recipes

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/docs/recipes/stage"
)

// kills is how often the ends are killed: more in a soak.
func kills() int {
	if n, err := strconv.Atoi(os.Getenv("MSGMUX_SOAK_KILLS")); err == nil {
		return min(n, 200)
	}
	return 20
}

// python is the interpreter that the unit names, or another.
func python(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/usr/bin/python3"); err == nil {
		return "/usr/bin/python3"
	}
	stage.Need(t, "python3")
	return "python3"
}

// TestPromise10_SQLite kills the writer again and again while messages pass: each is in the database once, and in order.
func TestPromise10_SQLite(t *testing.T) {
	dir := stage.Folder(t)
	db := dir + "/archive.db"
	broker := stage.StartBroker(t, "--buffer", "1M")
	writer := []string{python(t), filepath.Join(stage.Top(t), "docs", "examples", "sqlite-writer", "sqlite-writer.py"), db, broker.Dir}
	first := stage.Start(t, writer)
	broker.WaitSink("archive")
	first.Kill() // before it has had anything: its place is kept

	source := stage.Shell(t, `seq -f '%.0f and some text, to make the line as long as lines are' 100000000 | exec msgmux pub`)
	killed, met := 0, 0 // met: after it had written something
	for most := kills(); met < most && killed < 20*most; killed++ {
		before := query(t, db, "SELECT max(id) FROM messages")
		p := stage.Start(t, writer)
		// Python needs some time to begin; most kills shall meet it at work.
		if killed%4 != 0 {
			stage.Until(t, "the writer is at work", func() bool { return query(t, db, "SELECT max(id) FROM messages") != before })
		}
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		p.Kill()
		if query(t, db, "SELECT max(id) FROM messages") != before {
			met++
		}
	}
	t.Logf("the writer was killed %d times, %d times after it had written something", killed, met)
	if met < kills() {
		t.Errorf("that is too seldom")
	}

	// In good order at last: the source ends and says how much it sent, the writer ends by SIGTERM, between two packets.
	p := stage.Start(t, writer)
	source.Stop()
	told := regexp.MustCompile(`([0-9,]+) messages sent`).FindStringSubmatch(source.Err())
	if told == nil {
		t.Fatalf("pub does not say how much it sent: %s", source.Err())
	}
	sent, err := strconv.Atoi(strings.ReplaceAll(told[1], ",", ""))
	if err != nil {
		t.Fatal(err)
	}
	stage.Shell(t, "msgmux pub --empty").Succeed()
	stage.Until(t, "the last message", func() bool {
		count, err := strconv.Atoi(query(t, db, "SELECT max(id) FROM messages"))
		return err == nil && count > sent || !p.Running()
	})
	p.Stop()
	if status := p.Wait(); status != 0 {
		t.Errorf("the writer ended with status %d by SIGTERM: %s", status, p.Err())
	}
	// A text that begins with digits is taken for their number. The empty message came from another source, and may
	// stand among the last of this one.
	const inOrder = `SELECT count(*), sum(n = place) FROM (SELECT CAST(CAST(message AS TEXT) AS INTEGER) AS n,
		row_number() OVER (ORDER BY id) AS place FROM messages WHERE length(message) > 0)`
	if got, want := query(t, db, inOrder), fmt.Sprintf("%d %d", sent, sent); got != want {
		t.Errorf("in the archive, and in their place, are %s messages, not %s", got, want)
	}
	if got := query(t, db, "SELECT max(number) - min(number) FROM messages"); got != fmt.Sprint(sent) {
		t.Errorf("the numbers have gaps: they span %s", got)
	}
	if got, want := query(t, db, "SELECT next - 1 - max(number) FROM messages, place"), "0"; got != want {
		t.Errorf("its place is %s behind its last message", got)
	}
	t.Logf("%s packets made %d messages", query(t, db, "SELECT count(DISTINCT received) FROM messages"), sent+1)
}

// query asks the database by Python's SQLite, which is the one that is there.
func query(t *testing.T, db, sql string) string {
	t.Helper()
	out, err := exec.Command(python(t), "-c", `
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=10)
print(*db.execute(sys.argv[2]).fetchone())`, db, sql).CombinedOutput()
	if err != nil {
		return string(out) // not there yet
	}
	return strings.TrimSpace(string(out))
}
