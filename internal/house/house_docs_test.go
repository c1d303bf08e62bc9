// SPDX-License-Identifier: Apache-2.0

package house_test

// The rules of the house for what people read: links lead somewhere, the change log keeps its shape, the man pages know
// every flag.

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// TestDocumentLinksLeadSomewhere follows every relative link in every Markdown file, to the heading if it names one.
func TestDocumentLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^()\s]+)\)`)
	all := files(t)
	for name, text := range all {
		if path.Ext(name) != ".md" {
			continue
		}
		for _, found := range link.FindAllStringSubmatch(withoutCode(string(text)), -1) {
			target, heading, _ := strings.Cut(found[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			to := name
			if target != "" {
				to = path.Join(path.Dir(name), target)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: the link %s leads nowhere", name, found[1])
				continue
			}
			if heading != "" && path.Ext(to) == ".md" && !slices.Contains(anchors(string(all[to])), heading) {
				t.Errorf("%s: the link %s names a heading that %s does not have", name, found[1], to)
			}
		}
	}
}

// TestChangelogKeepsItsShape wants versions with dates, newest first, the known sections, and entries that are sentences.
func TestChangelogKeepsItsShape(t *testing.T) {
	text, err := os.ReadFile("CHANGELOG.md")
	if err != nil {
		t.Fatalf("cannot read the change log: %v", err)
	}
	version := regexp.MustCompile(`^## (Unreleased|\d+\.\d+\.\d+ - \d{4}-\d{2}-\d{2})$`)
	sections := []string{"### Added", "### Changed", "### Fixed", "### Removed", "### Security"}
	var versions, entries int
	var entry string // the bullet being read: it may go over several lines
	ended := func() {
		if entry == "" {
			return
		}
		entries++
		if first := []rune(entry)[0]; !strings.HasSuffix(entry, ".") || unicode.IsLower(first) {
			t.Errorf("CHANGELOG.md: not a sentence: %q", entry)
		}
		entry = ""
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if lines[0] != "# Changelog" {
		t.Errorf("CHANGELOG.md begins with %q, not with # Changelog", lines[0])
	}
	for _, line := range lines[1:] {
		switch {
		case strings.HasPrefix(line, "## "):
			ended()
			versions++
			if !version.MatchString(line) {
				t.Errorf("CHANGELOG.md: %q is neither Unreleased nor VERSION - DATE", line)
			}
			if line == "## Unreleased" && versions > 1 {
				t.Errorf("CHANGELOG.md: Unreleased must stand first")
			}
		case strings.HasPrefix(line, "### "):
			ended()
			if !slices.Contains(sections, line) {
				t.Errorf("CHANGELOG.md: section %q is none of %v", line, sections)
			}
		case strings.HasPrefix(line, "- "):
			ended()
			entry = strings.TrimPrefix(line, "- ")
		case entry != "" && strings.TrimSpace(line) != "":
			entry += " " + strings.TrimSpace(line)
		}
	}
	ended()
	if versions == 0 || entries == 0 {
		t.Errorf("CHANGELOG.md has %d versions and %d entries", versions, entries)
	}
}

// TestDecisionsAreNumbered wants every decision to have a number of its own, the next one, in its name, its title and the list.
func TestDecisionsAreNumbered(t *testing.T) {
	const folder = "docs/decisions/"
	var names []string
	all := files(t)
	for name := range all {
		if path.Dir(name)+"/" == folder && path.Base(name) != "README.md" {
			names = append(names, path.Base(name))
		}
	}
	if slices.Sort(names); len(names) < 10 {
		t.Fatalf("only %d decisions in %s", len(names), folder)
	}
	list, at := string(all[folder+"README.md"]), 0
	for i, name := range names {
		number := fmt.Sprintf("%04d", i+1)
		if !strings.HasPrefix(name, number+"-") {
			t.Fatalf("%s is decision %s", name, number)
		}
		title, _, _ := strings.Cut(string(all[folder+name]), "\n")
		if !strings.HasPrefix(title, "# "+number+": ") {
			t.Errorf("%s has the title %q", name, title)
		}
		in := strings.Index(list, "| ["+number+"]("+name+") | ")
		if in < at || strings.Count(list, "("+name+")") != 1 {
			t.Errorf("%s does not stand in its place in the list", name)
		}
		at = max(at, in)
	}
}

