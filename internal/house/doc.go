// SPDX-License-Identifier: Apache-2.0

// Package house holds no code, only the tests of the repository as a whole: which package may import which, what documents
// say and where their links lead, and that the examples of the README and the client in Python work. It makes no
// compatibility promise.
package house
