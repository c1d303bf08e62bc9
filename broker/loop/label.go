// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"log/slog"
	"strconv"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
)

// Labels are what people call sinks by, so each has one of its own. Who comes later gets the one that he asks for with a number
// behind it. A static sink has the name of its entry, whoever else has it: what an administrator says of that name is said
// of what he has declared.

// label gives the sink that spec describes a label of its own, as much like the one in spec as there is, and keeps it for it.
func (r *Roster) label(spec *ring.Spec) {
	if other := r.ring.Sink(r.labels[spec.Label]); other != nil && other.ID() != spec.ID && spec.Kind == ring.Static && other.Spec().Kind != ring.Static {
		r.labels[spec.Label] = spec.ID
		r.rename(other)
	}
	spec.Label = r.unique(spec.Label, spec.ID)
	r.labels[spec.Label] = spec.ID
}

// rename gives a sink another label, because a static one has got the one that it had.
func (r *Roster) rename(s *ring.Sink) {
	spec := *s.Spec()
	spec.Label = r.unique(spec.Label, spec.ID)
	r.labels[spec.Label] = spec.ID
	r.ring.Update(s, spec, *s.Cursor().Spec())
	r.log.Limited(r.limiter, spec.UID, "renamed:"+spec.Label, slog.LevelInfo, journal.EventStatic, "sink has another name: a static sink has the one that it had",
		slog.String("sink", spec.Label), slog.Uint64("uid", uint64(spec.UID)))
}

// unique is label, or label-2, label-3... if another sink has it.
func (r *Roster) unique(label string, id uint64) string {
	for n := 1; ; n++ {
		try := label
		if n > 1 {
			suffix := "-" + strconv.Itoa(n)
			try = label[:min(len(label), 64-len(suffix))] + suffix
		}
		if owner, taken := r.labels[try]; !taken || owner == id {
			return try
		}
	}
}
