// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Line is what `systemctl status` shows of the channel.
func (b *Board) Line() string {
	st := b.Status()
	var text strings.Builder
	fmt.Fprintf(&text, "%s (%d static, %d dynamic", plural(uint64(st.Sinks.Total), "sink"), st.Sinks.Static, st.Sinks.Dynamic)
	sep := "; "
	for _, x := range []struct {
		n    int
		word string
	}{{st.Sinks.Lagging, "lagging"}, {st.Sinks.Absent, "absent"}} {
		if x.n > 0 {
			fmt.Fprintf(&text, "%s%d %s", sep, x.n, x.word)
			sep = ", "
		}
	}
	fmt.Fprintf(&text, "), %s in, %s out, %s lost", grouped(st.Received), grouped(st.Accepted), grouped(st.Lost))
	if st.Sources.Blocked && st.Sources.ForSeconds >= 1 {
		fmt.Fprintf(&text, "; sources blocked %d s: %s", int(st.Sources.ForSeconds), st.Sources.Why)
	}
	return text.String()
}

func plural(n uint64, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return grouped(n) + " " + word + "s"
}

// grouped writes 12345 as 12,345.
func grouped(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// report keeps the service manager's status line, once a second.
func (b *Board) report(ctx context.Context) {
	if b.c.Notifier == nil {
		return
	}
	last := ""
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if line := b.Line(); line != last {
			last = line
			b.c.Notifier.Status(line)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
