// SPDX-License-Identifier: Apache-2.0

// Package follow reads the lines of a file that grows, over rotation by rename and by copy and truncation, and gives with each a
// mark, from which another process can go on: no line is missing and none comes twice.
//
// A mark is one word, so that whoever stores it can store it at once:
//
//	 63        52 51            36 35                        0
//	+------------+----------------+---------------------------+
//	| inode      | beginning      | offset behind the line    |
//	+------------+----------------+---------------------------+
//
// The beginning, up to [beginning] bytes of what is before the offset, tells the file from others, also from one that has come in
// its place: a log that is copied and truncated keeps its inode and changes its beginning, and the copy has the beginning and
// another inode. Both are shortened by hashing.
//
// What comes next is looked for when it is needed, and never remembered: see family.go.
//
// It knows nothing of messages. The package makes no compatibility promise.
package follow
