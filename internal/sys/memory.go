// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

// noLimit is more than version 1 of control groups writes where it has no limit.
const noLimit = 1 << 62

// MemoryLimit is the lowest limit on the way from a process's control group up to the root, and the file that says so
// (cgroups(7)). Where nothing can be read there is no limit.
func MemoryLimit(root, membership string) (limit uint64, file string) {
	limit = math.MaxUint64
	text, err := os.ReadFile(membership)
	if err != nil {
		return limit, ""
	}
	for line := range strings.Lines(string(text)) {
		// "0::/path" is version 2, "4:memory:/path" the memory controller of version 1.
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		top, name := root, "memory.max"
		switch f[1] {
		case "":
		case "memory":
			top, name = path.Join(root, "memory"), "memory.limit_in_bytes"
		default:
			continue
		}
		for dir := path.Clean("/" + f[2]); ; dir = path.Dir(dir) {
			at := path.Join(top, dir, name)
			if b, err := os.ReadFile(at); err == nil {
				// "max" is no number, and no limit.
				if n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil && n < limit && n < noLimit {
					limit, file = n, at
				}
			}
			if dir == "/" {
				break
			}
		}
	}
	return limit, file
}
