// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestTheDocumentationStandsAlone: whoever reads it needs no other room's, and finds every field of every type, explained.
func TestTheDocumentationStandsAlone(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("needs go")
	}
	text, err := exec.Command("go", "doc", "-all").Output()
	if err != nil {
		t.Fatal(err)
	}
	// All of it is read in one sitting: who adds something takes something away.
	if n := strings.Count(string(text), "\n"); n > 750 {
		t.Errorf("go doc -all has %d lines, more than 750", n)
	}
	out := strings.Join(strings.Fields(string(text)), " ")
	for _, want := range []string{
		"Since time.Time // when the broker's process began", "RateOver time.Duration", "MaxMessage int //", "Sizes are in bytes",
		"State SinkState", "Patience time.Duration // Forever", "LaggingSince time.Time", `StateLagging SinkState = "lagging" //`,
		`KindFramed SinkKind = "framed"`, "For time.Duration // how long", "Blocked time.Duration // how long",
		"zero Sink", "zero Source", "zero Channel", "zero Batch", "zero Start",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("go doc does not say %q", want)
		}
	}
	if found := regexp.MustCompile(`.*\b(wire\.|sys\.|internal/|broker/ring).*`).Find(text); found != nil {
		t.Errorf("the documentation leads into a room that promises nothing: %s", found)
	}
}
