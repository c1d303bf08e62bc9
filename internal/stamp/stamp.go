// SPDX-License-Identifier: Apache-2.0

// Package stamp says which build a program is. It makes no compatibility promise.
package stamp

import (
	"cmp"
	"runtime/debug"
)

// Stamp is what a program knows about its build.
type Stamp struct{ Version, Commit, Date string }

// Of completes what the linker was told, which wins, with what the go command has left in the program: of an install by
// version, the version; of a build in a checkout, the commit and its date. What nobody knows is "devel" or "unknown".
func Of(linked Stamp) Stamp {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = new(debug.BuildInfo)
	}
	return of(linked, info)
}

func of(linked Stamp, info *debug.BuildInfo) Stamp {
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	version := info.Main.Version
	if version == "(devel)" {
		version = ""
	}
	return Stamp{
		Version: cmp.Or(linked.Version, version, "devel"),
		Commit:  cmp.Or(linked.Commit, settings["vcs.revision"], "unknown"),
		Date:    cmp.Or(linked.Date, settings["vcs.time"], "unknown"),
	}
}

// String is the stamp as --version prints it.
func (s Stamp) String() string { return s.Version + " (commit " + s.Commit + ", " + s.Date + ")" }
