// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	msgmux "github.com/msgmux/msgmux/client"
)

func sinksCommand(where *location) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "sinks",
		Short: "list, add, remove, drop and change sinks",
		Long: `List, add, remove, drop and change the sinks of the channel; sinks alone lists them.
A SINK is a label, or an id as '#12' (in quotes, a shell takes it for a comment
otherwise). Changing is for root, the broker's user and the sink's owner.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return chooseCommand(cmd, args)
			}
			return listSinks(where, asJSON)
		},

		SuggestionsMinimumDistance: suggestWithin,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "a JSON array")
	cmd.AddCommand(sinksListCommand(where), sinksAddCommand(where), sinksRemoveCommand(where), sinksDropCommand(where), sinksSetCommand(where))
	return cmd
}

// listSinks prints the sinks of the channel.
func listSinks(where *location, asJSON bool) error {
	l, err := list(where)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(sinksAsJSON(l.Sinks), true)
	}
	return printText(sinkTable(sinkColumns, l.Sinks, time.Now(), nil).append(nil))
}

func sinksListCommand(where *location) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list the sinks",
		Args:  noArgs,
		RunE:  func(*cobra.Command, []string) error { return listSinks(where, asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "a JSON array")
	return cmd
}

func sinksDropCommand(where *location) *cobra.Command {
	return &cobra.Command{
		Use:               "drop SINK...",
		Short:             "remove sinks from the channel",
		Long:              "Remove sinks from the channel. What they have not been sent counts as abandoned. Those that are connected, as sub is, are disconnected; others are not told. A static sink can be removed when its entry in the folder of sinks is gone.",
		ValidArgsFunction: live(where, labelsOf),
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
		ValidArgsFunction: live(where, labelsOf),
		Args:              someSinks,
		RunE: func(_ *cobra.Command, args []string) error {
			if p.value == nil {
				return usagef("nothing to set: give --patience")
			}
			return eachSink(where, args, func(c msgmux.Channel, ctx context.Context, sink string) error {
				return c.SetPatience(ctx, sink, *p.value)
			})
		},
	}
	cmd.Flags().Var(&p, "patience", "how long the channel waits for the sink before it is left behind, or forever")
	complete(cmd, "patience", patienceExamples...)
	return cmd
}

// someSinks wants at least one argument, and no empty one.
func someSinks(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("which SINK? 'msgmux sinks' shows them")
	}
	if slices.Contains(args, "") {
		return errors.New("the name of a sink is not empty")
	}
	return nil
}

// eachSink does something with one sink after the other, up to the first failure.
func eachSink(where *location, sinks []string, do func(c msgmux.Channel, ctx context.Context, sink string) error) error {
	return where.ask(answerWithin, func(ctx context.Context, c msgmux.Channel) error {
		for _, sink := range sinks {
			err := do(c, ctx, sink)
			if errors.Is(err, msgmux.ErrNotFound) {
				return exitError{exitNoSink, fmt.Errorf("the channel has no sink %q; 'msgmux sinks' shows those that it has", sink)}
			}
			if err != nil {
				return fmt.Errorf("%s: %w", sink, err)
			}
		}
		return nil
	})
}
