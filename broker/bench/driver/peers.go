// SPDX-License-Identifier: Apache-2.0

package main

// peers are what a user might take instead.
var peers = []*adapter{}
