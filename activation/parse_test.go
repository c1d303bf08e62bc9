// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"strconv"
	"strings"
	"testing"
)

// FuzzInherited feeds the parser of the LISTEN_ variables, which decides what numbers are taken for descriptors.
func FuzzInherited(f *testing.F) {
	for _, s := range [][3]string{
		{"7", "2", "source:register"},
		{"7", "1", ""},
		{"7", "0", ""},
		{"8", "2", "a:b"},
		{"7", "-1", "a"},
		{"7", "99999999999999999999", "a"},
		{"7", "2147483647", "a"},
		{"+7", " 2", "::"},
		{"", "", ""},
		{"7", "3", "a:b"},
		{"0x7", "0b1", "\x00"},
	} {
		for present := range 8 {
			f.Add(s[0], s[1], s[2], byte(present))
		}
	}
	f.Fuzz(func(t *testing.T, pid, fds, names string, present byte) {
		values := map[string]string{"LISTEN_PID": pid, "LISTEN_FDS": fds, "LISTEN_FDNAMES": names}
		for i, v := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
			if present&(1<<i) == 0 {
				delete(values, v)
			}
		}
		count, got, err := parseListen(7, func(name string) (string, bool) {
			v, ok := values[name]
			return v, ok
		})
		switch {
		case err != nil:
			if count != 0 || got != nil {
				t.Fatalf("%d descriptors and %q beside an error", count, got)
			}
			return
		case count < 0 || count > 1<<31-1-firstDescriptor:
			t.Fatalf("%d descriptors", count)
		case count == 0:
			if got != nil {
				t.Fatalf("names %q without descriptors", got)
			}
			return
		}
		// Something is taken only if it was announced to this process, whole.
		if n, err := strconv.Atoi(values["LISTEN_PID"]); err != nil || n != 7 {
			t.Fatalf("took %d descriptors of process %q", count, values["LISTEN_PID"])
		}
		if n, err := strconv.Atoi(values["LISTEN_FDS"]); err != nil || n != count {
			t.Fatalf("took %d descriptors of %q", count, values["LISTEN_FDS"])
		}
		if v, ok := values["LISTEN_FDNAMES"]; ok {
			if len(got) != count || strings.Join(got, ":") != v {
				t.Fatalf("took names %q of %q for %d descriptors", got, v, count)
			}
		} else if got != nil {
			t.Fatalf("invented names %q", got)
		}
	})
}
