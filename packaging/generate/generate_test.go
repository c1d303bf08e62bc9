// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/internal/need"
)

// toTop makes the top folder the working directory, as the tool has it.
func toTop(t *testing.T) {
	t.Helper()
	t.Chdir("../..")
}

// pages are the man pages that there must be.
var pages = []string{"msgmux-formats.5", "msgmux-protocol.7", "msgmux-units.5", "msgmux.1", "msgmux.7", "msgmuxd.8"}

// readPages reads all man pages.
func readPages(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, page := range pages {
		text, err := os.ReadFile(filepath.Join(manFolder, page))
		if err != nil {
			t.Fatal(err)
		}
		texts[page] = string(text)
	}
	return texts
}

// TestManPagesSayWhatHelpSays makes every derived part anew and compares.
func TestManPagesSayWhatHelpSays(t *testing.T) {
	toTop(t)
	for page, text := range readPages(t) {
		current, err := manPage(page, text)
		if err != nil {
			t.Error(err)
		} else if current != text {
			t.Errorf("%s is out of date: run make man", filepath.Join(manFolder, page))
		}
	}
}

// TestManPagesTellAllOptions renders the pages of both commands and looks for each flag with its text, so that an error of
// the generator is not taken for the truth.
func TestManPagesTellAllOptions(t *testing.T) {
	toTop(t)
	for name, page := range map[string]string{"msgmux": "msgmux.1", "msgmuxd": "msgmuxd.8"} {
		all, err := buildAndAsk(name)
		if err != nil {
			t.Fatal(err)
		}
		rendered := strings.Join(strings.Fields(render(t, page)), " ")
		count := 0
		var visit func(command)
		visit = func(c command) {
			for _, f := range c.flags {
				if f.long == "--help" && c.name != name {
					continue
				}
				count++
				want := strings.Join(strings.Fields(f.long+" "+f.value+" "+f.text), " ")
				if f.short != "" {
					want = f.short + ", " + want
				}
				if !strings.Contains(rendered, want) {
					t.Errorf("%s: %s does not have %q", page, c.name, want)
				}
			}
			for _, sub := range c.below {
				visit(sub)
			}
		}
		visit(all)
		if count < 10 {
			t.Errorf("only %d flags found in the help of %s", count, name)
		}
	}
}

// TestManPagesHaveTheSectionsPeopleLookFor in the pages of the commands.
func TestManPagesHaveTheSectionsPeopleLookFor(t *testing.T) {
	toTop(t)
	for page, text := range readPages(t) {
		want := []string{"NAME", "DESCRIPTION", "SEE ALSO"}
		if page == "msgmux.1" || page == "msgmuxd.8" {
			want = append(want, "SYNOPSIS", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "FILES", "SIGNALS", "EXAMPLES")
		}
		for _, section := range want {
			if !strings.Contains(text, "\n.Sh "+section+"\n") {
				t.Errorf("%s has no section %s", page, section)
			}
		}
	}
}

// TestManPageHasAllPromises compares the numbered promises of msgmux(7) with those of the design, each with its limits.
func TestManPageHasAllPromises(t *testing.T) {
	toTop(t)
	design, err := os.ReadFile("docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, found := range regexp.MustCompile(`(?m)^\d+\. \*\*(.*)\.\*\*`).FindAllStringSubmatch(string(design), -1) {
		want = append(want, found[1])
	}
	text := readPages(t)["msgmux.7"]
	_, list, _ := strings.Cut(text, "\n.Sh PROMISES\n")
	list, _, _ = strings.Cut(list, "\n.Sh ")
	var got []string
	for _, item := range strings.Split(list, "\n.It\n")[1:] {
		name := regexp.MustCompile(`^\.Sy (?:\\&)?(.*) \.\n`).FindStringSubmatch(item)
		if name == nil {
			t.Fatalf("a promise has no name: %s", item)
		}
		got = append(got, name[1])
		if !strings.Contains(item, "\nLimits:") {
			t.Errorf("promise %q does not say where it ends", name[1])
		}
	}
	if len(want) != 12 || !slices.Equal(got, want) {
		t.Errorf("msgmux(7) promises %q, the design %q", got, want)
	}
}

// TestManPageNamesEveryUnit looks for each unit file in msgmux-units(5).
func TestManPageNamesEveryUnit(t *testing.T) {
	toTop(t)
	text := strings.ReplaceAll(readPages(t)["msgmux-units.5"], `\-`, "-")
	system, user, ok := strings.Cut(text, "\n.Ss Units of a user\n")
	if !ok {
		t.Fatal("msgmux-units(5) does not tell the units of a user")
	}
	for folder, part := range map[string]string{"units/system": system, "units/user": user} {
		units, _ := filepath.Glob(folder + "/msgmux*")
		if len(units) == 0 {
			t.Errorf("%s has no units", folder)
		}
		for _, unit := range units {
			if !regexp.MustCompile(`(^|\s)` + regexp.QuoteMeta(filepath.Base(unit)) + `(\s|$)`).MatchString(part) {
				t.Errorf("msgmux-units(5) does not name %s", unit)
			}
		}
	}
}

