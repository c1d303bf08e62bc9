// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// maintainer is who the packages name; nfpm.yaml has the same.
const maintainer = "The msgmux authors <msgmux@users.noreply.github.com>"

// release is one version of CHANGELOG.md, whose shape a test at the top of the repository guards.
type release struct {
	version string
	date    time.Time
	changes []string // "Added: what is different."
}

var (
	releaseLine = regexp.MustCompile(`^## (?:Unreleased|(\d+\.\d+\.\d+) - (\d{4}-\d{2}-\d{2}))$`)
	codeSpan    = regexp.MustCompile("`([^`]*)`")
	link        = regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`)
)

// parseChangelog reads CHANGELOG.md. What is unreleased becomes the given version of the given date; without anything
// unreleased there is no such release, because then the version is the first one in the file.
func parseChangelog(markdown, version string, date time.Time) ([]release, error) {
	var all []release
	section := ""
	for line := range strings.Lines(markdown) {
		line = strings.TrimRight(line, " \n")
		if found := releaseLine.FindStringSubmatch(line); found != nil {
			r := release{version: version, date: date}
			if found[1] != "" {
				var err error
				r.version = found[1]
				if r.date, err = time.Parse(time.DateOnly, found[2]); err != nil {
					return nil, fmt.Errorf("cannot read the date of %s: %w", found[1], err)
				}
			}
			all = append(all, r)
			continue
		}
		if len(all) == 0 {
			continue // the introduction
		}
		last := &all[len(all)-1]
		if text, ok := strings.CutPrefix(line, "### "); ok {
			section = text
		} else if text, ok := strings.CutPrefix(line, "- "); ok {
			last.changes = append(last.changes, section+": "+plain(text))
		} else if text := strings.TrimSpace(line); text != "" && len(last.changes) > 0 {
			last.changes[len(last.changes)-1] += " " + plain(text)
		}
	}
	released := all[:0]
	for _, r := range all {
		if len(r.changes) > 0 {
			released = append(released, r)
		}
	}
	if len(released) == 0 {
		return nil, fmt.Errorf("the change log has no entry")
	}
	return released, nil
}

// plain takes Markdown's marks out of a text.
func plain(markdown string) string {
	return link.ReplaceAllString(codeSpan.ReplaceAllString(markdown, "$1"), "$1")
}

// debianChangelog is deb-changelog(5).
func debianChangelog(releases []release) string {
	var out strings.Builder
	for i, r := range releases {
		if i > 0 {
			out.WriteByte('\n')
		}
		fmt.Fprintf(&out, "msgmux (%s) unstable; urgency=medium\n\n", r.version)
		for _, change := range r.changes {
			out.WriteString(wrap("  * ", "    ", change))
		}
		fmt.Fprintf(&out, "\n -- %s  %s\n", maintainer, r.date.UTC().Format(time.RFC1123Z))
	}
	return out.String()
}

// rpmChangelog is the YAML of which nfpm makes the change log of an rpm. The packages have release 1.
func rpmChangelog(releases []release) string {
	var out strings.Builder
	for _, r := range releases {
		fmt.Fprintf(&out, "- semver: %q\n  date: %s\n  packager: %q\n  changes:\n",
			r.version+"-1", r.date.UTC().Format(time.RFC3339), maintainer)
		for _, change := range r.changes {
			fmt.Fprintf(&out, "    - note: %q\n", change)
		}
	}
	return out.String()
}

// wrap breaks text into lines of at most 76 characters, where a word is not longer by itself. The first line begins with
// first, the others with rest.
func wrap(first, rest, text string) string {
	var out strings.Builder
	line := first
	empty := true
	for word := range strings.FieldsSeq(text) {
		if !empty && len(line)+1+len(word) > 76 {
			out.WriteString(line + "\n")
			line, empty = rest, true
		}
		if !empty {
			line += " "
		}
		line += word
		empty = false
	}
	return out.String() + line + "\n"
}
