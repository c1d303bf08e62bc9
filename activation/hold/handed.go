// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"os"
	"strconv"
)

// holderMark is the variable by which a holder tells its own process id. Only the broker knows the id that LISTEN_PID must have,
// and there need be no shell that could set it on the way.
const holderMark = "MSGMUXD_HOLDER"

// Handed says whether a holder has started this process. Then activation.Inherited finds what it hands over. It is to be called
// once, before anything reads the environment.
func Handed() bool {
	holder, err := strconv.Atoi(os.Getenv(holderMark))
	os.Unsetenv(holderMark)
	if err != nil || holder != os.Getppid() {
		return false // inherited by accident, or the holder is gone already
	}
	os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	return true
}
