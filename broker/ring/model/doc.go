// SPDX-License-Identifier: Apache-2.0

// Package model has the crash protocol of the ring as models for spin, and what holds them to the program: the names of
// the seams, found in the source; and the paths that brokers may take from seam to seam, found by the models.
//
// A model is a file *.pml. Its tests check that it holds within its bounds, whatever moments a broker is killed at, and that
// it does not once a rule of the protocol is broken on purpose. docs/proof.md says what that proves and what it does not.
//
// It is for tests. It knows nothing of how the ring is laid out, and runs no broker.
//
// The package makes no compatibility promise.
package model
