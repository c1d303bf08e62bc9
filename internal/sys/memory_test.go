// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

// TestMemoryLimit: the lowest limit on the way up counts, of either version of control groups.
func TestMemoryLimit(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("system.slice/memory.max", "50000000\n")
	write("system.slice/a.service/memory.max", "max\n")
	write("system.slice/b.service/memory.max", "40000000\n")
	write("memory/none/memory.limit_in_bytes", "9223372036854771712\n")
	write("memory/old/limit/memory.limit_in_bytes", "9223372036854771712\n")
	write("memory/old/memory.limit_in_bytes", "30000000\n")
	for _, test := range []struct {
		membership string
		limit      uint64
		file       string
	}{
		{"0::/\n", math.MaxUint64, ""},
		{"0::/system.slice/a.service\n", 50000000, "system.slice/memory.max"},
		{"0::/system.slice/b.service\n", 40000000, "system.slice/b.service/memory.max"},
		{"0::/nowhere/at/all\n", math.MaxUint64, ""},
		{"4:memory:/none\n", math.MaxUint64, ""},
		{"5:cpu:/system.slice\n4:memory:/old/limit\n0::/x\n", 30000000, "memory/old/memory.limit_in_bytes"},
		{"nonsense\n\n:\n::\n", math.MaxUint64, ""},
		{"0::/../../system.slice/b.service\n", 40000000, "system.slice/b.service/memory.max"},
	} {
		write("membership", test.membership)
		limit, file := MemoryLimit(root, filepath.Join(root, "membership"))
		if test.file != "" {
			test.file = filepath.Join(root, test.file)
		}
		if limit != test.limit || file != test.file {
			t.Errorf("%q: %d by %q, want %d by %q", test.membership, limit, file, test.limit, test.file)
		}
	}
	if limit, _ := MemoryLimit(root, filepath.Join(root, "missing")); limit != math.MaxUint64 {
		t.Errorf("with nothing to read: %d", limit)
	}
}
