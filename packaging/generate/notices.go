// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// The licenses that linked modules may have, by their SPDX names, and a sentence that tells each from others.
var licenses = map[string]string{
	"Apache-2.0":   "http://www.apache.org/licenses/",
	"BSD-2-Clause": "Redistribution and use in source and binary forms, with or without modification, are permitted",
	"BSD-3-Clause": "may be used to endorse or promote products derived from this software",
}

// known is every module that may be in the binaries, with its license and, where the license does not say, whose it is. A
// new dependency is entered here by somebody who has read its license.
var known = map[string]struct{ license, copyright string }{
	"github.com/coreos/go-systemd/v22": {"Apache-2.0", "2014-2022 CoreOS, Inc.; 2015-2026 Red Hat, Inc.; 2014 Docker, Inc."},
	"github.com/godbus/dbus/v5":        {"BSD-2-Clause", ""},
	"github.com/klauspost/compress":    {"BSD-3-Clause", ""},
	"github.com/nats-io/nats.go":       {"Apache-2.0", "2012-2026 The NATS Authors"},
	"github.com/nats-io/nkeys":         {"Apache-2.0", "2018-2026 The NATS Authors"},
	"github.com/nats-io/nuid":          {"Apache-2.0", "2016-2026 The NATS Authors"},
	"golang.org/x/crypto":              {"BSD-3-Clause", ""},
	"github.com/spf13/cobra":           {"Apache-2.0", "2013-2023 The Cobra Authors"},
	"github.com/spf13/pflag":           {"BSD-3-Clause", ""},
	"golang.org/x/sys":                 {"BSD-3-Clause", ""},
	"golang.org/x/text":                {"BSD-3-Clause", ""},
	goItself:                           {"BSD-3-Clause", ""},
}

// ourselves is the main module, which the bridge is a neighbour of.
const ourselves = "github.com/msgmux/msgmux"

// goItself stands for the standard library and the runtime, which are in every binary.
const goItself = "go"

// module is something that is linked into a binary.
type module struct {
	path, version string
	dir           string // where its license is
}

// linkedModules asks which modules are in the binaries of all architectures, and where they are: those of programs of the module
// in a folder.
func linkedModules(folder string, programs ...string) ([]module, error) {
	root, err := goTool(nil, "env", "GOROOT", "GOVERSION")
	if err != nil {
		return nil, err
	}
	place := strings.Split(strings.TrimSpace(root), "\n")
	modules := []module{{goItself, strings.TrimPrefix(place[1], "go"), place[0]}}
	for _, arch := range []string{"amd64", "arm64"} {
		out, err := goTool([]string{"GOOS=linux", "CGO_ENABLED=0", "GOARCH=" + arch}, append([]string{"-C", folder, "list", "-deps",
			"-f", "{{with .Module}}{{if not .Main}}{{.Path}}\t{{.Version}}\t{{.Dir}}{{end}}{{end}}"}, programs...)...)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(out) {
			if fields := strings.Split(strings.TrimSpace(line), "\t"); len(fields) == 3 && fields[0] != ourselves {
				modules = append(modules, module{fields[0], fields[1], fields[2]})
			}
		}
	}
	slices.SortFunc(modules, func(a, b module) int { return strings.Compare(a.path, b.path) })
	return slices.Compact(modules), nil
}

// goTool runs the go command with more in its environment.
func goTool(environment []string, arguments ...string) (string, error) {
	cmd := exec.Command("go", arguments...)
	cmd.Env = append(os.Environ(), environment...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("cannot run go %s: %w", arguments[0], err)
	}
	return string(out), nil
}

// copyright is the file that Debian wants, in its machine-readable form: this project, and every module that is linked in
// with its notice. A module that is not in the table, or has another license than the table says, is an error.
func copyright(modules []module) (string, error) {
	var out strings.Builder
	out.WriteString(`Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: msgmux
Source: https://github.com/msgmux/msgmux
Comment: The binaries are static. Beside msgmux itself they contain the modules
 below, in the versions given, which are not in msgmux's own source.

Files: *
Copyright: 2026 The msgmux authors
License: Apache-2.0

License: Apache-2.0
 Licensed under the Apache License, Version 2.0 (the "License"); you may not
 use this file except in compliance with the License. Unless required by
 applicable law or agreed to in writing, software distributed under the
 License is distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS
 OF ANY KIND, either express or implied. See the License for the specific
 language governing permissions and limitations under the License.
 .
 The License is at http://www.apache.org/licenses/LICENSE-2.0, on Debian
 systems in /usr/share/common-licenses/Apache-2.0, and where packages are
 rpm's in the file LICENSE beside this one.
`)
	for _, m := range modules {
		entry, ok := known[m.path]
		if !ok {
			return "", fmt.Errorf("module %s is linked in and is not in the table of packaging/generate/notices.go: read its license and enter it", m.path)
		}
		text, err := readFirst(m.dir, "LICENSE", "LICENSE.txt", "LICENSE.md", "COPYING")
		if err != nil {
			return "", fmt.Errorf("cannot read the license of %s: %w", m.path, err)
		}
		if !strings.Contains(strings.Join(strings.Fields(text), " "), licenses[entry.license]) {
			return "", fmt.Errorf("the license of %s is not %s any more: read it and correct packaging/generate/notices.go", m.path, entry.license)
		}
		holders := entry.copyright
		if holders == "" {
			holders = strings.Join(holdersIn(text), "\n ")
		}
		if holders == "" {
			return "", fmt.Errorf("the license of %s does not say whose it is: say so in packaging/generate/notices.go", m.path)
		}
		fmt.Fprintf(&out, "\nFiles: modules/%s@%s/*\nCopyright: %s\n", m.path, m.version, holders)
		if entry.license != "Apache-2.0" {
			fmt.Fprintf(&out, "License: %s\n%s", entry.license, folded(text))
			continue
		}
		out.WriteString("License: Apache-2.0\n")
		// The Apache license wants a NOTICE to be passed on.
		if notice, err := readFirst(m.dir, "NOTICE", "NOTICE.txt"); err == nil {
			fmt.Fprintf(&out, "Comment: This is its NOTICE:\n .\n%s", folded(notice))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return out.String(), nil
}

var holder = regexp.MustCompile(`(?mi)^\s*copyright (?:\(c\) )?(\d.*?)(?: All rights reserved\.)?\s*$`)

// holdersIn finds the lines of a license that say whose it is.
func holdersIn(license string) []string {
	var found []string
	for _, match := range holder.FindAllStringSubmatch(license, -1) {
		found = append(found, match[1])
	}
	return found
}

// folded writes text as a field's further lines: each after a space, empty ones as a dot.
func folded(text string) string {
	var out strings.Builder
	for line := range strings.Lines(strings.TrimSpace(text) + "\n") {
		line = strings.TrimRight(line, " \r\n")
		if line == "" {
			line = "."
		}
		out.WriteString(" " + line + "\n")
	}
	return out.String()
}

// readFirst reads the first of several files that there is.
func readFirst(dir string, names ...string) (string, error) {
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if !errors.Is(err, fs.ErrNotExist) {
			return string(text), err
		}
	}
	return "", fmt.Errorf("none of %s in %s: %w", strings.Join(names, ", "), dir, fs.ErrNotExist)
}
