// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
)

// holderRole makes this program a process that holds the guard of the state at descriptor 3, and is "alive" or "dying":
// its first thread has ended, and others have not.
const holderRole = "MSGMUX_TEST_HOLDER"

func init() {
	role := os.Getenv(holderRole)
	if role == "" {
		return
	}
	runtime.LockOSThread() // it is the first thread here
	if _, err := sys.Guard(3, lockOffset); err != nil {
		os.Exit(1)
	}
	fmt.Println("held")
	if role == "dying" {
		unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
	time.Sleep(time.Minute) // it is killed before
}

// TestBusyRingNamesItsHolder, and says so if that cannot end.
func TestBusyRingNamesItsHolder(t *testing.T) {
	for role, want := range map[string]string{"alive": "by process %d", "dying": "by process %d, which was killed and cannot end"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			r, err := Create(small(), 1, Options{})
			if err != nil {
				t.Fatal(err)
			}
			// A duplicate may be handed on here: nothing of this process is locked once the ring has let it go.
			data, state := r.Descriptors()
			data2, _ := unix.FcntlInt(uintptr(data), unix.F_DUPFD_CLOEXEC, 0)
			state2, _ := unix.FcntlInt(uintptr(state), unix.F_DUPFD_CLOEXEC, 0)
			r.Retire()
			files := []*os.File{os.NewFile(uintptr(state2), "state"), os.NewFile(uintptr(data2), "data")}
			defer files[0].Close()
			defer files[1].Close()

			cmd := exec.Command(os.Args[0])
			cmd.Env, cmd.ExtraFiles = append(os.Environ(), holderRole+"="+role), files[:1]
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { cmd.Process.Kill(); cmd.Wait() }()
			if n, err := out.Read(make([]byte, 16)); n == 0 {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(10 * time.Second); role == "dying" && !sys.Dying(cmd.Process.Pid); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("its first thread has not ended")
				}
			}
			_, err = Open(data2, state2, Options{})
			text := fmt.Sprintf("ring in use "+want, cmd.Process.Pid)
			if !errors.Is(err, ErrBusy) || !strings.HasPrefix(err.Error(), text) || role == "alive" && err.Error() != text {
				t.Errorf("got %v, want %s", err, text)
			}
		})
	}
}
