// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/journal"
)

// Entries is a slog.Handler that makes an entry of the journal of each line, with a field for each attribute. An entry
// that the journal does not take goes to standard error as text.
type Entries struct {
	level  slog.Leveler
	text   slog.Handler      // for what the journal does not take
	fields map[string]string // those of every entry
	prefix string            // of names: the groups
}

// Log is where a program logs to: the journal if that is what reads standard error (systemd.exec(5), $JOURNAL_STREAM),
// and text on standard error otherwise. identifier is what the journal calls the program, channel the channel's name.
func Log(level slog.Leveler, identifier, channel string) slog.Handler {
	text := slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})
	if ours, err := journal.StderrIsJournalStream(); err != nil || !ours {
		return text
	}
	return &Entries{level: level, text: text, fields: map[string]string{
		"SYSLOG_IDENTIFIER": identifier, "SYSLOG_PID": strconv.Itoa(os.Getpid()), "MSGMUX_CHANNEL": channel}}
}

// Enabled tells whether lines of that level are logged.
func (e *Entries) Enabled(_ context.Context, level slog.Level) bool { return level >= e.level.Level() }

// WithAttrs has every entry carry these fields.
func (e *Entries) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *e
	with.fields = maps.Clone(e.fields)
	with.text = e.text.WithAttrs(attrs)
	for _, a := range attrs {
		with.add(with.fields, nil, a)
	}
	return &with
}

// WithGroup puts name before the names of the fields that follow.
func (e *Entries) WithGroup(name string) slog.Handler {
	with := *e
	with.text = e.text.WithGroup(name)
	with.prefix += name + "_"
	return &with
}

// Handle makes the entry. It waits while the journal takes nothing.
func (e *Entries) Handle(ctx context.Context, r slog.Record) error {
	fields := maps.Clone(e.fields)
	var shown []string
	r.Attrs(func(a slog.Attr) bool {
		e.add(fields, &shown, a)
		return true
	})
	if id, ok := MessageIDs[fields["MSGMUX_EVENT"]]; ok {
		fields["MESSAGE_ID"] = id
	}
	message := r.Message
	if len(shown) > 0 {
		message += " (" + strings.Join(shown, ", ") + ")"
	}
	if err := journal.Send(message, priority(r.Level), fields); err != nil {
		return e.text.Handle(ctx, r)
	}
	return nil
}

// add makes a field of an attribute, and, but for the event's name, a word of the message.
func (e *Entries) add(fields map[string]string, shown *[]string, a slog.Attr) {
	value := a.Value.Resolve()
	if value.Kind() == slog.KindGroup {
		inner := *e
		if a.Key != "" {
			inner.prefix += a.Key + "_"
		}
		for _, member := range value.Group() {
			inner.add(fields, shown, member)
		}
		return
	}
	if a.Key == "" {
		return
	}
	fields[fieldName(e.prefix+a.Key)] = value.String()
	if err, ok := value.Any().(error); ok {
		if errno, ok := errors.AsType[syscall.Errno](err); ok {
			fields["ERRNO"] = strconv.Itoa(int(errno))
		}
	}
	if shown != nil && a.Key != "event" {
		*shown = append(*shown, fmt.Sprintf("%s=%s", a.Key, value))
	}
}

// fieldName makes a field of the journal out of a name: capitals, digits and underscores, 64 at most.
func fieldName(name string) string {
	field := []byte("MSGMUX_" + strings.ToUpper(name))
	for i, b := range field {
		if (b < 'A' || b > 'Z') && (b < '0' || b > '9') {
			field[i] = '_'
		}
	}
	return string(field[:min(len(field), 64)])
}

// priority is that of syslog(3).
func priority(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}
