// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/cmd/msgmux-nats/settings"
)

// forgetting is the command that has a bridge begin anew, when a person has decided that the stream is to be taken as it is.
func forgetting() *cobra.Command {
	return &cobra.Command{
		Use: "forget FILE", Short: "have a bridge that does not run begin anew with the stream as it is", Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := settings.Read(args[0])
			if err != nil {
				return usageError{err}
			}
			b := &bridge{Settings: s, direction: "forget", report: &report{}}
			if s.Out != "" {
				return b.forgetSink(cmd.Context())
			}
			return b.forgetMark(cmd.Context())
		},
	}
}

// forgetSink gives the place of an outward bridge up: what was not carried is abandoned.
func (b *bridge) forgetSink(ctx context.Context) error {
	if err := b.Channel.Drop(ctx, b.label()); err != nil {
		return fmt.Errorf("cannot forget the place: %w", err)
	}
	return nil
}

// forgetMark gives the mark of an inward bridge up, and the bookmark. The mark is of the user who has made it.
func (b *bridge) forgetMark(ctx context.Context) error {
	link, _, err := b.link(ctx)
	if err != nil {
		return err
	}
	defer link.Close()
	source, err := b.Channel.Dial(ctx, msgmux.SourceOptions{Label: b.label(), Marks: true, Keep: b.Keep})
	if err == nil {
		err = source.Forget(ctx)
	}
	if err != nil {
		return fmt.Errorf("cannot forget the mark: %w", err)
	}
	return link.RemoveBookmark(ctx, b.bookmark())
}
