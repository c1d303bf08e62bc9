// SPDX-License-Identifier: Apache-2.0

package stamp

import (
	"runtime/debug"
	"testing"
)

// TestStampIsOfTheLinkerOrTheGoCommand, in this order, and says so where neither knows.
func TestStampIsOfTheLinkerOrTheGoCommand(t *testing.T) {
	checkout := []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}}
	for _, test := range []struct {
		linked Stamp
		info   debug.BuildInfo
		want   string
	}{
		{Stamp{"1.2.3", "def", "today"}, debug.BuildInfo{Main: debug.Module{Version: "v9"}, Settings: checkout}, "1.2.3 (commit def, today)"},
		{Stamp{}, debug.BuildInfo{Main: debug.Module{Version: "v1.4.0"}}, "v1.4.0 (commit unknown, unknown)"},
		{Stamp{}, debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: checkout}, "devel (commit abc, 2026-01-02T03:04:05Z)"},
		{Stamp{}, debug.BuildInfo{}, "devel (commit unknown, unknown)"},
	} {
		if got := of(test.linked, &test.info).String(); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}
