// SPDX-License-Identifier: Apache-2.0

// Command driver measures msgmux, the floors below it and the brokers beside
// it: one source process, a broker, sink processes, one short run at a time, or
// two by turns. README.md has the method and the commands.
//
// It is no test: it says what a figure is and never whether a build may pass.
// Nothing outside this folder may depend on it; it makes no compatibility
// promise.
package main
