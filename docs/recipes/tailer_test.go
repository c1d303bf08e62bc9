// SPDX-License-Identifier: Apache-2.0

package recipes

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/docs/recipes/stage"
)

// TestPromise10_Tailer kills the tailer again and again while its file grows: each line is in the channel once, and in order.
func TestPromise10_Tailer(t *testing.T) {
	broker := stage.StartBroker(t, "--buffer", "1M")
	counter := broker.Subscribe("counter")
	path := stage.Folder(t) + "/log"
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines, met := 0, 0 // met: after it had sent something
	grow := func(n int) {
		var text strings.Builder
		for range n {
			fmt.Fprintf(&text, "%d and some text, to make the line as long as lines are\n", lines)
			lines++
		}
		// In two writes: what has no end yet is no line.
		half := text.Len() - 30
		for _, part := range []string{text.String()[:half], text.String()[half:]} {
			if _, err := file.WriteString(part); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range kills() {
		before := len(counter.Out())
		p := stage.Start(t, []string{"tailer", "log", path})
		grow(3000)
		if i%4 != 0 {
			stage.Until(t, "the tailer is at work", func() bool { return len(counter.Out()) > before })
		}
		time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
		p.Kill()
		if len(counter.Out()) > before {
			met++
		}
	}
	t.Logf("the tailer was killed %d times, %d times after it had sent something", kills(), met)
	p := stage.Start(t, []string{"tailer", "log", path})
	got := counter.WaitFor(lines)
	p.Stop()
	if status := p.Wait(); status != 0 {
		t.Errorf("the tailer ended with status %d by SIGTERM: %s", status, p.Err())
	}
	for i, line := range got {
		if !strings.HasPrefix(line, fmt.Sprint(i, " and")) {
			t.Fatalf("message %d is %q", i, line)
		}
	}
	if len(got) != lines || met < kills()/2 {
		t.Errorf("%d of %d lines, %d kills at work", len(got), lines, met)
	}
}
