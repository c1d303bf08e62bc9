// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"os"
	"strings"
	"testing"

	"github.com/msgmux/msgmux/internal/wire"
)

// TestWhatMayPass is what the table of docs/protocol.md says, for all who connect, and for codes that will come.
func TestWhatMayPass(t *testing.T) {
	text, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n## Error codes\n")
	table, _, _ = strings.Cut(table, "\n## ")
	codes := 0
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 6 || !strings.HasPrefix(line, "| `") {
			continue
		}
		code := strings.Trim(cells[1], " `")
		again := strings.TrimSpace(cells[4]) == "yes"
		if code == wire.CodeInUse {
			again = false // who has the name keeps it for as long as he likes: ErrInUse
		}
		if codes++; mayPass(wire.Refuse(code, "no")) != again {
			t.Errorf("%s: to try again is of use: %t, want %t", code, !again, again)
		}
	}
	if codes < 20 {
		t.Errorf("the table has %d codes", codes)
	}
	if !mayPass(wire.Refuse("of-a-later-broker", "no")) {
		t.Error("a code that is not known does not count as internal")
	}
}
