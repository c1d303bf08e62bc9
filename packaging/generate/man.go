// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// manFolder is where the pages are, from the top folder.
const manFolder = "docs/man"

// protocolFile is where the tables of msgmux-protocol(7) come from, goldenFolder its examples, and formsFolder those of
// msgmux-formats(5).
const (
	protocolFile = "docs/protocol.md"
	goldenFolder = "internal/wire/testdata"
	formsFolder  = "cmd/msgmux/testdata"
)

// A page is written by hand but for its derived parts, each between two comment lines. The first says what stands there:
//
//	.\" begin options          the flags of the command
//	.\" begin commands         the commands below it
//	.\" begin exit status      what its help says about that
//	.\" begin table HEAD       the table in docs/protocol.md whose first column has that head
//	.\" begin file NAME        an example of internal/wire/testdata
//	.\" begin form NAME        one of cmd/msgmux/testdata
//	.\" end
var derived = regexp.MustCompile(`(?ms)^(\.\\" begin ([^\n]*) \(make man\)\n)(.*?)(^\.\\" end\n)`)

// writeManPages brings every page up to date.
func writeManPages() error {
	pages, err := filepath.Glob(filepath.Join(manFolder, "*.[0-9]"))
	if err != nil || len(pages) == 0 {
		return fmt.Errorf("cannot find the pages in %s: %w", manFolder, err)
	}
	for _, name := range pages {
		old, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		text, err := manPage(filepath.Base(name), string(old))
		if err != nil {
			return err
		}
		if text != string(old) {
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// manPage returns a page with its derived parts as they should be.
func manPage(page, text string) (string, error) {
	name, _, _ := strings.Cut(page, ".")
	help := sync.OnceValues(func() (command, error) { return buildAndAsk(name) })
	var failed error
	text = derived.ReplaceAllStringFunc(text, func(old string) string {
		found := derived.FindStringSubmatch(old)
		part, err := derive(found[2], help)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", page, err))
		}
		return found[1] + part + found[4]
	})
	return text, failed
}

// derive writes one derived part.
func derive(what string, help func() (command, error)) (string, error) {
	for word, folder := range map[string]string{"file ": goldenFolder, "form ": formsFolder} {
		if name, ok := strings.CutPrefix(what, word); ok {
			text, err := os.ReadFile(filepath.Join(folder, name))
			return literal(strings.Split(strings.TrimRight(string(text), "\n"), "\n")), err
		}
	}
	if head, ok := strings.CutPrefix(what, "table "); ok {
		text, err := os.ReadFile(protocolFile)
		if err != nil {
			return "", err
		}
		return table(string(text), head)
	}
	c, err := help()
	switch {
	case err != nil:
		return "", err
	case what == "options":
		return optionList(c.flags), nil
	case what == "commands":
		return commandList(c), nil
	case what == "exit status":
		return exitStatusList(c), nil
	}
	return "", fmt.Errorf("there is no derived part %q", what)
}

// table makes a list of a table in a Markdown text: the first column, then the one that says what it means, which is
// called so or the last, and in brackets the others with their heads.
func table(markdown, head string) (string, error) {
	_, rest, ok := strings.Cut(markdown, "\n| "+head+" |")
	if !ok {
		return "", fmt.Errorf("%s has no table of %s", protocolFile, head)
	}
	rest, _, _ = strings.Cut("| "+head+" |"+rest, "\n\n")
	lines := strings.Split(rest, "\n")
	heads := cells(lines[0])
	main := slices.Index(heads, "meaning")
	if main < 0 {
		main = len(heads) - 1
	}
	var out strings.Builder
	out.WriteString(".Bl -tag -width Ds\n")
	for _, line := range lines[2:] { // the second only draws
		row := cells(line)
		if len(row) != len(heads) {
			return "", fmt.Errorf("%s: the table of %s has a row of %d cells: %s", protocolFile, head, len(row), line)
		}
		var others []string
		for i := 1; i < len(row); i++ {
			if i != main && row[i] != "" {
				others = append(others, heads[i]+": "+row[i])
			}
		}
		text := row[main]
		if len(others) > 0 {
			text += " (" + strings.Join(others, "; ") + ")"
		}
		fmt.Fprintf(&out, ".It Sy %s\n%s", escape(row[0]), prose(text))
	}
	return out.String() + ".El\n", nil
}

// cells are the texts of one line of a table.
func cells(line string) []string {
	var texts []string
	for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
		texts = append(texts, plain(strings.TrimSpace(cell)))
	}
	return texts
}

// literal shows lines as they are.
func literal(lines []string) string {
	var out strings.Builder
	out.WriteString(".Bd -literal -offset indent\n")
	for _, line := range lines {
		out.WriteString(escapeLine(line) + "\n")
	}
	return out.String() + ".Ed\n"
}

// optionList is a list of all flags.
func optionList(flags []flag) string {
	if len(flags) == 0 {
		return ""
	}
	var out strings.Builder
	out.WriteString(".Bl -tag -width Ds\n")
	for _, f := range flags {
		out.WriteString(".It ")
		if f.short != "" {
			out.WriteString("Fl " + strings.TrimPrefix(f.short, "-") + " , ")
		}
		// Not Fl, which would hide one of the hyphens from whoever searches the source.
		out.WriteString("Cm " + escape(f.long))
		if f.value != "" {
			out.WriteString(" Ar " + escape(f.value))
		}
		out.WriteString("\n" + prose(f.text))
	}
	return out.String() + ".El\n"
}

// commandList is a subsection for each command.
func commandList(c command) string {
	var out strings.Builder
	for _, sub := range c.below {
		fmt.Fprintf(&out, ".Ss %s\n", escape(strings.TrimPrefix(sub.name, "msgmux ")))
		if len(sub.below) == 0 {
			fmt.Fprintf(&out, ".Dl %s\n.Pp\n", escape(sub.usage))
		}
		for i, paragraph := range strings.Split(sub.text, "\n\n") {
			if lines := indented(paragraph); lines != nil {
				out.WriteString(literal(lines))
				continue
			}
			if i > 0 {
				out.WriteString(".Pp\n")
			}
			out.WriteString(prose(paragraph))
		}
		own := slices.DeleteFunc(slices.Clone(sub.flags), func(f flag) bool { return f.long == "--help" })
		out.WriteString(optionList(own))
		if len(sub.examples) > 0 {
			out.WriteString(".Pp\nExamples:\n" + literal(sub.examples))
		}
		out.WriteString(commandList(sub))
	}
	return out.String()
}

var exitLine = regexp.MustCompile(`^  (\d+(?:, \d+)*) +(\S.*)$`)

// exitStatusList is what the command's own help says about its exit statuses.
func exitStatusList(c command) string {
	var out strings.Builder
	out.WriteString(".Bl -tag -width Ds\n")
	for line := range strings.Lines(c.text) {
		if found := exitLine.FindStringSubmatch(strings.TrimRight(line, "\n")); found != nil {
			fmt.Fprintf(&out, ".It %s\n%s", found[1], prose(found[2]))
		}
	}
	return out.String() + ".El\n"
}

// sentenceEnd is where roff wants a new line.
var sentenceEnd = regexp.MustCompile(`([\w)"][.!?:]\)?) +`)

// prose writes running text, in short lines, each sentence on a new one. It reads the same as the text.
func prose(text string) string {
	var out strings.Builder
	for sentence := range strings.SplitSeq(sentenceEnd.ReplaceAllString(strings.Join(strings.Fields(text), " "), "$1\n"), "\n") {
		for line := range strings.Lines(wrap("", "", sentence)) {
			out.WriteString(escapeLine(strings.TrimRight(line, "\n")) + "\n")
		}
	}
	return out.String()
}

// indented are the lines of a paragraph of which each is indented, as those of a table are; nil: it is no such paragraph.
func indented(paragraph string) []string {
	lines := strings.Split(paragraph, "\n")
	for i, line := range lines {
		inner, ok := strings.CutPrefix(line, "  ")
		if !ok {
			return nil
		}
		lines[i] = inner
	}
	return lines
}

// escape makes text safe in roff. A hyphen stays what it is, so that an option can be copied from the page.
func escape(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
}

// escapeLine is escape for a line that may begin like a request.
func escapeLine(text string) string {
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		return `\&` + escape(text)
	}
	return escape(text)
}
