// SPDX-License-Identifier: Apache-2.0

package recipes

// The examples of clients, with what people give them: long, empty and binary messages, and Ctrl-C.

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/docs/recipes/stage"
)

// example is a program of the examples' folder.
type example struct {
	argv    []string
	textual bool // NUL bytes are lost
	running bool // nothing stands between two messages, so that an empty one does not show
	numbers bool // each message comes with its number
	told    bool // it is told of messages that are too large
}

// examples builds all programs, and returns the sources and the sinks by language.
func examples(t *testing.T, channel string) (sources, sinks map[string]example) {
	t.Helper()
	stage.Need(t, "socat", "python3", "gcc", "go")
	folder, dir := filepath.Join(stage.Top(t), "docs", "examples"), stage.Folder(t)
	languages := folder + "/languages/"
	for _, name := range []string{"source", "sink"} {
		build(t, "gcc", "-Wall", "-Wextra", "-Werror", "-O2", "-o", dir+"/"+name, languages+name+".c")
		build(t, "go", "build", "-o", dir+"/go"+name, languages+name+".go")
		build(t, "gcc", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O2", "-o", dir+"/view"+name, folder+"/view/"+name+".c")
	}
	sources = map[string]example{
		"shell": {argv: []string{languages + "source.sh"}, textual: true, told: true}, "python": {argv: []string{languages + "source.py"}},
		"c": {argv: []string{dir + "/source"}}, "go": {argv: []string{dir + "/gosource"}, told: true},
		"client.py": {argv: []string{"python3", folder + "/client.py", "send", channel}, told: true},
		"stage":     {argv: []string{dir + "/viewsource", channel + "/publish"}, told: true},
	}
	sinks = map[string]example{
		"shell": {argv: []string{languages + "sink.sh"}, running: true}, "python": {argv: []string{languages + "sink.py"}},
		"c": {argv: []string{dir + "/sink"}}, "go": {argv: []string{dir + "/gosink"}},
		"client.py": {argv: []string{"python3", folder + "/client.py", "receive", channel}, numbers: true},
		"view":      {argv: []string{dir + "/viewsink", channel + "/subscribe"}},
	}
	return sources, sinks
}

// anything are messages of all sorts, none with a newline in it.
var anything = []string{
	"before", "", strings.Repeat("long ", 14_000), "a \xff b\tc\\n \x01\r", "nul \x00 and \x00", "", "", strings.Repeat("y", 200_000), "%s $HOME `x` -n",
	strings.Repeat("z", 65536), " spaces ", "the last, without a newline",
}

// TestExamplesSendAnything: every line arrives, whole and as one message, or the source says that it did not.
func TestExamplesSendAnything(t *testing.T) {
	broker := stage.StartBroker(t)
	sources, _ := examples(t, broker.Dir)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	channel := msgmux.Channel{RuntimeDir: broker.Dir}
	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{Patience: new(msgmux.Forever)})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	for name, source := range sources {
		messages := slices.Clone(anything)
		if source.textual {
			messages = slices.DeleteFunc(messages, func(m string) bool { return strings.Contains(m, "\x00") })
		}
		stage.Start(t, source.argv, stage.Input(strings.Join(messages, "\n"))).Succeed()
		for i, want := range messages {
			got, err := sink.Receive(ctx)
			if err != nil || string(got.Payload) != want {
				t.Fatalf("%s: message %d: got %d bytes, %.30q, and %v, want %d bytes, %.30q", name, i, len(got.Payload), got.Payload, err, len(want), want)
			}
		}
		// One that is too large for the channel.
		before := broker.Status().Refused["too-large"]
		p := stage.Start(t, source.argv, stage.Input(strings.Repeat("x", 300_000)+"\n"))
		if status := p.Wait(); source.told != (status != 0) || source.told && p.Err() == "" {
			t.Errorf("%s: of a message that is too large it says %q, and ends with %d", name, p.Err(), status)
		}
		if !source.told {
			stage.Until(t, name+": it is counted", func() bool { return broker.Status().Refused["too-large"] > before })
		}
	}
}

