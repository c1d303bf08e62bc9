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
	"github.com/msgmux/msgmux/internal/flags"
	"github.com/msgmux/msgmux/internal/stamp"
)

// Set by the linker: -ldflags "-X main.version=... -X main.commit=... -X main.date=...".
var version, commit, date string

// build is what is known about this program.
var build = stamp.Of(stamp.Stamp{Version: version, Commit: commit, Date: date})

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
  4  timed out, or the broker does not answer
  5  refused: permission or quota
  6  message too large
  7  messages were lost (sub --strict)
  8  there is no such sink (sinks)
  75 the channel takes no message now (pub --nonblock)
  130, 143  ended by SIGINT, SIGTERM`,
		Version:       build.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE:          chooseCommand,

		SuggestionsMinimumDistance: suggestWithin,
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return flags.Plain(err) })
	root.SetHelpCommand(helpCommand())
	root.CompletionOptions.DisableDefaultCmd = true
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	common := root.PersistentFlags()
	common.StringVarP(&where.channel, "channel", "c", "", "`NAME` of the channel ($"+msgmux.EnvChannel+"); default: the default channel")
	common.BoolVar(&where.user, "user", false, "the user's own instance, not the host's")
	common.StringVar(&where.runtimeDir, "runtime-dir", "", "`DIR` with the channel's sockets ($"+msgmux.EnvRuntimeDir+")")
	completeWith(root, "channel", completeChannels(&where))
	completeWith(root, "runtime-dir", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs))
	root.AddCommand(
		pubCommand(&where),
		subCommand(&where),
		statusCommand(&where),
		channelsCommand(&where),
		sinksCommand(&where),
		adoptCommand(&where),
		doctorCommand(&where),
		benchCommand(&where),
		completionCommand(),
	)
	return root
}

// helpCommand is the library's, but that a command which is not there is a mistake.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "explain a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return chooseCommand(about, rest)
			}
			about.InitDefaultHelpFlag()
			about.InitDefaultVersionFlag()
			return about.Help()
		},
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

// suggestWithin is how many letters may be wrong in a word that a suggestion is made for.
const suggestWithin = 2

// chooseCommand runs where a command below this one was expected.
func chooseCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef("a command is missing")
	}
	if close := cmd.SuggestionsFor(args[0]); len(close) > 0 {
		return usagef("there is no command %q; did you mean %s?", args[0], orList(close))
	}
	return usagef("there is no command %q", args[0])
}

// say writes one line for people, in which nothing acts on a terminal: what it tells may come from anybody.
func say(format string, args ...any) {
	fmt.Fprintln(os.Stderr, "msgmux: "+visible(fmt.Sprintf(format, args...)))
}
