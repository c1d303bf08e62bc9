// SPDX-License-Identifier: Apache-2.0

// Package flags has what both programs do about mistakes in their flags, and how to tell what was given. It makes no compatibility promise.
package flags

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/pflag"
)

// Plain says of a flag that wants a number what it wants, instead of which function has refused its value. Other errors it
// leaves as they are.
func Plain(err error) error {
	bad, ok := errors.AsType[*pflag.InvalidValueError](err)
	if _, isNumber := errors.AsType[*strconv.NumError](err); !ok || !isNumber {
		return err
	}
	want := map[string]string{"bool": "true or false", "float64": "a number", "int": "a whole number"}[bad.GetFlag().Value.Type()]
	if want == "" {
		want = "a whole number, 0 or more"
	}
	return fmt.Errorf("--%s %q: want %s", bad.GetFlag().Name, bad.GetValue(), want)
}

// Given are the flags that were given, but for those named, as words of a command line. A boolean one that is false is none.
func Given(all *pflag.FlagSet, but ...string) (words []string) {
	all.Visit(func(f *pflag.Flag) {
		switch is := f.Value.String(); {
		case slices.Contains(but, f.Name), is == "false":
		case is == "true":
			words = append(words, "--"+f.Name)
		default:
			words = append(words, "--"+f.Name, is)
		}
	})
	return words
}
