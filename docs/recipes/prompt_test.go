// SPDX-License-Identifier: Apache-2.0

package recipes

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/docs/recipes/stage"
)

// TestPrompt runs the page's commands for looking and sending.
func TestPrompt(t *testing.T) {
	stage.Need(t, "socat", "logger", "jq")
	broker := stage.StartBroker(t)
	recipe := stage.ReadPage(t, "socat.md")
	look := stage.Shell(t, recipe.Commands("look", "/run/msgmux", broker.Dir))
	broker.WaitSink("tap")
	errors := stage.Shell(t, strings.Replace(recipe.Commands("jq"), "jq -r", "jq --unbuffered -r", 1))
	sink := broker.Subscribe("all")

	send := recipe.Commands("send", "/run/msgmux", broker.Dir)
	stage.Shell(t, send).Succeed()
	got := sink.WaitFor(3)
	if want := []string{" demo: hello from logger", "hello from socat\n", "hello from msgmux"}; !slices.EqualFunc(got, want, strings.HasSuffix) {
		t.Errorf("the messages are %q and not %q", got, want)
	}
	stage.Until(t, "what socat shows", func() bool { return strings.HasSuffix(look.Out(), "hello from socat\nhello from msgmux") })

	stage.Shell(t, `msgmux pub "an error" "well" "error two"`).Succeed()
	stage.Until(t, "what jq shows", func() bool { return strings.Count(errors.Out(), "\n") == 2 })
	for _, line := range strings.Split(strings.TrimSpace(errors.Out()), "\n") {
		if when, text, ok := strings.Cut(line, " "); !ok || !strings.Contains(text, "error") {
			t.Errorf("jq shows %q", line)
		} else if _, err := time.Parse(time.RFC3339Nano, when); err != nil {
			t.Errorf("jq shows a time %q: %v", when, err)
		}
	}
	sinkIsForgotten(t, broker, look)
}

// sinkIsForgotten ends the socat that is a sink, and waits until the broker knows.
func sinkIsForgotten(t *testing.T, broker *stage.Broker, look *stage.Program) {
	t.Helper()
	look.Stop()
	stage.Until(t, "the end of the sink", func() bool { return state(broker, "tap") == "" })
}

// TestSendersWait gives lines to logger, socat and pub while no sink is connected: they wait, and nothing is lost.
func TestSendersWait(t *testing.T) {
	stage.Need(t, "socat", "logger")
	broker := stage.StartBroker(t)
	const n = 200000 // more than queues and pipes take, however they are put together
	lines := numbers(n)
	source := broker.Sock("source")
	for _, sender := range []struct {
		name  string
		argv  []string
		whole bool // a line is a message
	}{
		{"logger", []string{"logger", "-u", source, "-t", "demo", "--socket-errors=on"}, true},
		{"pub", []string{"msgmux", "pub"}, true},
		{"socat", []string{"socat", "-u", "STDIN", "UNIX-SENDTO:" + source}, false},
	} {
		t.Run(sender.name, func(t *testing.T) {
			p := stage.Start(t, sender.argv, stage.Input(lines))
			time.Sleep(time.Second)
			if !p.Running() {
				t.Fatalf("it did not wait: %s", p.Err())
			}
			sink := broker.Subscribe("all")
			p.Succeed()
			stage.Until(t, "the last line", func() bool {
				return strings.HasSuffix(strings.TrimRight(sink.Out(), "\n\x00"), fmt.Sprint(n))
			})
			got := sink.Messages()
			t.Logf("%d lines came as %d messages", n, len(got))
			if sender.whole && len(got) != n {
				t.Errorf("%d messages came, not %d", len(got), n)
			}
			if !sender.whole {
				if joined := strings.Join(got, ""); joined != lines {
					t.Errorf("what came is not what was sent")
				}
				if len(got) == n {
					t.Error("no lines ran together: the page says that they do")
				}
			}
			sink.Stop()
			broker.WaitForNobody()
		})
	}
}

