// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
)

// aMessageFrom is one of which all is known.
func aMessageFrom(text string, seq uint64, command, unit string) *message {
	m := aMessage(text, seq)
	m.text = m.Payload
	m.Origin = &msgmux.Origin{Known: true, PID: 815, UID: 1000, GID: 100, Received: aTime.Add(-time.Second), Source: 1}
	m.senders = &processes{since: m.at, found: map[int]process{815: {command, unit}}}
	return m
}

// TestTemplates that are right, byte by byte.
func TestTemplates(t *testing.T) {
	unknown := aMessage("hello\n\xff", 41)
	unknown.text = unknown.Payload
	known := aMessageFrom("hi", 42, "sh\x1b\n -c", "cron.service")
	for _, test := range []struct {
		template string
		m        *message
		want     string
		origin   bool
	}{
		{"%m", unknown, "hello\n\xff", false},
		{`%t %m\n`, unknown, "2026-03-04T04:06:07.890000001Z hello\n\xff\n", true},
		{`%o\t%b%%\0`, unknown, "41\t7%\x00", false},
		{`no message\\n`, unknown, `no message\n`, false},
		{`\x1b[1m\xFF%m\x1b[m\r`, unknown, "\x1b[1m\xffhello\n\xff\x1b[m\r", false},
		{"日本%o%o", unknown, "日本4141", false},
		{"%p %u %g %C %U", unknown, "- - - - -", true},
		{"%t %p %u %g", known, "2026-03-04T04:06:06.890000001Z 815 1000 100", true},
		{"%C|%U|%m", known, `sh\x1b\n -c|cron.service|hi`, true},
	} {
		form, err := parseTemplate(test.template)
		if err != nil {
			t.Errorf("%q: %v", test.template, err)
			continue
		}
		if got := string(form.append(nil, test.m)); got != test.want || form.origin != test.origin {
			t.Errorf("%q gives %q and asks for origins: %v; want %q", test.template, got, form.origin, test.want)
		}
	}
}

// TestBadTemplates are refused before anything is asked of a broker, and each says why.
func TestBadTemplates(t *testing.T) {
	for text, says := range map[string]string{
		"":         "it is empty",
		"%n":       "there is no %n",
		"%m %":     "nothing follows the last %",
		"%-10m":    "there is no %-",
		"%é":       "there is no %é",
		"%\x1b[2J": `there is no %\x1b`,
		`a\`:       "nothing follows a backslash",
		`\q`:       "there is no",
		`\x1`:      `two hexadecimal digits follow \x`,
		`\xg0`:     `two hexadecimal digits follow \x`,
		`\x+1`:     `two hexadecimal digits follow \x`,
	} {
		prepare(t, folder(t), "sub", "-f", text).want(exitUsage).says("--format", says)
	}
	for args, says := range map[string]string{
		"--match (":                 "--match: error parsing regexp: missing closing ): `(`",
		"-o json -f %m":             "--output and --format exclude each other",
		"--time -o line":            "--output and --time exclude each other",
		"--time -f %m -o line":      "--output and --format and --time exclude each other",
		"--match a{1001}":           "--match: error parsing regexp: invalid repeat count: `{1001}`",
		"--match \\C":               "--match: error parsing regexp: invalid escape sequence",
		"-o xml --match a --trim":   `--output "xml": raw, line`,
		"--from-uid no-such-user":   `--from-uid "no-such-user": there is no such user`,
		"--from-uid -1":             `--from-uid "-1": there is no such user`,
		"--from-uid 4294967296":     `--from-uid "4294967296": there is no such user`,
		"--from-unit x.slice":       `--from-unit "x.slice" is not the name of a unit that has processes`,
		"--from-unit ../x":          `--from-unit "../x" is not the name`,
		"--match a --trim --trim x": "no argument is expected",
	} {
		prepare(t, folder(t), append([]string{"sub"}, strings.Fields(args)...)...).want(exitUsage).says(says)
	}
}

// TestVerbsAreExplained, each once, in the help.
func TestVerbsAreExplained(t *testing.T) {
	help := prepare(t, "", "sub", "--help").want(0).stdout.String()
	for _, v := range verbs {
		if line := "  %" + string(v.letter) + "  " + v.is + "\n"; strings.Count(help, line) != 1 {
			t.Errorf("the help has not %q", line)
		}
	}
}

// FuzzTemplate: no text makes the parser fail in another way than by an error, and what it takes can be printed.
func FuzzTemplate(f *testing.F) {
	for _, text := range []string{"%m", `%t %m\n`, "%n", `\x1b`, `\`, "%", "%%", "\xff%\xff"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if form, err := parseTemplate(text); err == nil {
			form.append(nil, aMessage("x", 1))
		}
	})
}