// TestManPagesAreClean wants mandoc to have nothing to say.
func TestManPagesAreClean(t *testing.T) {
	toTop(t)
	need.Program(t, "packages", "mandoc", "mandoc")
	// Whether the pages that it refers to are there, mandoc looks up in the host's own folder: that is for us to do. What it
	// says about its index is not about the page.
	elsewhere := regexp.MustCompile(`(?m)^mandoc: (.*referenced manual not found.*|outdated mandoc\.db.*)\n`)
	for page, text := range readPages(t) {
		out, _ := exec.Command("mandoc", "-Tlint", filepath.Join(manFolder, page)).CombinedOutput()
		if said := elsewhere.ReplaceAllString(string(out), ""); said != "" {
			t.Errorf("%s: %s", page, said)
		}
		for _, found := range regexp.MustCompile(`(?m)^\.Xr (msgmux\S*) (\d)`).FindAllStringSubmatch(strings.ReplaceAll(text, `\-`, "-"), -1) {
			if other := found[1] + "." + found[2]; !slices.Contains(pages, other) {
				t.Errorf("%s refers to %s, which there is not", page, other)
			}
		}
	}
}

// render shows a page as text.
func render(t *testing.T, page string) string {
	t.Helper()
	need.Program(t, "packages", "mandoc", "mandoc")
	out, err := exec.Command("mandoc", "-Tascii", "-O", "width=500", filepath.Join(manFolder, page)).Output()
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(".\b").ReplaceAllString(string(out), "")
}

// TestCopyrightListsWhatIsLinked compares the file with what the linker wrote into the binaries.
func TestCopyrightListsWhatIsLinked(t *testing.T) {
	toTop(t)
	modules, err := linkedModules(".", "./cmd/msgmux", "./cmd/msgmuxd")
	if err != nil {
		t.Fatal(err)
	}
	text, err := copyright(modules)
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", bin, "./cmd/...").CombinedOutput(); err != nil {
		t.Fatalf("cannot build: %v\n%s", err, out)
	}
	out, err := exec.Command("go", "version", "-m", bin).Output()
	if err != nil {
		t.Fatal(err)
	}
	linked := regexp.MustCompile(`(?m)^\tdep\t(\S+)\t(\S+)`).FindAllStringSubmatch(string(out), -1)
	if len(linked) < 2 {
		t.Fatalf("only %d modules found in the binaries", len(linked))
	}
	for _, m := range linked {
		if !strings.Contains(text, "\nFiles: modules/"+m[1]+"@"+m[2]+"/*\n") {
			t.Errorf("the copyright file does not list %s %s", m[1], m[2])
		}
	}
	if !strings.Contains(text, "\nFiles: modules/go@1") {
		t.Error("the copyright file does not list Go's own library")
	}
}

// TestCopyrightRefusesTheUnknown module, and a license that has changed.
func TestCopyrightRefusesTheUnknown(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "LICENSE"), []byte("Copyright (c) 2026 Nobody\nYou may not.\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, m := range []module{{"example.com/new", "v1.0.0", dir}, {"github.com/spf13/pflag", "v1.0.9", dir}} {
		if text, err := copyright([]module{m}); err == nil {
			t.Errorf("%s is taken: %s", m.path, text)
		}
	}
}

// TestChangelogs prints a small one in both forms.
func TestChangelogs(t *testing.T) {
	const markdown = "# Changelog\n\nText.\n\n## Unreleased\n\n### Added\n\n- The command `msgmux` [sends](x.md)\n  a word.\n\n" +
		"## 1.2.0 - 2026-01-02\n\n### Fixed\n\n- It works.\n- Nothing is \"lost\".\n"
	date := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	releases, err := parseChangelog(markdown, "1.2.0+5.gabc", date)
	if err != nil {
		t.Fatal(err)
	}
	const deb = `msgmux (1.2.0+5.gabc) unstable; urgency=medium

  * Added: The command msgmux sends a word.

 -- The msgmux authors <msgmux@users.noreply.github.com>  Tue, 03 Feb 2026 04:05:06 +0000

msgmux (1.2.0) unstable; urgency=medium

  * Fixed: It works.
  * Fixed: Nothing is "lost".

 -- The msgmux authors <msgmux@users.noreply.github.com>  Fri, 02 Jan 2026 00:00:00 +0000
`
	if got := debianChangelog(releases); got != deb {
		t.Errorf("got %s", got)
	}
	if got := rpmChangelog(releases); !strings.Contains(got, "- semver: \"1.2.0+5.gabc-1\"\n  date: 2026-02-03T04:05:06Z\n") ||
		!strings.Contains(got, "    - note: \"Fixed: Nothing is \\\"lost\\\".\"\n") {
		t.Errorf("got %s", got)
	}
	if _, err := parseChangelog("# Changelog\n\n## Unreleased\n", "1", date); err == nil {
		t.Error("an empty change log is taken")
	}
}
