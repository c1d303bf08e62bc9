// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestWrongCommandLines end with status 2, wherever the mistake stands, one line that says what is wrong, and one that says
// where to read. What is no mistake in the command line ends with 1.
func TestWrongCommandLines(t *testing.T) {
	path := program(t)
	for _, test := range []struct {
		args, says string
		status     int
	}{
		{"foo", "foo", exitUsage},
		{"--buffer 1M foo", "foo", exitUsage},
		{"--runtime-dir /tmp -- foo", "foo", exitUsage},
		{"--frobnicate", "unknown flag", exitUsage},
		{"--buffer", "needs an argument", exitUsage},
		{"--buffer x", "a number of bytes", exitUsage},
		{"--max-sinks -1", `--max-sinks "-1": want a whole number, 0 or more`, exitUsage},
		{"--max-sinks-per-user 0", "at least 1", exitUsage},
		{"-c UPPER", "a-z, 0-9 and _", exitUsage},
		{"--sink relative", "--sink", exitUsage},
		{"", "--runtime-dir DIR", exitUsage},
		{"--hold", "--runtime-dir DIR", exitUsage},
		{"--hold --runtime-dir /dev/null/x", "/dev/null", exitFailure},
		{"--runtime-dir /dev/null/x", "/dev/null", exitFailure},
	} {
		out, err := exec.CommandContext(t.Context(), path, strings.Fields(test.args)...).CombinedOutput()
		failed, ok := errors.AsType[*exec.ExitError](err)
		if !ok || failed.ExitCode() != test.status || !strings.Contains(string(out), test.says) {
			t.Errorf("%q: %v, it says %q", test.args, err, out)
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if test.status == exitUsage && (len(lines) != 2 || lines[1] != "Try 'msgmuxd --help'.") {
			t.Errorf("%q says %q, not one line and a hint", test.args, out)
		}
	}
	out, err := exec.Command(path, "--help").Output()
	if err != nil || strings.Contains(string(out), " string ") || strings.Contains(string(out), " uint ") {
		t.Errorf("the help has words of the language: %v\n%s", err, out)
	}
}

// TestSocketsForAnother: sockets that the parent was given, such as the init of a container, are not taken, and it is said why.
func TestSocketsForAnother(t *testing.T) {
	cmd := exec.Command(program(t))
	cmd.Env = append(os.Environ(), "LISTEN_PID=1", "LISTEN_FDS=2")
	out, err := cmd.CombinedOutput()
	failed, ok := errors.AsType[*exec.ExitError](err)
	if !ok || failed.ExitCode() != exitUsage || !strings.Contains(string(out), "handed over to process 1 ") || !strings.Contains(string(out), "exec") {
		t.Errorf("%v, it says %q", err, out)
	}
}
