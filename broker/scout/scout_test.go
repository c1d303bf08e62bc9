// SPDX-License-Identifier: Apache-2.0

package scout

import (
	"errors"
	"testing"
)

// TestDeclaredMayTakeLonger: whose paths take long has to wait. What an administrator declared does so later, as every reading counts; but it
// does, or a file system that hangs would keep all static sinks for as often as there are some.
func TestDeclaredMayTakeLonger(t *testing.T) {
	s := New(Config{Unmapped: NoUser})
	defer s.Close()
	for who, most := range map[uint32]int{7: 1, Declared: 5} {
		for n := range most + 2 {
			err := s.begin(who)
			if refused := n >= most; errors.Is(err, ErrBusy) != refused {
				t.Errorf("user %d, question %d: %v", who, n, err)
			}
			if err == nil {
				s.end(who, 2*patience+patience/10, true) // a little is paid back meanwhile
			}
		}
	}
}
