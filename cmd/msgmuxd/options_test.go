// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// TestSizesThatCannotBe are refused at the start, and not when the first sink comes or the first message is lost: a send
// buffer is an int to the kernel, and it is never smaller than the largest message.
func TestSizesThatCannotBe(t *testing.T) {
	for args, want := range map[string]string{
		"":                                      "",
		"--queue=1G":                            "",
		"--queue=4K --queue-total=1M":           "",
		"--queue=8G --queue-total=64G":          "--queue",
		"--queue=4K --queue-total=128K":         "--queue-total",
		"--max-message=4M --queue-total=4M":     "--queue-total",
		"--max-message=1K --queue-total=512K":   "",
		"--queue=1K":                            "--queue",
		"--queue=2M --queue-total=1M":           "--queue-total",
		"--queue-total=9223372036854775807":     "",
		"--max-message=16K --queue-total=512K":  "",
		"--max-message=512K --queue-total=512K": "--queue-total",
	} {
		var o options
		f := pflag.NewFlagSet("", pflag.ContinueOnError)
		o.register(f)
		if err := f.Parse(strings.Fields(args)); err != nil {
			t.Fatal(args, err)
		}
		err := o.finish()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want+" must") {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}
