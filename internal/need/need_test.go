// SPDX-License-Identifier: Apache-2.0

package need

import "testing"

// fake is a test that only notes how it ended.
type fake struct {
	testing.TB
	failed, skipped bool
}

func (f *fake) Fatalf(string, ...any) { f.failed = true; panic(f) }
func (f *fake) Skipf(string, ...any)  { f.skipped = true; panic(f) }

// TestRequired: whole words only, whatever stands between them.
func TestRequired(t *testing.T) {
	for value, want := range map[string]bool{
		"": false, "unit": true, "proof unit": true, "proof,unit,lint": true, "units": false, "lint, proof": false, " proof\tunit\n": true,
		"unit-tests": false,
	} {
		t.Setenv(variable, value)
		if got := Required("unit"); got != want {
			t.Errorf("with %q: %t", value, got)
		}
		f := &fake{TB: t}
		func() {
			defer func() { recover() }()
			Lacking(f, "unit", "no %s", "moon")
		}()
		if f.failed != want || f.skipped == want {
			t.Errorf("with %q: failed %t, skipped %t", value, f.failed, f.skipped)
		}
	}
}
