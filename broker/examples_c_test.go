// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/msgmux/msgmux/broker/brokertest"
)

// TestExamplesInCRefuseLongOptions: what does not fit is refused before anything is connected, and not written behind its place.
func TestExamplesInCRefuseLongOptions(t *testing.T) {
	for _, name := range []string{"sink", "source"} {
		program := buildC(t, "../docs/examples/view/"+name+".c", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
		for _, test := range []struct {
			options []string
			fits    bool
		}{
			{[]string{strings.Repeat("x", 2046)}, true}, // with the newline and the end that is all there is room for
			{[]string{strings.Repeat("x", 2047)}, false},
			{[]string{strings.Repeat("x", 2046), "a=b"}, false},
			{[]string{strings.Repeat("x", 2045), "", strings.Repeat("y", 10_000)}, false},
		} {
			out, err := exec.Command(program, append([]string{"/nowhere"}, test.options...)...).CombinedOutput()
			exit, _ := errors.AsType[*exec.ExitError](err)
			want, says := 2, "too long"
			if test.fits {
				want, says = 1, "No such file"
			}
			if exit == nil || exit.ExitCode() != want || !strings.Contains(string(out), says) {
				t.Errorf("%s with %d options: %v, want %d: %.2000s", name, len(test.options), err, want, out)
			}
		}
	}
}

// TestSourceInCRefusesALongLine, of more than the size of a message can say, instead of copying all of it into the room for the rest.
func TestSourceInCRefusesALongLine(t *testing.T) {
	// Where the compiler optimizes, the C library's header has a body for getline, which would have the new name.
	program := buildC(t, "../docs/examples/view/source.c", "-O0", "-Dgetline=long_line", "testdata/longline.c")
	b := brokertest.Start(t)
	out, err := exec.Command(program, b.Dir+"/publish").CombinedOutput()
	exit, _ := errors.AsType[*exec.ExitError](err)
	switch {
	case exit != nil && exit.ExitCode() == 77:
		t.Skip("there is no address space for a line of 4 GiB")
	case exit == nil || exit.ExitCode() != 1 || !strings.Contains(string(out), "Message too long"):
		t.Errorf("%v: %s", err, out)
	}
}
