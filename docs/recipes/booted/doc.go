// SPDX-License-Identifier: Apache-2.0

// Package booted follows the pages of the recipes under a real systemd, as somebody would who has just installed msgmux:
// the files that they show go where they say, and their commands are run as they stand. There is no code to import here.
//
// The package makes no compatibility promise.
package booted
