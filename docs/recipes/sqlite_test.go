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

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/docs/recipes/stage"
)

// unit plays the socket unit of a consumer: it holds the bound socket, and starts the consumer when there is something
// to read and none runs.
type unit struct {
	t      *testing.T
	socket *os.File
	argv   []string
}

func newUnit(t *testing.T, path string, argv ...string) *unit {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		t.Fatalf("cannot bind %s: %v", path, err)
	}
	u := &unit{t, os.NewFile(uintptr(fd), path), argv}
	t.Cleanup(func() { u.socket.Close() })
	return u
}

// readable waits until there is something to read, and says whether there is.
func (u *unit) readable(limit time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(u.socket.Fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(limit.Milliseconds()))
	return err == nil && n > 0
}

// start starts the consumer with the socket as descriptor 3.
func (u *unit) start() *stage.Program {
	u.t.Helper()
	// sh, because LISTEN_PID must be the process's own.
	argv := append([]string{"sh", "-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"`, "sh"}, u.argv...)
	return stage.Start(u.t, argv, func(c *exec.Cmd) { c.ExtraFiles = []*os.File{u.socket} })
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

// TestSQLite kills the writer again and again while messages pass: each is in the database once, and in order.
func TestSQLite(t *testing.T) {
	dir := stage.Folder(t)
	path, db := dir+"/archive", dir+"/archive.db"
	examples := filepath.Join(stage.Top(t), "docs", "examples", "sqlite-writer")
	var options []string
	for _, line := range strings.Split(read(t, examples+"/archive.conf"), "\n") {
		if line != "" && !strings.HasPrefix(line, "#") {
			options = append(options, line)
		}
	}
	writer := newUnit(t, path, python(t), examples+"/sqlite-writer.py", db)
	broker := stage.StartBroker(t, "--buffer", "1M", "--sink", path+","+strings.Join(options, ","))
	broker.WaitSink("archive")

	source := stage.Shell(t, `seq -f '%.0f and some text, to make the line as long as lines are' 100000000 | exec msgmux pub`)
	kills, met := 0, 0 // met: after it had written something
	for ; kills < 30 || met < 15 && kills < 300; kills++ {
		if !writer.readable(10 * time.Second) {
			t.Fatalf("nothing comes: %s", source.Err())
		}
		before := query(t, db, "SELECT count(*) FROM messages")
		p := writer.start()
		// Python needs some 60 ms to begin; most kills shall meet it at work.
		time.Sleep(time.Duration(50+rand.IntN(60)) * time.Millisecond)
		p.Kill()
		if query(t, db, "SELECT count(*) FROM messages") != before {
			met++
		}
	}
	t.Logf("the writer was killed %d times, %d times after it had written something", kills, met)
	if met < 15 {
		t.Errorf("that is too seldom")
	}

	// In good order at last: the source ends and says how much it sent, the writer ends by SIGTERM, between two packets.
	p := writer.start()
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
		count, err := strconv.Atoi(query(t, db, "SELECT count(*) FROM messages"))
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
	if got := query(t, db, "SELECT mark IS NULL FROM last"); got != "1" {
		t.Error("the writer left its mark, although it ended in good order")
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
