// SPDX-License-Identifier: Apache-2.0

package units

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/msgmux/msgmux/units/rig"
)

// block is a fenced block of a page: a file, if a line with its name stands above; else by its language a script, what the
// script before it prints, or something that nobody runs.
type block struct{ file, language, text string }

// blocks are all of a page, in order.
func blocks(t *testing.T, page string) (all []block) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	fence := regexp.MustCompile("(?ms)(?:^`(/[^`\n]+)`\n\n)?^( *)```([a-z -]+)\n(.*?)^ *```$")
	for _, found := range fence.FindAllStringSubmatch(string(text), -1) {
		all = append(all, block{found[1], found[3], found[4]})
	}
	if n := strings.Count(string(text), "```"); n != 2*len(all) {
		t.Fatalf("%s has %d fences, and %d blocks were found", page, n, len(all))
	}
	return all
}

// TestPagesForAdministrators follows each page of docs/admin to the letter, each on a machine of its own.
func TestPagesForAdministrators(t *testing.T) {
	rig.Require(t, "systemd")
	pages, err := filepath.Glob(filepath.Join(rig.Top(t), "docs/admin/*.md"))
	if err != nil || len(pages) < 7 {
		t.Fatalf("%d pages: %v", len(pages), err)
	}
	var mu sync.Mutex
	ran := map[string]int{}
	t.Cleanup(func() {
		for _, name := range []string{"channel.md", "static-sink.md", "on-demand.md", "order.md", "containers.md", "survival.md", "credentials.md"} {
			if ran[name] == 0 && !t.Skipped() {
				t.Errorf("nothing of %s was run", name)
			}
		}
	})
	for _, page := range pages {
		script, shown, want := pageScript(blocks(t, page))
		if len(want) == 0 {
			continue
		}
		name := filepath.Base(page)
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they sleep most of the time
			onEachBed(t, func(t *testing.T, b *bed) {
				problems := b.follow(script, shown, want)
				if len(problems) > 0 {
					// Where a page sleeps for a second, a busy machine may take longer.
					t.Logf("once more and slower, because of: %s", strings.Join(problems, "\n"))
					slowly := "sleep() { command sleep $(($1 * 3)); }\n"
					problems = newBed(t, b.Suite()).follow(slowly+script, shown, want)
				}
				for _, problem := range problems {
					t.Error(problem)
				}
				mu.Lock()
				defer mu.Unlock()
				ran[name] += len(want)
			})
		})
	}
}

// follow runs the script of a page, and returns what is not as the page says.
func (b *bed) follow(script string, shown, want []string) (problems []string) {
	b.t.Helper()
	b.MustRun("systemctl", "enable", "--now", "msgmux.target", "msgmux.service") // as the packages do
	b.WriteFile("/run/page", []byte(script), 0o644)
	began := time.Now()
	out, exit := b.Run(b.t.Context(), "bash", "/run/page")
	if exit != 0 {
		return []string{fmt.Sprintf("exit status %d\n%s", exit, out)}
	}
	for i, got := range strings.Split(out, endOfScript)[:len(want)] {
		if want[i] != "" && trimLines(got) != trimLines(want[i]) {
			problems = append(problems, fmt.Sprintf("the commands\n%sprint\n%snot\n%s", shown[i], got, want[i]))
		}
	}
	b.t.Logf("%d scripts in %v", len(want), time.Since(began).Round(100*time.Millisecond))
	return problems
}

const endOfScript = "-- end of script --\n"

// pageScript is one script of all blocks, for one shell: what a block leaves running or sets is there for the next one. After
// each it says that it is there. want is what each prints, "" if the page does not say.
func pageScript(all []block) (script string, shown, want []string) {
	script = "set -eu\n"
	for _, block := range all {
		switch {
		case block.file != "":
			script += "install -d " + filepath.Dir(block.file) + "\ncat >" + block.file + " <<'END OF FILE'\n" + block.text + "END OF FILE\n"
		case block.language == "sh":
			script += block.text + "echo '" + strings.TrimSpace(endOfScript) + "'\n"
			shown, want = append(shown, block.text), append(want, "")
		case block.language == "text" && len(want) > 0:
			want[len(want)-1] = block.text
		}
	}
	return script, shown, want
}

// trimLines removes the spaces around each line.
func trimLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "\n")
}
