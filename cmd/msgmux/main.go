// SPDX-License-Identifier: Apache-2.0

// Command msgmux is the command line of a msgmux channel: it sends messages into one, prints what passes, and shows how
// the channel and its sinks are.
//
// Payloads go to standard output and everything else to standard error, so that it can stand in a pipe. Each command
// has a file of its own, cmd_NAME.go.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	msgmux "github.com/msgmux/msgmux/client"
)

// Set by the linker: -ldflags "-X main.version=... -X main.commit=... -X main.date=...".
var (
	version = "unknown"
	commit  = "unknown"
	date    = "unknown"
)

func main() {
	os.Exit(run(os.Args[1:]))
}

// run executes one command line and returns its exit status.
func run(args []string) int {
	// What fails before the command itself begins is a mistake in the command line, whoever noticed it.
	started := false
	root := rootCommand()
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	root.SetArgs(args)
	command, err := root.ExecuteC()
	if err != nil && !started {
		err = usageError{err}
	}
	return report(command, err)
}

// rootCommand builds the tree of commands.
func rootCommand() *cobra.Command {
	var where location
	root := &cobra.Command{
		Use:   "msgmux",
		Short: "send into a msgmux channel, print what passes, see how it is",
		Long: `Send messages into a msgmux channel, print what passes, see how it is.

Every sink of a channel gets every message, in the same order. A sender waits
while no sink can take its message.

Exit status:
  0  done
  1  failure
  2  the command line is wrong
  3  no broker is listening
  4  timed out
  5  refused: permission or quota
  6  message too large
  7  messages were lost (sub --strict)
  75 the channel takes no message now (pub --nonblock)
  130, 143  ended by SIGINT, SIGTERM`,
		Version:       fmt.Sprintf("%s (commit %s, %s)", version, commit, date),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE:          chooseCommand,
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	flags := root.PersistentFlags()
	flags.StringVarP(&where.channel, "channel", "c", "", "`NAME` of the channel ($"+msgmux.EnvChannel+"); default: the default channel")
	flags.BoolVar(&where.user, "user", false, "the user's own instance, not the host's")
	flags.StringVar(&where.runtimeDir, "runtime-dir", "", "`DIR` with the channel's sockets ($"+msgmux.EnvRuntimeDir+")")
	root.AddCommand(
		pubCommand(&where),
		subCommand(&where),
		statusCommand(&where),
		sinksCommand(&where),
		doctorCommand(&where),
		benchCommand(&where),
		benchSourceCommand(&where),
		benchSinkCommand(&where),
	)
	tidyCompletion(root)
	return root
}

// tidyCompletion makes cobra's own command complain about a shell that it does not know, as every other command would,
// and offers no shell that Linux does not come with.
func tidyCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() != "completion" {
			continue
		}
		cmd.Short = "print the completion script of a shell: bash, zsh or fish"
		cmd.Args, cmd.RunE = cobra.ArbitraryArgs, chooseCommand
		for _, shell := range cmd.Commands() {
			if shell.Name() == "powershell" {
				cmd.RemoveCommand(shell)
			}
		}
	}
}

// location is what the common flags say about the channel.
type location struct {
	channel    string
	user       bool
	runtimeDir string
}

func (l *location) locate() (msgmux.Channel, error) {
	switch {
	case l.runtimeDir != "" && (l.channel != "" || l.user):
		return msgmux.Channel{}, usagef("a runtime folder names one channel by itself: no channel name and no user instance beside it")
	case l.runtimeDir != "":
		dir, err := filepath.Abs(l.runtimeDir)
		return msgmux.Channel{RuntimeDir: dir}, err
	case l.user:
		return msgmux.User(l.channel)
	case l.channel != "":
		return msgmux.Named(l.channel)
	}
	return msgmux.Default()
}

// chooseCommand runs where a command below this one was expected.
func chooseCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef("a command is missing")
	}
	return usagef("there is no command %q", args[0])
}

// say writes one line for people.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "msgmux: "+format+"\n", args...)
}
