// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestDying(t *testing.T) {
	if Dying(os.Getpid()) || Dying(0) {
		t.Error("this process, or none, is dying")
	}
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	for deadline := time.Now().Add(10 * time.Second); !Dying(cmd.Process.Pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a process that has ended and was not waited for is not dying")
		}
	}
	for text, want := range map[string]bool{
		"State:\tD (disk sleep)\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n": true,
		"State:\tD (disk sleep)\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n": true,
		"State:\tZ (zombie)\nThreads:\t3\n":                                              true,
		"State:\tD (disk sleep)\nSigPnd:\t0000000000000200\nSigBlk:\t0000000000000100\n": false,
		"State:\tS (sleeping)\n": false,
		"":                       false,
	} {
		if got := dying([]byte(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
