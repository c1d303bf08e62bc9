// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	msgmux "github.com/msgmux/msgmux/client"
)

// offers is what a TAB gives after these words, of which the last is being typed; files says whether the shell offers
// files.
func offers(t *testing.T, p *program) (words string, files bool) {
	t.Helper()
	out := p.want(0).stdout.String()
	words, directive, _ := strings.Cut(out, ":")
	return words, strings.HasPrefix(directive, "0\n")
}

// TestCompletionKnowsCommandsAndValues asks the way the scripts do, and runs the scripts through their shells where
// there are some.
func TestCompletionKnowsCommandsAndValues(t *testing.T) {
	_, dir := startBroker(t)
	startSub(t, dir, "--label", "archive")
	startSub(t, dir, "--label", "worker", "--share", "work")
	startSub(t, dir, "--label", "other", "--share", "work")
	for args, want := range map[string]string{
		"sub -o |":               "raw\nline\nnul\njson\nhex\nframes\n",
		"sub --start |":          "now\noldest\n",
		"sub --share |":          "work\n",
		"sub --label |":          "",
		"sub -f |":               "",
		"sub --match |":          "",
		"sub |":                  "",
		"pub -i |":               "line\nnul\njson\nhex\nframes\n",
		"pub |":                  "",
		"pub -W |":               "",
		"status |":               "",
		"completion |":           "bash\nfish\nzsh\n",
		"sinks drop |":           "archive\nother\nworker\n",
		"sinks drop archive |":   "other\nworker\n",
		"sinks set --patience |": "0\n1s\n10s\nforever\n",
		"sinks add x --share |":  "work\n",
		"sinks add |":            "",
		"sinks add x --start |":  "now\noldest\n",
		"bench --size |":         "",
	} {
		// The last word is the one being typed, here still empty.
		fields := append([]string{"__complete"}, strings.Fields(strings.TrimSuffix(args, "|"))...)
		got, files := offers(t, prepare(t, dir, append(fields, "")...))
		if got != want || files {
			t.Errorf("%s offers %q, files: %v, want %q", args, got, files, want)
		}
	}
	if got, files := offers(t, prepare(t, dir, "__complete", "sub", "--from-uid", "")); !strings.Contains(got, "root\n") || files {
		t.Errorf("sub --from-uid offers %q, files: %v", got, files)
	}
	if _, files := offers(t, prepare(t, dir, "__complete", "pub", "-f", "")); !files {
		t.Error("pub -f does not offer files")
	}
	// Neither a channel that is not there, nor one that hangs, keeps the keyboard waiting.
	hung := folder(t)
	listener, err := net.Listen("unixpacket", filepath.Join(hung, "control"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, dir := range []string{folder(t), hung} {
		began := time.Now()
		if got, files := offers(t, prepare(t, dir, "__complete", "sinks", "drop", "")); got != "" || files {
			t.Errorf("it offers %q, files: %v", got, files)
		}
		if took := time.Since(began); took > answerWithin/2 {
			t.Errorf("it took %v", took)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		p := prepare(t, "", "completion", shell).want(0)
		if len(p.stdout.String()) < 1000 {
			t.Errorf("the script for %s is %q", shell, p.stdout.String())
		}
		path, err := exec.LookPath(shell)
		if err != nil {
			continue
		}
		check := exec.Command(path, "-n")
		check.Stdin = strings.NewReader(p.stdout.String())
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s does not take its script: %v: %s", shell, err, out)
		}
	}
	if help := prepare(t, "", "completion", "--help").want(0).stdout.String(); strings.Contains(help, "macOS") || strings.Contains(help, "brew") {
		t.Errorf("the help speaks of other systems:\n%s", help)
	}
}

// ofUser has a program run with the channels of a user in that folder, and with no other.
func (p *program) ofUser(folder string) *program {
	p.cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+folder, msgmux.EnvRuntimeDir+"=")
	return p
}

// userChannel makes a channel of a user, with a broker or only with what a stopped one leaves.
func userChannel(t *testing.T, parent, name string, running bool) string {
	t.Helper()
	dir := filepath.Join(parent, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if !running {
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "source"), Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		conn.Close() // its file stays
		return dir
	}
	startBrokerIn(t, dir)
	return dir
}

// TestChannelsAreListed with what they do, and offered after -c.
func TestChannelsAreListed(t *testing.T) {
	parent := folder(t)
	audit := userChannel(t, parent, "msgmux.audit", true)
	queueOne(t, userChannel(t, parent, "msgmux", true))
	userChannel(t, parent, "msgmux.stopped", false)
	silent := userChannel(t, parent, "msgmux.silent", false)
	listener, err := net.Listen("unixpacket", filepath.Join(silent, "control"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, no := range []string{"msgmux.UPPER", "msgmuxer", "msgmux."} { // no names of channels
		userChannel(t, parent, no, false)
	}
	if err := os.Mkdir(filepath.Join(parent, "msgmux.empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	startSub(t, audit)
	prepare(t, audit, "pub", "one").want(0)
	untilBlocked(t, filepath.Join(parent, "msgmux"))
	got := prepare(t, "", "channels").ofUser(parent).want(0).stdout.String()
	for _, want := range []string{
		`(?m)^--user +running +0 +0 +0 .*blocked for \S+ \S+: no sink +` + parent + `/msgmux$`,
		`(?m)^--user audit +running +1 +1 +0 .*not blocked +` + parent + `/msgmux.audit$`,
		`(?m)^--user silent +silent +` + parent, `(?m)^--user stopped +stopped +` + parent,
	} {
		matches(t, got, want)
	}
	if strings.Contains(got, "UPPER") || strings.Contains(got, "msgmuxer") || strings.Contains(got, "empty") {
		t.Errorf("others are listed:\n%s", got)
	}
	var found []foundJSON
	decode(t, prepare(t, "", "channels", "--json").ofUser(parent).want(0).stdout.String(), &found)
	states := map[string]string{}
	for _, f := range found {
		if f.User {
			states[f.Name] = f.State
		}
		if (f.Status != nil) != (f.State == stateRunning) {
			t.Errorf("%s has the state %s and the status %v", f.Name, f.State, f.Status)
		}
	}
	if len(states) != 4 || states[""] != stateRunning || states["audit"] != stateRunning || states["silent"] != stateSilent || states["stopped"] != stateStopped {
		t.Errorf("found are %v", states)
	}
	if got, files := offers(t, prepare(t, "", "__complete", "--user", "-c", "").ofUser(parent)); got != "audit\nsilent\nstopped\n" || files {
		t.Errorf("after --user -c it offers %q, files: %v", got, files)
	}
	// Those of the host are found the same way.
	if host := findChannels(parent, ""); len(host) != 4 || host[0].Name != "" || host[0].User || host[1].Name != "audit" {
		t.Errorf("as the host's: %+v", host)
	}
}

// TestServicesAreOffered that systemd could find, for --user those of the user.
func TestServicesAreOffered(t *testing.T) {
	config := folder(t)
	units := filepath.Join(config, "systemd/user")
	if err := os.MkdirAll(units, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"archive.service", "archive.socket", "template@.service", "evil\x1b.service"} {
		if err := os.WriteFile(filepath.Join(units, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := prepare(t, "", "__complete", "--user", "sinks", "add", "x", "--service", "arch")
	p.cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+config)
	if got, files := offers(t, p); !strings.HasPrefix(got, "archive.service\n") || strings.Contains(got, "@.") || strings.Contains(got, "socket") || strings.Contains(got, "evil") || files {
		t.Errorf("it offers %q, files: %v", got, files)
	}
}

// TestOnlyFilesAreCompletedAsFiles: of all flags that take something, and of all commands, those alone offer files that want one.
func TestOnlyFilesAreCompletedAsFiles(t *testing.T) {
	wantFiles := map[string]bool{"pub --file": true, "pub --follow": true, "pub --listen": true, "adopt --to": true, "adopt": true}
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		name := strings.TrimPrefix(strings.TrimPrefix(cmd.CommandPath(), "msgmux"), " ")
		check := func(what string, words ...string) {
			t.Helper()
			_, files := offers(t, prepare(t, folder(t), append(append([]string{"__complete"}, strings.Fields(name)...), append(words, "")...)...))
			if what = strings.TrimSpace(what); files != wantFiles[what] {
				t.Errorf("%q offers files: %v", what, files)
			}
			delete(wantFiles, what)
		}
		check(name)
		cmd.InheritedFlags() // merges them
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.NoOptDefVal == "" {
				check(name+" --"+f.Name, "--"+f.Name)
			}
		})
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit(rootCommand())
	if len(wantFiles) > 0 {
		t.Errorf("there is no %v", slices.Collect(maps.Keys(wantFiles)))
	}
}
