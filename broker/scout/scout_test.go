// SPDX-License-Identifier: Apache-2.0

package scout

import (
	"errors"
	"testing"
)

// TestDeclaredIsNotRefused: whose paths take long has to wait, but not what an administrator declared, of which every reading counts.
func TestDeclaredIsNotRefused(t *testing.T) {
	s := New(Config{Unmapped: NoUser})
	defer s.Close()
	for _, who := range []uint32{7, Declared} {
		for n := range 3 {
			err := s.begin(who)
			if refused := who != Declared && n > 0; errors.Is(err, ErrBusy) != refused {
				t.Errorf("user %d, question %d: %v", who, n, err)
			}
			if err == nil {
				s.end(who, 2*patience, true)
			}
		}
	}
}
