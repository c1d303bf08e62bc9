// SPDX-License-Identifier: Apache-2.0

package layout2

import "github.com/msgmux/msgmux/internal/sys"

// Salvage reads what can be known of sinks and connected sources from a state file that Open has called broken: those whose
// entries are sound, without their cursors. The log is not looked at. The size of the file, and the sum of each entry, tell
// whether it is of layout 2 at all.
func Salvage(stateFD int) (sinks []Sink, clients []Client) {
	h, err := readHeader(stateFD)
	if err != nil || h.Geometry.check() != nil {
		return nil, nil
	}
	size, err := sys.FileSize(stateFD)
	if err != nil || size != h.Geometry.stateBytes() {
		return nil, nil
	}
	b, err := mapPrivately(stateFD, size)
	if err != nil {
		return nil, nil
	}
	defer sys.Unmap(b)
	entries := slice[entry](b, h.Geometry.sections().table, h.Geometry.slots())
	for i := range entries {
		e := &entries[i]
		if e.State != active || !e.sound() {
			continue // free, or a client without its ok: it will connect again
		}
		switch kind := Kind(e.Identity.Kind); kind {
		case share:
		case source:
			clients = append(clients, e.client())
		default:
			sinks = append(sinks, e.Identity.sink())
		}
	}
	return sinks, clients
}
