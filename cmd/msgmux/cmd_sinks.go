// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	msgmux "github.com/msgmux/msgmux/client"
)

func sinksCommand(where *location) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sinks",
		Short: "list, add, remove, drop and change sinks",
		Long: `List, add, remove, drop and change the sinks of the channel. A SINK is a label, or an
id as '#12' (in quotes, a shell takes it for a comment otherwise). Changing is
for root, the broker's user and the sink's owner.`,
		Args: cobra.ArbitraryArgs,
		RunE: chooseCommand,
	}
	cmd.AddCommand(sinksListCommand(where), sinksAddCommand(where), sinksRemoveCommand(where), sinksDropCommand(where), sinksSetCommand(where))
	return cmd
}

func sinksListCommand(where *location) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "list",
		Short:             "list the sinks",
		ValidArgsFunction: cobra.NoFileCompletions,
		Args:              noArgs,
		RunE: func(*cobra.Command, []string) error {
			l, err := list(where)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(l.Sinks)
			}
			return printText(sinkTable(l.Sinks, time.Now(), nil).append(nil))
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "a JSON array")
	return cmd
}

func sinksDropCommand(where *location) *cobra.Command {
	return &cobra.Command{
		Use:               "drop SINK...",
		Short:             "remove sinks from the channel",
		Long:              "Remove sinks from the channel. What they have not been sent counts as abandoned. Those that are connected, as sub is, are hung up on; others are not told. A static sink can be removed when its entry in the folder of sinks is gone.",
		ValidArgsFunction: completeSinks(where),
		Args:              someSinks,
		RunE: func(_ *cobra.Command, args []string) error {
			return eachSink(where, args, msgmux.Channel.Drop)
		},
	}
}

func sinksSetCommand(where *location) *cobra.Command {
	var p patience
	cmd := &cobra.Command{
		Use:               "set SINK... --patience DURATION",
		Short:             "change how long the channel waits for sinks",
		Example:           "  msgmux sinks set archive --patience forever",
		ValidArgsFunction: completeSinks(where),
		Args:              someSinks,
		RunE: func(_ *cobra.Command, args []string) error {
			if p.value == nil {
				return usagef("nothing to set: give --patience")
			}
			return eachSink(where, args, func(c msgmux.Channel, ctx context.Context, sink string) error {
				return c.Set(ctx, sink, msgmux.Settings{Patience: p.value})
			})
		},
	}
	cmd.Flags().Var(&p, "patience", "how long the channel waits for the sink before it is left behind, or forever")
	_ = cmd.RegisterFlagCompletionFunc("patience",
		cobra.FixedCompletions([]string{"0", "1s", "10s", foreverWord}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// someSinks wants at least one argument, and no empty one.
func someSinks(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("which SINK? 'msgmux sinks list' shows them")
	}
	if slices.Contains(args, "") {
		return errors.New("the name of a sink is not empty")
	}
	return nil
}

// eachSink does something with one sink after the other, up to the first failure.
func eachSink(where *location, sinks []string, do func(c msgmux.Channel, ctx context.Context, sink string) error) error {
	channel, err := where.locate()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	for _, sink := range sinks {
		if err := do(channel, ctx, sink); err != nil {
			return fmt.Errorf("%s: %w", visible(sink), err)
		}
	}
	return nil
}

// completeSinks offers the labels of the channel's sinks, and the ids of those without.
func completeSinks(where *location) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		l, err := list(where)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, s := range l.Sinks {
			if s.Label == "" {
				s.Label = "#" + strconv.FormatUint(s.ID, 10)
			}
			names = append(names, s.Label)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
