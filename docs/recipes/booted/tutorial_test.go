// SPDX-License-Identifier: Apache-2.0

package booted

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/docs/recipes/stage"
	"github.com/msgmux/msgmux/units/rig"
)

// step is a block of commands of the tutorial, and what the page says that it prints, "" if it does not say.
type step struct {
	kind, script, prints string
}

// steps takes the blocks of commands out of the tutorial.
func steps(t *testing.T, text string) []step {
	t.Helper()
	block := regexp.MustCompile("(?ms)^```sh tutorial *([^\n]*)\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?")
	var all []step
	for _, found := range block.FindAllStringSubmatch(text, -1) {
		all = append(all, step{found[1], found[2], found[3]})
	}
	if len(all) < 10 {
		t.Fatalf("the tutorial has only %d blocks of commands", len(all))
	}
	return all
}

// TestTutorial runs every command of the tutorial in order, but for the installation.
func TestTutorial(t *testing.T) {
	m := boot(t)
	for _, name := range []string{"archive.conf", "sqlite-writer.py", "archive.service"} {
		m.Install(filepath.Join("docs/examples/sqlite-writer", name), "/usr/share/doc/msgmux/examples/sqlite-writer/"+name, 0o644)
	}
	var terminal *rig.Process
	for _, s := range steps(t, stage.ReadDocument(t, "docs/tutorial.md")) {
		switch s.kind {
		case "install": // the machine came so
		case "terminal 2":
			terminal = m.Start("bash", "-euc", "exec "+strings.TrimSpace(s.script)+" >/tmp/terminal-2")
			m.until("the second terminal's sink", "msgmux sinks list --json | jq -e 'length > 1'")
		case "end":
			m.until("the lines in the second terminal", `[ "$(grep -c 'GET /request-' /tmp/terminal-2)" = 1000 ]`)
			terminal.Stop(5 * time.Second)
			fallthrough
		case "":
			began := time.Now()
			out := m.shell(s.script)
			// How many starts two kills make is a matter of luck; the page says so.
			if strings.HasPrefix(s.prints, "[4,") {
				out = regexp.MustCompile(`^\[[3-5],`).ReplaceAllString(out, "[4,")
			}
			if s.prints != "" && out != s.prints {
				t.Errorf("the tutorial says that\n%s prints\n%s and it prints\n%s", s.script, s.prints, out)
			}
			t.Logf("%v: %s", time.Since(began).Round(100*time.Millisecond), strings.SplitN(s.script, "\n", 2)[0])
		default:
			t.Errorf("a block of the tutorial is marked %q", s.kind)
		}
	}
}
