// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// verdict is how a thing is: fine, worth a look, or in the way.
type verdict string

const (
	good verdict = "ok"
	poor verdict = "warn"
	bad  verdict = "fail"
)

// finding is one thing that was looked at.
type finding struct {
	Name    string  `json:"name"`
	Verdict verdict `json:"verdict"`
	Text    string  `json:"text"`             // what it is
	Advice  string  `json:"advice,omitempty"` // what to do, unless it is ok
}

func found(name string, v verdict, advice, format string, args ...any) finding {
	if v == good {
		advice = ""
	}
	return finding{name, v, visible(fmt.Sprintf(format, args...)), advice}
}

func doctorCommand(where *location) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "check the host and the channel, and say what to change",
		Long: `Check what a channel needs of its host: limits of the kernel, users and groups,
units, what systemd grants the broker; and how the channel itself is. Each line
says ok, warn or fail, and what to do. Run as root it sees everything.

The exit status is 1 if anything fails, and 0 with warnings only.`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			p, err := newPatient(where)
			if err != nil {
				return err
			}
			findings := p.examine()
			if asJSON {
				err = printJSON(findings, true)
			} else {
				err = printText(appendFindings(nil, findings))
			}
			if err != nil {
				return err
			}
			for _, f := range findings {
				if f.Verdict == bad {
					return exitError{status: exitFailure}
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "a JSON array of findings")
	return cmd
}

// appendFindings appends a line for each finding, and one for what to do about it.
func appendFindings(dst []byte, findings []finding) []byte {
	width := 0
	for _, f := range findings {
		width = max(width, len(f.Name))
	}
	for _, f := range findings {
		dst = fmt.Appendf(dst, "%-4s  %-*s  %s\n", f.Verdict, width, f.Name, f.Text)
		if f.Advice != "" {
			dst = fmt.Appendf(dst, "%s%s\n", strings.Repeat(" ", 6+width+2), "-> "+f.Advice)
		}
	}
	return dst
}
