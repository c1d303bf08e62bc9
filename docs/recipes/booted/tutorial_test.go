// SPDX-License-Identifier: Apache-2.0

package booted

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
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

// bring builds the package of this tree, and leaves it in root's home folder. Debian's packages are there already.
func (m *machine) bring() {
	m.t.Helper()
	dir := m.t.TempDir()
	build := exec.Command("packaging/build.sh", dir)
	build.Env = append(os.Environ(), "ARCHES="+runtime.GOARCH, "FORMATS=deb")
	if out, err := build.CombinedOutput(); err != nil {
		m.t.Fatalf("cannot build the package: %v\n%s", err, out)
	}
	found, _ := filepath.Glob(filepath.Join(dir, "msgmux_*.deb"))
	if len(found) != 1 {
		m.t.Fatalf("the packages are %v", found)
	}
	m.Install(found[0], "/root/"+filepath.Base(found[0]), 0o644)
}

// TestTutorial runs every command of the tutorial in order, from the installation of the package on.
func TestTutorial(t *testing.T) {
	m := bootBare(t)
	m.bring()
	var terminal *rig.Process
	for _, s := range steps(t, stage.ReadDocument(t, "docs/tutorial.md")) {
		switch s.kind {
		case "install":
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			out, exit := m.Run(ctx, "bash", "-euc", "cd /root\nexport DEBIAN_FRONTEND=noninteractive\n"+s.script)
			cancel()
			if exit != 0 {
				t.Fatalf("the installation ends with %d:\n%s", exit, out)
			}
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
