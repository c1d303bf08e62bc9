// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/test"
)

// TestForeignFolders are refused: whoever owns the folder of the sockets can put another one's in their place, and whoever
// owns the folder of static sinks is sent everything.
func TestForeignFolders(t *testing.T) {
	need.Root(t, "unit")
	const other = 65533
	msgmuxd := program(t)
	for _, foreign := range []string{"", "/sinks"} {
		dir := test.Folder(t)
		if err := os.MkdirAll(dir+foreign, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir+foreign, other, other); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), brokertest.Within)
		out, err := exec.CommandContext(ctx, msgmuxd, "--runtime-dir", dir).CombinedOutput()
		cancel()
		if err == nil || !strings.Contains(string(out), dir+foreign+" belongs to uid 65533") {
			t.Errorf("%s of another user: %v, %s", dir+foreign, err, out)
		}
		if _, err := os.Stat(dir + "/source"); err == nil {
			t.Errorf("%s of another user: its sockets are there", dir+foreign)
		}
	}
}