// TestExamplesReceiveAnything, and show it as it is; what they cannot write they do not pass over.
func TestExamplesReceiveAnything(t *testing.T) {
	broker := stage.StartBroker(t)
	_, sinks := examples(t, broker.Dir)
	programs := map[string]*stage.Program{}
	for name, sink := range sinks {
		programs[name] = stage.Start(t, sink.argv)
	}
	stage.Until(t, "the sinks", func() bool { return len(broker.Status().Sinks) == len(sinks) })
	source, err := msgmux.Channel{RuntimeDir: broker.Dir}.Dial(t.Context(), msgmux.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	for _, message := range anything {
		if err := source.Send(t.Context(), []byte(message)); err != nil {
			t.Fatal(err)
		}
	}
	for name, sink := range sinks {
		var want strings.Builder
		for i, message := range anything {
			if sink.numbers {
				fmt.Fprintf(&want, "%d ", i)
			}
			want.WriteString(message)
			if !sink.running {
				want.WriteByte('\n')
			}
		}
		stage.Until(t, "what the sink "+name+" shows", func() bool { return len(programs[name].Out()) >= want.Len() })
		if got := programs[name].Out(); got != want.String() {
			t.Errorf("the sink %s shows other bytes than were sent: %d, not %d", name, len(got), want.Len())
		}
		programs[name].Stop()
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for name, sink := range sinks {
		p := stage.Shell(t, "exec "+strings.Join(sink.argv, " ")+" >/dev/full")
		// It may be there and gone before anybody sees it, as a message may be left from before: so messages come until it has ended.
		ctx, enough := context.WithCancel(t.Context())
		var sending sync.WaitGroup
		sending.Go(func() {
			for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
				within, cancel := context.WithTimeout(ctx, time.Second)
				_ = source.Send(within, []byte("nowhere to go")) // without a sink it waits
				cancel()
			}
		})
		status := p.Wait()
		enough()
		sending.Wait()
		if status == 0 {
			t.Errorf("the sink %s cannot write, and ends with 0", name)
		}
		stage.Until(t, "its end", func() bool { return len(broker.Status().Sinks) == 0 })
	}
}

// TestExamplesEndByCtrlC without a stack of calls for people to read, sources while they read and sinks while they wait;
// what came before has been sent and shown.
func TestExamplesEndByCtrlC(t *testing.T) {
	broker := stage.StartBroker(t)
	sources, sinks := examples(t, broker.Dir)
	sub := broker.Subscribe("all")
	sent := 0
	for name, source := range sources {
		p := stage.Shell(t, "{ echo 'by "+name+"'; exec sleep 60; } | exec "+strings.Join(source.argv, " "))
		if name == "client.py" { // it sends what fills a packet, and here nothing does
			time.Sleep(time.Second)
		} else {
			sent++
			sub.WaitFor(sent)
		}
		endByCtrlC(t, "the source "+name, p)
	}
	if got := sub.Messages(); len(got) != sent {
		t.Errorf("got %q", got)
	}
	for name, sink := range sinks {
		p := stage.Start(t, sink.argv)
		stage.Until(t, "the sink "+name, func() bool { return len(broker.Status().Sinks) == 2 })
		stage.Start(t, []string{"msgmux", "pub", "for " + name}).Succeed()
		stage.Until(t, "what it shows", func() bool { return strings.Contains(p.Out(), "for "+name) })
		endByCtrlC(t, "the sink "+name, p)
		stage.Until(t, "its end", func() bool { return len(broker.Status().Sinks) == 1 })
	}
}

// TestFollowersSendAnything: of a file every line arrives, as it is, and Ctrl-C ends who follows it.
func TestFollowersSendAnything(t *testing.T) {
	broker := stage.StartBroker(t)
	dir := stage.Folder(t)
	client := filepath.Join(stage.Top(t), "docs", "examples", "client.py")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	sink, err := msgmux.Channel{RuntimeDir: broker.Dir}.Subscribe(ctx, msgmux.SinkOptions{Patience: new(msgmux.Forever)})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	path := stage.Write(t, dir, "log", strings.Join(anything, "\n")+"\nno end yet")
	for name, argv := range map[string][]string{
		"tailer": {"tailer", "go", path}, "client.py": {python(t), client, "follow", broker.Dir, "python", path},
		"pub": {"msgmux", "pub", "--follow", path, "--label", "pub"},
	} {
		p := stage.Start(t, argv)
		for i, want := range anything {
			if got, err := sink.Receive(ctx); err != nil || string(got.Payload) != want {
				t.Fatalf("%s: line %d: got %d bytes, %.30q, and %v, want %d bytes, %.30q", name, i, len(got.Payload), got.Payload, err, len(want), want)
			}
		}
		endByCtrlC(t, name, p)
	}
}

// TestSQLiteTakesAnything, and is ended by Ctrl-C, also where there is no broker.
func TestSQLiteTakesAnything(t *testing.T) {
	broker := stage.StartBroker(t)
	db := stage.Folder(t) + "/archive.db"
	writer := []string{python(t), filepath.Join(stage.Top(t), "docs", "examples", "sqlite-writer", "sqlite-writer.py"), db}
	p := stage.Start(t, append(writer, broker.Dir))
	broker.WaitSink("archive")
	source, err := msgmux.Channel{RuntimeDir: broker.Dir}.Dial(t.Context(), msgmux.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	var want strings.Builder
	for i, message := range anything {
		if err := source.Send(t.Context(), []byte(message)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&want, "%d %X;", i, message)
	}
	stage.Until(t, "the last message", func() bool { return query(t, db, "SELECT count(*) FROM messages") == fmt.Sprint(len(anything)) })
	endByCtrlC(t, "the writer", p)
	if got := query(t, db, "SELECT group_concat(number || ' ' || hex(message), ';') || ';' FROM (SELECT * FROM messages ORDER BY id)"); got != want.String() {
		t.Errorf("the archive has other bytes than were sent: %d, not %d", len(got), want.Len())
	}
	waits := stage.Start(t, append(writer, "/nowhere"))
	time.Sleep(time.Second) // it has begun
	endByCtrlC(t, "the writer without a broker", waits)
}

// endByCtrlC ends a program without a stack of calls for people to read. Who is killed by the signal has the status -1.
func endByCtrlC(t *testing.T, name string, p *stage.Program) {
	t.Helper()
	p.Signal(syscall.SIGINT)
	if status := p.Wait(); !slices.Contains([]int{0, 130, -1}, status) || strings.Contains(p.Err(), "Traceback") || strings.Contains(p.Err(), "goroutine") {
		t.Errorf("%s ends with %d, and says %q", name, status, p.Err())
	}
}

// TestStaticSinkInGo is the program of the page about static sinks, on a socket that somebody else holds, as systemd does: it
// is killed and started again, and nothing that came meanwhile is missing.
func TestStaticSinkInGo(t *testing.T) {
	stage.Need(t, "go")
	_, page, _ := strings.Cut(stage.ReadDocument(t, "docs/admin/static-sink.md"), "```go\n")
	text, _, shown := strings.Cut(page, "```\n")
	if !shown {
		t.Fatal("the page shows no program in Go")
	}
	dir := stage.Folder(t)
	build(t, "go", "build", "-o", dir+"/archive", stage.Write(t, dir, "main.go", text))
	if err := os.Mkdir(dir+"/sinks", 0o755); err != nil {
		t.Fatal(err)
	}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/sinks/archive", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	file, err := socket.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	broker := stage.StartBrokerBy(t, dir, []string{"msgmuxd", "--runtime-dir", dir, "--sink", dir + "/sinks/archive"})
	broker.WaitSink("archive")
	start := func() *stage.Program {
		return stage.Shell(t, "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=msgmux-sink@archive.socket; exec "+dir+"/archive",
			func(c *exec.Cmd) { c.ExtraFiles = []*os.File{file} })
	}
	p := start()
	stage.Shell(t, "msgmux pub one two").Succeed()
	stage.Until(t, "the first messages", func() bool { return p.Out() == "one\ntwo\n" })
	p.Kill()
	stage.Shell(t, "msgmux pub three 'four and five'").Succeed()
	p = start()
	stage.Until(t, "those that came meanwhile", func() bool { return p.Out() == "three\nfour and five\n" })
	p.Signal(syscall.SIGTERM)
	p.Succeed()
	p = start()
	source, err := msgmux.Channel{RuntimeDir: dir}.Dial(t.Context(), msgmux.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	for _, message := range anything {
		if err := source.Send(t.Context(), []byte(message)); err != nil {
			t.Fatal(err)
		}
	}
	stage.Until(t, "messages of all sorts", func() bool { return p.Out() == strings.Join(anything, "\n")+"\n" })
	endByCtrlC(t, "the sink", p)
	if got := broker.Status(); got.Lost != 0 || got.Accepted != uint64(4+len(anything)) {
		t.Errorf("%+v", got)
	}
}
