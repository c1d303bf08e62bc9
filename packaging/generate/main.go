// SPDX-License-Identifier: Apache-2.0

// Command generate writes what a package holds and nobody should have to keep up by hand: the parts of the man pages that
// say what --help says, the copyright file with the notice of every module in the binaries, and the change log in the
// forms of Debian and rpm. It is a tool of this repository and makes no compatibility promise.
//
//	generate man                              rewrite docs/man, from the commands as they are now
//	generate copyright                        print the copyright file
//	generate copyright cmd/msgmux-nats        print that of the bridge
//	generate changelog deb VERSION DATE       print the change log; DATE is in RFC 3339 and stands for what is unreleased
//	generate changelog rpm VERSION DATE
//
// It runs in the top folder of the repository.
package main

import (
	"errors"
	"fmt"
	"os"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("what to generate: man, copyright, or changelog deb|rpm VERSION DATE")

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "man":
		return writeManPages()
	case len(args) > 0 && len(args) <= 2 && args[0] == "copyright":
		folder, programs := ".", []string{"./cmd/msgmux", "./cmd/msgmuxd"}
		if len(args) == 2 {
			folder, programs = args[1], []string{"."}
		}
		modules, err := linkedModules(folder, programs...)
		if err != nil {
			return err
		}
		text, err := copyright(modules)
		os.Stdout.WriteString(text)
		return err
	case len(args) == 4 && args[0] == "changelog" && (args[1] == "deb" || args[1] == "rpm"):
		date, err := time.Parse(time.RFC3339, args[3])
		if err != nil {
			return fmt.Errorf("cannot read the date: %w", err)
		}
		markdown, err := os.ReadFile("CHANGELOG.md")
		if err != nil {
			return err
		}
		releases, err := parseChangelog(string(markdown), args[2], date)
		if err != nil {
			return err
		}
		print := debianChangelog
		if args[1] == "rpm" {
			print = rpmChangelog
		}
		os.Stdout.WriteString(print(releases))
		return nil
	}
	return errUsage
}
