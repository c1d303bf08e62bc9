// SPDX-License-Identifier: Apache-2.0

package control

import (
	"strings"
	"testing"

	"github.com/msgmux/msgmux/internal/wire"
)

// TestMetricsOfStrangeLabels: what a label may have in it can break no line, and two sinks under one name are one sample.
func TestMetricsOfStrangeLabels(t *testing.T) {
	st := wire.Status{Version: "1\"\\\n\xff"}
	sinks := []wire.Sink{{Label: "a\"b\\c\nd", Accepted: 7, Patience: "1s"}, {Label: "twice", Accepted: 8, Patience: "1s"}, {Label: "twice", Accepted: 9, Patience: "1s"}}
	text := string(appendMetrics(nil, &st, sinks, true))
	for _, want := range []string{`msgmux_build_info{version="1\"\\\n?"} 1`, `msgmux_sink_messages_accepted_total{sink="a\"b\\c\nd"} 7`,
		`msgmux_sink_messages_accepted_total{sink="twice"} 8`} {
		if strings.Count(text, "\n"+want+"\n") != 1 {
			t.Errorf("%d lines %s", strings.Count(text, "\n"+want+"\n"), want)
		}
	}
	if n := strings.Count(text, `_accepted_total{sink="twice"`); n != 1 {
		t.Errorf("%d samples of one name", n)
	}
}

// TestMetricsTellWhoBlocks: the sink that the sources wait for, or all of a share, and nobody while they do not.
func TestMetricsTellWhoBlocks(t *testing.T) {
	for _, test := range []struct {
		sources wire.Sources
		want    string // the values of a, b and c
	}{
		{wire.Sources{}, "0 0 0"}, {wire.Sources{Blocked: true, Why: "no sink"}, "0 0 0"}, {wire.Sources{Sink: "a"}, "0 0 0"},
		{wire.Sources{Blocked: true, Sink: "a"}, "1 0 0"}, {wire.Sources{Blocked: true, Sink: "pair"}, "0 1 1"},
	} {
		sinks := []wire.Sink{{Label: "a", Patience: "1s"}, {Label: "b", Share: "pair", Patience: "1s"}, {Label: "c", Share: "pair", Patience: "1s"}}
		text := string(appendMetrics(nil, &wire.Status{Sources: test.sources}, sinks, true))
		var got []string
		for line := range strings.Lines(text) {
			if rest, ok := strings.CutPrefix(line, "msgmux_sink_blocks_sources{"); ok {
				got = append(got, strings.Fields(rest)[1])
			}
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%+v: %v, want %s", test.sources, got, test.want)
		}
	}
}
