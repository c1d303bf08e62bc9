// SPDX-License-Identifier: Apache-2.0

package main

func (b *bench) cmdSuite(chosen []*adapter) error { return nil }
func (b *bench) cmdTable(chosen []*adapter) error { return nil }
