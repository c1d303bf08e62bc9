// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"testing"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/client/brokertest"
)

// TestExampleProgramsTakeAnything: the producer's lines, long, empty and binary, come to the consumer as they are; an interrupt
// ends either in good order, and what is too large is an error.
func TestExampleProgramsTakeAnything(t *testing.T) {
	broker := brokertest.Start(t, brokertest.Options{})
	want := []string{"before", "", strings.Repeat("long ", 14_000), "nul \x00 and \xff\r", "", strings.Repeat("x", 200_000), "last"}
	sent := make(chan error, 1)
	go func() { sent <- produce(inTime(t), broker.Channel, lines(want...)) }()
	ctx, stop := signal.NotifyContext(inTime(t), os.Interrupt)
	defer stop()
	var got []string
	err := consume(ctx, broker.Channel, func(payload []byte) error {
		if got = append(got, string(payload)); len(got) == len(want) {
			return syscall.Kill(os.Getpid(), syscall.SIGINT)
		}
		return nil
	})
	if err != nil || strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%d messages of %d came, and %v", len(got), len(want), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if err := produce(inTime(t), broker.Channel, lines(strings.Repeat("x", 300_000))); !errors.Is(err, msgmux.ErrTooLarge) {
		t.Errorf("a line that is too large: %v", err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := produce(over, broker.Channel, lines("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

// TestExampleProgramsAreShort: a consumer, a producer and a test with a broker are each under 25 lines, and the documentation of
// brokertest shows the test that there is.
func TestExampleProgramsAreShort(t *testing.T) {
	function := func(file, name string) string {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(`(?ms)^func ` + name + `\(.*?^}$`).FindString(string(text))
		if n := strings.Count(found, "\n") + 1; found == "" || n >= 25 {
			t.Errorf("%s in %s has %d lines", name, file, n)
		}
		return found
	}
	function("example_consumer_test.go", "consume")
	function("example_producer_test.go", "produce")
	shown, err := os.ReadFile("brokertest/brokertest.go")
	if err != nil {
		t.Fatal(err)
	}
	commented := "//\t" + strings.ReplaceAll(function("brokertest/brokertest_test.go", "TestArchive"), "\n", "\n//\t")
	if !strings.Contains(string(shown), commented) {
		t.Error("the documentation of brokertest shows another test than the one that is run")
	}
}
