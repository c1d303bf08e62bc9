// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// command is what --help says about one command.
type command struct {
	name     string // "msgmux sinks set"
	usage    string // "msgmux sinks set SINK... --patience DURATION", without [flags]
	text     string // paragraphs; lines as they are
	examples []string
	flags    []flag
	below    []command
}

// flag is one line of --help.
type flag struct {
	short, long string // "-c" or nothing, "--channel"
	value       string // "NAME" or nothing
	text        string
}

// buildAndAsk builds a command of this repository and reads all of its help.
func buildAndAsk(name string) (command, error) {
	bin, err := os.MkdirTemp("", "mm")
	if err != nil {
		return command{}, err
	}
	defer os.RemoveAll(bin)
	if _, err := goTool(nil, "build", "-o", bin, "./cmd/"+name); err != nil {
		return command{}, err
	}
	return ask(filepath.Join(bin, name), []string{name})
}

// ask reads the help of a command, and of those below it.
func ask(program string, names []string) (command, error) {
	out, err := exec.Command(program, append(append([]string{}, names[1:]...), "--help")...).Output()
	if err != nil {
		return command{}, fmt.Errorf("cannot get the help of %s: %w", strings.Join(names, " "), err)
	}
	c, below, err := parseHelp(strings.Join(names, " "), string(out))
	if err != nil {
		return command{}, err
	}
	for _, b := range below {
		switch {
		case len(names) == 1 && b.name == "help": // says what --help says
		default:
			sub, err := ask(program, append(append([]string{}, names...), b.name))
			if err != nil {
				return command{}, err
			}
			c.below = append(c.below, sub)
		}
	}
	return c, nil
}

var (
	section  = regexp.MustCompile(`(?m)^(Usage|Examples|Available Commands|Flags|Global Flags):\n`)
	flagLine = regexp.MustCompile(`^ {2,6}(?:(-[A-Za-z0-9]), )?(--[a-z][a-z0-9-]*)(?: (\S+))?(?:   *(.*))?$`)
)

// parseHelp reads the help of one command. below has the name and the summary of each command below it.
func parseHelp(name, help string) (c command, below []command, err error) {
	c.name = name
	marks := section.FindAllStringSubmatchIndex(help, -1)
	if len(marks) == 0 {
		return c, nil, fmt.Errorf("the help of %s has no section", name)
	}
	c.text = strings.TrimSpace(help[:marks[0][0]])
	for i, mark := range marks {
		end := len(help)
		if i+1 < len(marks) {
			end = marks[i+1][0]
		}
		lines := strings.Split(strings.TrimRight(help[mark[1]:end], "\n"), "\n")
		switch help[mark[2]:mark[3]] {
		case "Usage":
			c.usage = strings.TrimSuffix(strings.TrimSpace(lines[0]), " [flags]")
		case "Examples":
			for _, line := range lines {
				c.examples = append(c.examples, strings.TrimPrefix(line, "  "))
			}
		case "Available Commands":
			for _, line := range lines {
				if word, text, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
					below = append(below, command{name: word, text: strings.TrimSpace(text)})
				}
			}
		case "Flags":
			for _, line := range lines {
				if line == "" {
					break // what follows is a hint
				}
				found := flagLine.FindStringSubmatch(line)
				if found == nil {
					return c, nil, fmt.Errorf("cannot read a flag of %s: %q", name, line)
				}
				c.flags = append(c.flags, flag{found[1], found[2], found[3], found[4]})
			}
		}
	}
	if c.usage == "" {
		return c, nil, errors.New("the help of " + name + " has no usage")
	}
	return c, below, nil
}