// TestLanguages runs each example as a sink and each as a source: every sink gets what every source sent.
func TestLanguages(t *testing.T) {
	stage.Need(t, "socat", "python3", "gcc", "go")
	broker := stage.StartBroker(t)
	examples := filepath.Join(stage.Top(t), "docs", "examples", "languages")
	dir := stage.Folder(t)
	recipe := stage.ReadPage(t, "languages.md")
	for _, name := range []string{"source", "sink"} {
		build(t, "gcc", "-Wall", "-Wextra", "-Werror", "-O2", "-o", dir+"/"+name, examples+"/"+name+".c")
	}
	for _, name := range []string{"source", "sink"} {
		build(t, "go", "build", "-o", dir+"/go"+name, examples+"/"+name+".go")
	}
	build(t, "go", "test", stage.Write(t, dir, "hello_test.go", recipe.Source("go")))
	sources := map[string][]string{
		"shell": {examples + "/source.sh"}, "python": {examples + "/source.py"}, "c": {dir + "/source"}, "go": {dir + "/gosource"},
	}
	sinks := map[string]*stage.Program{}
	for name, argv := range map[string][]string{
		"shell": {examples + "/sink.sh"}, "python": {examples + "/sink.py"}, "c": {dir + "/sink"}, "go": {dir + "/gosink"},
	} {
		sinks[name] = stage.Start(t, argv)
	}
	stage.Until(t, "four sinks", func() bool { return len(broker.Status().Sinks) == 4 })
	var want []string
	for _, name := range []string{"shell", "python", "c", "go"} {
		stage.Start(t, sources[name], stage.Input("from "+name+"\n"+name+" ends\n")).Succeed()
		want = append(want, "from "+name, name+" ends")
	}
	for name, sink := range sinks {
		end, joint := "\n", "\n"
		if name == "shell" {
			end, joint = "", "" // socat puts nothing between messages
		}
		stage.Until(t, "what the sink in "+name+" shows", func() bool { return sink.Out() == strings.Join(want, joint)+end })
	}
	// The commands of the page.
	sink := stage.Shell(t, "cd "+examples+"; "+recipe.Commands("sink"))
	stage.Until(t, "five sinks", func() bool { return len(broker.Status().Sinks) == 5 })
	stage.Shell(t, "cd "+dir+"; cp "+examples+"/source.c .; "+recipe.Commands("source")).Succeed()
	stage.Until(t, "what the page's sink shows", func() bool { return sink.Out() == "hello\nfrom C\n" })
}

// TestExamplesAreShort holds the examples in languages to what the page says.
func TestExamplesAreShort(t *testing.T) {
	found, err := filepath.Glob(filepath.Join(stage.Top(t), "docs", "examples", "languages", "*.*"))
	if err != nil || len(found) != 8 {
		t.Fatalf("there are %v", found)
	}
	for _, file := range found {
		if n := strings.Count(read(t, file), "\n"); n >= 40 {
			t.Errorf("%s has %d lines", file, n)
		}
	}
}

// build compiles something, which must succeed.
func build(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
}

// numbers are the lines 1 to n.
func numbers(n int) string {
	var lines strings.Builder
	for i := 1; i <= n; i++ {
		fmt.Fprintln(&lines, i)
	}
	return lines.String()
}

// TestDrawings holds the pictures to the programs that draw them.
func TestDrawings(t *testing.T) {
	stage.Need(t, "python3")
	docs := filepath.Join(stage.Top(t), "docs")
	for _, name := range []string{"architecture", "rooms"} {
		drawn, err := exec.Command("python3", "-B", filepath.Join(docs, name+".py")).Output()
		if err != nil {
			t.Fatal(err)
		}
		if string(drawn) != read(t, filepath.Join(docs, name+".svg")) {
			t.Errorf("docs/%[1]s.svg is not what docs/%[1]s.py draws: python3 docs/%[1]s.py >docs/%[1]s.svg", name)
		}
	}
}
