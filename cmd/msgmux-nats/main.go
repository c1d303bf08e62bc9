// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/control"
	"github.com/msgmux/msgmux/cmd/msgmux-nats/settings"
	"github.com/msgmux/msgmux/internal/flags"
	"github.com/msgmux/msgmux/internal/stamp"
)

// Set by the linker.
var version, commit, date string

// build is what is known about this program.
var build = stamp.Of(stamp.Stamp{Version: version, Commit: commit, Date: date})

func main() {
	// A panic, and what the watchdog sends, end by a signal then, and not with status 2: that is for wrong settings, and nothing is
	// started again after it.
	debug.SetTraceback("crash")
	cmd := command()
	err := cmd.ExecuteContext(context.Background())
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "msgmux-nats:", err)
	status, _ := statusOf(err)
	if status == exitUsage {
		fmt.Fprintln(os.Stderr, "Try 'msgmux-nats --help'.")
	}
	os.Exit(status)
}

// command is the command line.
func command() *cobra.Command {
	root := &cobra.Command{
		Use: "msgmux-nats", Short: "joins a msgmux channel to a NATS JetStream stream", Version: build.String(),
		SilenceErrors: true, SilenceUsage: true, Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("there is no command %q; there are out, in, check and forget", args[0])}
			}
			return usageError{errors.New("say out, in, check or forget")}
		},
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	root.SetVersionTemplate("msgmux-nats {{.Version}}\n")
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{flags.Plain(err)} })
	root.AddCommand(
		direction("out", "carry the messages of a channel to a stream", func(b *bridge) (func(context.Context) error, string) { return b.out, b.Out }),
		direction("in", "carry the messages of a stream to a channel", func(b *bridge) (func(context.Context) error, string) { return b.in, strings.Join(b.In, ",") }),
		forgetting(),
		&cobra.Command{
			Use: "check FILE", Short: "say what a file of settings says, and nothing else", Args: oneFile,
			RunE: func(cmd *cobra.Command, args []string) error {
				s, err := settings.Read(args[0])
				if err != nil {
					return usageError{err}
				}
				fmt.Fprintf(cmd.OutOrStdout(), "channel %s\nstream %s of %s\nwriter %s\n", s.Channel.RuntimeDir, s.Stream, strings.Join(s.Servers, ", "), s.Writer)
				if s.Out != "" {
					fmt.Fprintf(cmd.OutOrStdout(), "out to %s\n", s.Out)
				}
				if len(s.In) > 0 {
					fmt.Fprintf(cmd.OutOrStdout(), "in from %s\n", strings.Join(s.In, ", "))
				}
				return nil
			},
		})
	return root
}

// oneFile wants the file of settings and nothing else.
func oneFile(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{errors.New("one file of settings is wanted, as in /etc/msgmux/nats/NAME.conf")}
	}
	return nil
}

// direction is the command of one direction; of tells what an attempt is, and which subjects the settings have for it.
func direction(name, short string, of func(*bridge) (attempt func(context.Context) error, subjects string)) *cobra.Command {
	var metrics, level string
	cmd := &cobra.Command{
		Use: name + " FILE", Short: short, Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := settings.Read(args[0])
			if err != nil {
				return usageError{err}
			}
			b := &bridge{Settings: s, direction: name, report: &report{}}
			attempt, subjects := of(b)
			if subjects == "" {
				return usageError{fmt.Errorf("the settings %s have no %s=", args[0], name)}
			}
			var least slog.Level
			if err := least.UnmarshalText([]byte(level)); err != nil {
				return usageError{fmt.Errorf("--log-level %q: debug, info, warn or error", level)}
			}
			b.log = slog.New(control.Log(least, "msgmux-nats", s.Name))
			return b.serve(cmd.Context(), attempt, metrics)
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&metrics, "metrics", "", "serve metrics at `ADDRESS`, a path or HOST:PORT")
	cmd.Flags().StringVar(&level, "log-level", "info", "`LEVEL` of what is logged: debug, info, warn, error")
	return cmd
}

// serve is the bridge until a signal ends it, or an error that does not pass.
func (b *bridge) serve(ctx context.Context, attempt func(context.Context) error, metrics string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// In a shell that has the variable from a service, or from tmux, it was never meant for us.
	notifier, err := activation.NewNotifier()
	if err != nil {
		b.log.Warn("no service manager is told anything", slog.Any("error", err))
	}
	defer notifier.Close()
	var others sync.WaitGroup
	defer others.Wait()
	defer stop()
	if metrics != "" {
		if err := b.serveMetrics(ctx, metrics, &others); err != nil {
			return err
		}
	}
	others.Go(func() { b.tell(ctx, notifier) })
	// Before it is joined: the servers may be away for a long time, and that is no reason to be started again.
	if err := notifier.Ready("connecting"); err != nil {
		b.log.Warn("cannot reach the service manager", slog.Any("error", err))
	}
	err = b.run(ctx, attempt)
	_ = notifier.Stopping() // its end tells as much
	return err
}
