// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// manFolder is where the pages are, from the top folder.
const manFolder = "docs/man"

// A page is written by hand but for the parts between two comment lines, which come from --help:
//
//	.\" begin PART (from --help: make man)
//	.\" end PART
const (
	beginMark = `.\" begin `
	beginNote = ` (from --help: make man)`
	endMark   = `.\" end `
)

// parts are the derived parts of each page.
var parts = map[string]map[string]func(command) string{
	"msgmux.1": {
		"options":     func(c command) string { return optionList(c.flags) },
		"commands":    commandList,
		"exit status": exitStatusList,
	},
	"msgmuxd.8": {
		"options": func(c command) string { return optionList(c.flags) },
	},
}

// writeManPages brings every page up to date.
func writeManPages() error {
	for page := range parts {
		name := filepath.Join(manFolder, page)
		old, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		text, err := manPage(page, string(old))
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
	c, err := buildAndAsk(name)
	if err != nil {
		return "", err
	}
	for part, write := range parts[page] {
		begin, end := beginMark+part+beginNote+"\n", endMark+part+"\n"
		before, rest, ok := strings.Cut(text, begin)
		_, after, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			return "", fmt.Errorf("%s lacks the lines %q and %q", page, begin, end)
		}
		text = before + begin + write(c) + end + after
	}
	return text, nil
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
			if i > 0 {
				out.WriteString(".Pp\n")
			}
			out.WriteString(prose(paragraph))
		}
		own := slices.DeleteFunc(slices.Clone(sub.flags), func(f flag) bool { return f.long == "--help" })
		out.WriteString(optionList(own))
		if len(sub.examples) > 0 {
			out.WriteString(".Pp\nExamples:\n.Bd -literal -offset indent\n")
			for _, line := range sub.examples {
				out.WriteString(escape(line) + "\n")
			}
			out.WriteString(".Ed\n")
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
var sentenceEnd = regexp.MustCompile(`([.!?:]\)?) +`)

// prose writes running text, in short lines, each sentence on a new one. It reads the same as the text.
func prose(text string) string {
	var out strings.Builder
	for _, sentence := range strings.Split(sentenceEnd.ReplaceAllString(strings.Join(strings.Fields(text), " "), "$1\n"), "\n") {
		for line := range strings.Lines(wrap("", "", sentence)) {
			out.WriteString(escapeLine(strings.TrimRight(line, "\n")) + "\n")
		}
	}
	return out.String()
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
