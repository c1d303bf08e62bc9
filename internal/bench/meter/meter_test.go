// SPDX-License-Identifier: Apache-2.0

package meter

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The offsets that c/meter.h asserts.
func TestLayoutIsThatOfTheCClients(t *testing.T) {
	if n := unsafe.Sizeof(Head{}); n != 32 {
		t.Errorf("head is %d bytes, want 32", n)
	}
	if n := unsafe.Offsetof(Tally{}.Hist); n != 96 {
		t.Errorf("histogram begins at %d, want 96", n)
	}
	if n := unsafe.Sizeof(Tally{}); n > tallyStride {
		t.Errorf("tally is %d bytes, more than its place of %d", n, tallyStride)
	}
}

func TestBoardIsShared(t *testing.T) {
	b, fd, err := Create(2)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	defer b.Close()
	other, err := Map(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	b.SetPhase(Run)
	Write(&other.Tally(2).Count, 7)
	if other.Phase() != Run || Read(&b.Tally(2).Count) != 7 {
		t.Error("two mappings of the board differ")
	}
}
