// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"log/slog"
	"sync"
	"testing"
)

// TestLinesAfterTheEnd: whoever is late, such as one that closes descriptors and was told that the service manager does
// not listen, says nothing any more, and ends no process by it. What was said before is written.
func TestLinesAfterTheEnd(t *testing.T) {
	var written lineCounter
	j := New(&written)
	for range 100 {
		j.Event(slog.LevelInfo, EventInternal, "in time")
	}
	var late sync.WaitGroup
	for range 4 {
		late.Go(func() {
			for range 1000 {
				j.Event(slog.LevelInfo, EventInternal, "late")
			}
		})
	}
	j.Close()
	late.Wait()
	j.Event(slog.LevelInfo, EventInternal, "too late")
	if written.n < 100 {
		t.Errorf("%d lines of 100 were written", written.n)
	}
}

type lineCounter struct {
	mu sync.Mutex
	n  int
}

func (c *lineCounter) Enabled(context.Context, slog.Level) bool { return true }
func (c *lineCounter) WithAttrs([]slog.Attr) slog.Handler       { return c }
func (c *lineCounter) WithGroup(string) slog.Handler            { return c }
func (c *lineCounter) Handle(context.Context, slog.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return nil
}
