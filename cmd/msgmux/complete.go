// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// What a TAB offers. Where nothing fits nothing is offered, rather than the files of the working directory.

// completeWithin is how long a TAB may take that asks the broker.
const completeWithin = 300 * time.Millisecond

// complete offers fixed values for a flag.
func complete(cmd *cobra.Command, flag string, values ...string) {
	completeWith(cmd, flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// completeFiles offers files for a flag.
func completeFiles(cmd *cobra.Command, flag string) {
	completeWith(cmd, flag, cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault))
}

// completeLive offers for a flag what the channel has.
func completeLive(where *location, cmd *cobra.Command, flag string, of func(listing) []string) {
	completeWith(cmd, flag, live(where, of))
}

func completeWith(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // there is no such flag
	}
}

// live is what the channel has, as far as it is fit for a command line: what comes from a broker may be anybody's.
func live(where *location, of func(listing) []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
		l, err := listWithin(where, completeWithin)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := slices.DeleteFunc(of(l), func(name string) bool { return !word.MatchString(name) || slices.Contains(given, name) })
		slices.Sort(names)
		return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
	}
}

// word is a label, the name of a share, or an id.
var word = regexp.MustCompile(`^#?[A-Za-z0-9_.-]{1,64}$`)

// labelsOf are the labels of the channel's sinks, and the ids of those without.
func labelsOf(l listing) (names []string) {
	for _, s := range l.Sinks {
		if s.Label == "" {
			s.Label = "#" + strconv.FormatUint(s.ID, 10)
		}
		names = append(names, s.Label)
	}
	return names
}

// sharesOf are the shares that sinks of the channel have.
func sharesOf(l listing) (names []string) {
	for _, s := range l.Sinks {
		if s.Share != "" {
			names = append(names, s.Share)
		}
	}
	return names
}

// completeChannels offers the names of the host's channels, or with --user of the user's own.
func completeChannels(where *location) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) (names []string, _ cobra.ShellCompDirective) {
		for _, c := range findChannels("/run", os.Getenv("XDG_RUNTIME_DIR")) {
			if c.Name != "" && c.User == where.user {
				names = append(names, c.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeServices offers the services that systemd could find (systemd.unit(5), "Unit File Load Path").
func completeServices(where *location) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		folders := []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"}
		if where.user {
			config, _ := os.UserConfigDir()
			folders = []string{config + "/systemd/user", "/etc/systemd/user", "/usr/lib/systemd/user"}
		}
		var names []string
		for _, folder := range folders {
			found, _ := filepath.Glob(folder + "/*.service")
			for _, path := range found {
				if name := filepath.Base(path); serviceName.MatchString(name) && !strings.Contains(name, "@.") {
					names = append(names, name)
				}
			}
		}
		slices.Sort(names)
		return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeUsers offers the users that this host has in its own file (passwd(5)).
func completeUsers(*cobra.Command, []string, string) (names []string, _ cobra.ShellCompDirective) {
	text, _ := os.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(text)) {
		if name, _, _ := strings.Cut(line, ":"); word.MatchString(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completionCommand prints the scripts that make shells ask for all that.
func completionCommand() *cobra.Command {
	shells := []string{"bash", "fish", "zsh"}
	return &cobra.Command{
		Use:   "completion bash | fish | zsh",
		Short: "print the completion script of a shell: bash, fish or zsh",
		Long: `Print the script that has a shell complete the command lines of msgmux. The
packages install it. By hand, for the shell that is running:

  bash  source <(msgmux completion bash), with the package bash-completion
  fish  msgmux completion fish | source
  zsh   source <(msgmux completion zsh), after compinit`,
		ValidArgs: shells,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains(shells, args[0]) {
				return usagef("which shell? %s", orList(shells))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(os.Stdout, true)
			case "fish":
				return root.GenFishCompletion(os.Stdout, true)
			default:
				return root.GenZshCompletion(os.Stdout)
			}
		},
	}
}

// orList is such as "a, b or c".
func orList(words []string) string {
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
