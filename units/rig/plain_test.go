// SPDX-License-Identifier: Apache-2.0

package rig

// Tests that need no container.

import (
	"slices"
	"testing"
)

func TestCgroupFolders(t *testing.T) {
	const (
		pure = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
		both = "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n" +
			"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n" +
			"42 31 0:39 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n"
		old = "42 31 0:39 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n"
	)
	for _, test := range []struct {
		name, mounts, memberships string
		want                      []string
	}{
		{"unified", pure, "0::/user.slice/user-0.slice\n", []string{"/sys/fs/cgroup/user.slice/user-0.slice"}},
		{"hybrid, the unified one first", both, "9:name=systemd:/a\n8:pids:/b\n0::/c\n", []string{"/sys/fs/cgroup/unified/c", "/sys/fs/cgroup/systemd/a"}},
		{"old hierarchies only", old, "8:pids:/b\n", nil},
	} {
		got, err := cgroupFolders(test.mounts, test.memberships)
		if !slices.Equal(got, test.want) || (err == nil) != (test.want != nil) {
			t.Errorf("%s: got %v, %v, want %v", test.name, got, err, test.want)
		}
	}
}

func TestRootNameTellsThePackages(t *testing.T) {
	plain, one, two := rootName(Debian12, nil), rootName(Debian12, []string{"nginx"}), rootName(Debian12, []string{"nginx", "rsyslog"})
	if plain == one || one == two || plain != rootName(Debian12, []string{}) {
		t.Errorf("names do not tell roots apart: %s, %s, %s", plain, one, two)
	}
}