// TestManPagesNameEveryFlag asks both commands for their flags and looks for each in the command's man page.
func TestManPagesNameEveryFlag(t *testing.T) {
	bin := t.TempDir()
	for command, section := range map[string]string{"msgmux": "1", "msgmuxd": "8"} {
		page := manPage(t, command+"."+section)
		if page == "" {
			t.Logf("%s has no man page yet", command)
			continue
		}
		if out, err := exec.Command("go", "build", "-o", bin, "./cmd/"+command).CombinedOutput(); err != nil {
			t.Fatalf("cannot build %s: %v\n%s", command, err, out)
		}
		found := flagsOf(t, filepath.Join(bin, command))
		if len(found) < 5 {
			t.Errorf("only %d flags found in the help of %s: %v", len(found), command, found)
		}
		for _, flag := range found {
			named := regexp.MustCompile(regexp.QuoteMeta(flag) + `([^a-z0-9-]|$)`)
			if !named.MatchString(page) {
				t.Errorf("the man page of %s does not name %s", command, flag)
			}
		}
	}
}

// manPage finds the source of a man page, "msgmux.1" or "msgmux.1.md" anywhere in the repository, and returns its text
// with roff's escaped hyphens made plain, or "" if there is none.
func manPage(t *testing.T, page string) string {
	t.Helper()
	for name, text := range files(t) {
		if base := path.Base(name); base == page || strings.HasPrefix(base, page+".") {
			return strings.ReplaceAll(string(text), `\-`, "-")
		}
	}
	return ""
}

// flagsOf collects the long flags in the help of a command and of the commands below it.
func flagsOf(t *testing.T, command string, below ...string) []string {
	t.Helper()
	out, err := exec.Command(command, append(slices.Clone(below), "--help")...).CombinedOutput()
	if err != nil {
		t.Fatalf("cannot get the help of %s %v: %v", command, below, err)
	}
	flag := regexp.MustCompile(`(?m)^ +(?:-[A-Za-z0-9], )?(--[a-z][a-z0-9-]+)`)
	found := make([]string, 0)
	for _, match := range flag.FindAllStringSubmatch(string(out), -1) {
		found = append(found, match[1])
	}
	_, listed, _ := strings.Cut(string(out), "Available Commands:\n")
	listed, _, _ = strings.Cut(listed, "\n\n")
	for line := range strings.Lines(listed) {
		// What the command-line library brings itself is described by its own help.
		if name := strings.Fields(line); len(name) > 0 && name[0] != "help" && name[0] != "completion" {
			found = append(found, flagsOf(t, command, append(slices.Clone(below), name[0])...)...)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// withoutCode blanks fenced blocks and code spans, in which a bracket is no link.
func withoutCode(markdown string) string {
	fenced := regexp.MustCompile("(?ms)^ *```.*?^ *```")
	span := regexp.MustCompile("`[^`\n]*`")
	return span.ReplaceAllString(fenced.ReplaceAllString(markdown, ""), "")
}

// anchors lists the names that a Markdown file's headings have as link targets: lower case, punctuation gone, spaces to
// hyphens.
func anchors(markdown string) []string {
	fenced := regexp.MustCompile("(?ms)^ *```.*?^ *```")
	heading := regexp.MustCompile(`(?m)^#+ +(.+)$`)
	var names []string
	for _, found := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(markdown, ""), -1) {
		names = append(names, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, found[1]))
	}
	return names
}
