// SPDX-License-Identifier: Apache-2.0

// Package fair decides who has to go when strangers have taken all places: of the user who has most of them, the one who came
// first. So one user, however many places it takes, keeps no other out.
//
// It knows nothing of what the places are.
//
// The package makes no compatibility promise.
package fair

// Leaver is the index of the one of all who has to go. They are in the order in which they came; those of whom candidate is
// false stay, unless all of them are such: then it is the one who came first. There must be one at least.
func Leaver[T any](all []T, user func(T) uint32, candidate func(T) bool) int {
	n := make(map[uint32]int)
	for _, x := range all {
		if candidate(x) {
			n[user(x)]++
		}
	}
	leaver, most := 0, 0
	for i, x := range all {
		if candidate(x) && n[user(x)] > most {
			leaver, most = i, n[user(x)]
		}
	}
	return leaver
}
