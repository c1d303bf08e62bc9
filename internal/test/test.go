// SPDX-License-Identifier: Apache-2.0

// Package test is what the tests of many rooms do the same way: waiting, folders for sockets, and what programs print while they run. Whether
// a test may be skipped is internal/need's.
//
// The package makes no compatibility promise.
package test

import (
	"bytes"
	"os"
	"sync"
	"testing"
	"time"
)

// Within is how long what is to become true may take, also on a machine that does much else.
const Within = 20 * time.Second

// Eventually waits until ok returns true, and ends the test if it does not within Within.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Within); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", Within, what)
		}
	}
}

// Folder makes an empty folder, which goes when the test ends. Its path is short enough for the sockets in it, unlike that of
// testing.T.TempDir. Only this user may look into it.
func Folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Output is what a program writes, to be read while it runs. The zero Output is empty.
type Output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write appends p. It does not block, and does not fail.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

// String is what was written so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Reset forgets what was written.
func (o *Output) Reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Reset()
}
