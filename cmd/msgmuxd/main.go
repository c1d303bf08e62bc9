// SPDX-License-Identifier: Apache-2.0

// Command msgmuxd is the broker of one channel. See msgmuxd(8).
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/activation/hold"
	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/control"
	"github.com/msgmux/msgmux/broker/scout"
	"github.com/msgmux/msgmux/internal/flags"
	"github.com/msgmux/msgmux/internal/stamp"
	"github.com/msgmux/msgmux/internal/sys"
)

// Set by the linker.
var version, commit, date string

// build is what is known about this program.
var build = stamp.Of(stamp.Stamp{Version: version, Commit: commit, Date: date})

// Exit codes.
const (
	exitFailure = 1
	exitUsage   = 2
)

// usageError is a command line that makes no sense.
type usageError struct{ error }

// shortestLife is how long a broker that a service manager has started lives at least when it ends by an error: one that cannot
// start is started again for ever, and should not burn a processor. A crash or a kill is none that this process could prolong,
// and its successor comes at once.
const shortestLife = time.Second

func main() {
	scout.Serve()
	began := time.Now()
	o := options{held: hold.Handed()}
	// What fails before the broker itself begins is a mistake in the command line, whoever noticed it.
	started := false
	cmd := &cobra.Command{
		Use:     "msgmuxd [flags]",
		Short:   "one-to-many message passing between the processes of a host",
		Version: build.String(),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("no argument is expected, but there is %q", args[0])
			}
			return nil
		},
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.finish(); err != nil {
				return err
			}
			started = true
			if o.hold && !o.held {
				return holdBrokers(&o)
			}
			return serve(cmd.Context(), &o)
		},
	}
	cmd.SetVersionTemplate("msgmuxd {{.Version}}\n")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return flags.Plain(err) })
	cmd.CompletionOptions.DisableDefaultCmd = true
	o.register(cmd.Flags())
	err := cmd.ExecuteContext(context.Background())
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "msgmuxd:", err)
	if os.Getenv("NOTIFY_SOCKET") != "" && !o.held {
		time.Sleep(shortestLife - time.Since(began)) // SIGTERM ends it, as nobody catches that any more
	}
	if !started || errors.As(err, new(usageError)) {
		fmt.Fprintln(os.Stderr, "Try 'msgmuxd --help'.")
		os.Exit(exitUsage)
	}
	os.Exit(exitFailure)
}

// serve is the broker until a signal ends it.
func serve(ctx context.Context, o *options) error {
	// The data thread may hold a P while it waits for a moment (see sys.Kernel.EpollWait): one more is for the others.
	runtime.GOMAXPROCS(max(3, runtime.GOMAXPROCS(0)+1))
	// Under a service manager, what a signal does is the manager's business before READY too.
	ctx, stop := untilStopped(ctx, o.held)
	defer stop()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)

	log := control.Log(o.logLevel, "msgmuxd", o.channel)
	set, unlink, err := sockets(o, log)
	if err != nil {
		return err
	}
	if unlink != nil {
		defer unlink()
	}
	notifier, err := activation.NewNotifier()
	switch {
	case err != nil && unlink == nil:
		return err
	case err != nil:
		// Started by hand, in a shell that has the variable from a service: it was never meant for us.
		slog.New(log).Warn("no service manager is told anything", "event", "descriptor-store", "error", err)
	}
	cfg := o.config()
	cfg.Version, cfg.Notifier, cfg.Log, cfg.Unlink, cfg.Held = build.Version, notifier, log, unlink, o.held
	if d, ok := activation.WatchdogInterval(); ok {
		cfg.Watchdog = d
	}
	if err := limits(o, &cfg); err != nil {
		return err
	}
	channel, err := broker.Open(cfg, set)
	if err != nil {
		return err
	}
	var others sync.WaitGroup
	if err := fronts(ctx, o, &set, notifier != nil && !o.held, channel, log, &others); err != nil {
		return err
	}
	others.Go(func() {
		for {
			select {
			case <-hangup:
				channel.Rescan()
			case <-ctx.Done():
				return
			}
		}
	})
	err = channel.Run(ctx)
	stop()
	others.Wait()
	return err
}

