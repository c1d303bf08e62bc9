// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"maps"
	"sync"
)

// Outcomes counts registrations by how they ended: "ok", or the code of the refusal. Its methods may be called from any
// goroutine.
type Outcomes struct {
	mu sync.Mutex
	n  map[string]uint64
}

// Add counts one.
func (o *Outcomes) Add(outcome string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.n == nil {
		o.n = make(map[string]uint64)
	}
	o.n[outcome]++
}

// All returns a copy of the counts.
func (o *Outcomes) All() map[string]uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.n == nil {
		return map[string]uint64{}
	}
	return maps.Clone(o.n)
}
