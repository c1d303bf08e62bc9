// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// cgroupPrefix begins the name of every container, and so of its control groups.
const cgroupPrefix = "msgmux-rig-"

// cgroups returns the folders of the control groups that this process is in: in the unified hierarchy, which must be
// there, because it can kill a whole group, and in systemd's own one where the host has hierarchies of both kinds.
func cgroups() ([]string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	memberships, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	return cgroupFolders(string(mounts), string(memberships))
}

// cgroupFolders joins what proc_pid_mountinfo(5) says with what cgroups(7) says of /proc/PID/cgroup.
func cgroupFolders(mounts, memberships string) ([]string, error) {
	var unified, named string // mount points
	for line := range strings.Lines(mounts) {
		before, after, _ := strings.Cut(line, " - ")
		at, kind := strings.Fields(before), strings.Fields(after)
		if len(at) < 5 || len(kind) < 3 {
			continue
		}
		switch {
		case kind[0] == "cgroup2":
			unified = at[4]
		case kind[0] == "cgroup" && slices.Contains(strings.Split(kind[2], ","), "name=systemd"):
			named = at[4]
		}
	}
	var folders []string
	for line := range strings.Lines(memberships) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(fields) < 3:
		case fields[0] == "0" && unified != "":
			folders = slices.Insert(folders, 0, filepath.Join(unified, fields[2]))
		case fields[1] == "name=systemd" && named != "":
			folders = append(folders, filepath.Join(named, fields[2]))
		}
	}
	if len(folders) == 0 || unified == "" {
		return nil, errors.New("that needs the unified cgroup hierarchy")
	}
	return folders, nil
}

// sweep removes control groups that a killed supervisor left. The kernel refuses to remove one with a process in it, so
// the containers of others are safe; one that has none yet is told by its age.
func sweep(folders []string) {
	for _, folder := range folders {
		left, _ := filepath.Glob(filepath.Join(folder, cgroupPrefix+"*"))
		for _, group := range left {
			if info, err := os.Stat(group); err != nil || time.Since(info.ModTime()) < time.Minute {
				continue
			}
			var below []string
			filepath.WalkDir(group, func(path string, entry os.DirEntry, err error) error {
				if err == nil && entry.IsDir() {
					below = append(below, path)
				}
				return nil
			})
			for _, dir := range slices.Backward(below) {
				os.Remove(dir)
			}
		}
	}
}