// untilStopped ends with the first signal that ends a broker, whose later ones change nothing until stop. Of a holder SIGINT comes
// when no other broker is to come after this one; by itself this one cannot know.
func untilStopped(ctx context.Context, held bool) (_ context.Context, stop func()) {
	ctx, end := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		select {
		case s := <-signals:
			if held && s == syscall.SIGINT {
				end(broker.ErrLast)
			}
		case <-ctx.Done():
		}
		end(nil)
	}()
	return ctx, func() { signal.Stop(signals); end(nil) }
}

// sockets are those that the service manager gave, or, with --runtime-dir, those that are bound here. unlink removes
// the latter's files; nil for the former.
func sockets(o *options, log slog.Handler) (set activation.Set, unlink func() error, err error) {
	meant := activation.MeantFor()
	inherited, err := activation.Inherited()
	if err != nil {
		return set, unlink, err
	}
	set, problems := activation.Route(inherited)
	for _, p := range problems {
		if !p.OfStore() {
			return set, unlink, fmt.Errorf("%s; nobody would read what comes there, so the broker does not start", p)
		}
		slog.New(log).Error(p.String(), "event", "descriptor-refused")
		syscall.Close(p.FD)
	}
	switch {
	case len(set.All()) > 0 && len(o.sources) > 0 && !o.held:
		return set, unlink, usageError{errors.New("--source does not go with sockets that are handed over: hand that one over too, by the name source")}
	case len(set.All()) > 0:
		return set, unlink, nil
	case o.runtimeDir == "" && meant != 0:
		return set, unlink, usageError{fmt.Errorf("the sockets were handed over to process %d (LISTEN_PID), and this is %d: what started msgmuxd, such as the "+
			"init of a container or a shell, has to become it by exec; or say --runtime-dir DIR to make sockets here", meant, os.Getpid())}
	case o.runtimeDir == "":
		return set, unlink, usageError{errors.New("no sockets were handed over; say --runtime-dir DIR to make them here")}
	}
	bound, err := activation.Bind(o.runtimeDir, 0o660, o.sources...)
	if err != nil {
		return set, unlink, err
	}
	set.Own = bound.Own
	// Whoever can put an entry there has the broker send to it what everybody sends.
	sinks := filepath.Join(o.runtimeDir, "sinks")
	err = os.Mkdir(sinks, 0o755)
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = activation.CheckFolder(sinks)
	}
	if err != nil {
		bound.Unlink()
		return set, unlink, fmt.Errorf("cannot use the folder of static sinks: %w", err)
	}
	return set, bound.Unlink, nil
}

// spareDescriptors is how many a broker needs beside those of sinks and clients, for sockets, files and the like.
const spareDescriptors = 64

// stored is how many descriptors a broker may have to store.
func (o *options) stored() uint64 { return o.maxSinks + o.maxClients + 8 }

// raiseLimit has this process have so many descriptors, if that many are allowed, and at least so many.
func raiseLimit(least, want uint64) (limit uint64, err error) {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 0, fmt.Errorf("cannot read the limit of descriptors: %w", err)
	}
	if r.Cur < want {
		r.Cur = min(r.Max, want)
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &r); err != nil || r.Cur < least {
			return 0, fmt.Errorf("--max-sinks and --max-clients need %d descriptors and the limit is %d: raise LimitNOFILE, or ulimit -n", least, r.Cur)
		}
	}
	return r.Cur, nil
}

// limits checks that what may be asked of this process can be had: a broker that runs into a limit later can lose the
// descriptor store, and with it every sink. Clients that have said nothing yet may have what is left.
func limits(o *options, cfg *broker.Config) error {
	need := o.stored()
	limit, err := raiseLimit(need+spareDescriptors, need+spareDescriptors+2*broker.MaxSilent)
	if err != nil {
		return err
	}
	// For each of two sockets, half of what is left; and a few for whoever comes first, whom the spare ones bear.
	cfg.Silent = int(min(broker.MaxSilent, max(8, (limit-need-spareDescriptors)/2)))
	// In a shell of a service the variable is the shell's.
	if n, known := activation.StoreLimit(); known && cfg.Notifier.HandsBack() && uint64(n) < need {
		return fmt.Errorf("--max-sinks and --max-clients need a descriptor store of %d and FileDescriptorStoreMax is %d", need, n)
	}
	limit, file := sys.MemoryLimit("/sys/fs/cgroup", "/proc/self/cgroup")
	if err := checkMemory(cfg.Geometry, limit, file); err != nil {
		return err
	}
	boundQueues(cfg, limit, file)
	return nil
}
