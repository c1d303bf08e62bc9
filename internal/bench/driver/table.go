// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"os"
	"strings"
)

// line is an adapter's row of the table: its runs by number of sinks, and those
// of the paced modes at the first number of sinks from 4 up.
type line struct {
	adapter        *adapter
	flood          map[int][]*Result
	paced, latency []*Result
	err            error // of the last run that failed
}

// cmdTable measures all chosen adapters by turns and prints them beside each
// other; the chart goes to build/table.svg.
func (b *bench) cmdTable(chosen []*adapter) error {
	n := b.n
	if n == 0 {
		n = 3
	}
	counts := b.sinkList(1, 4, 16, 64)
	lines := make([]*line, len(chosen))
	for i, a := range chosen {
		lines[i] = &line{adapter: a, flood: map[int][]*Result{}}
	}
	some := counts[min(1, len(counts)-1)] // sinks of the paced runs and the chart
	run := func(l *line, mode string, sinks int, to func(*Result)) {
		b.mode = mode
		r, err := b.locked(b.newCell(l.adapter, sinks, b.qlens[0]))
		if err != nil {
			l.err = err
			fmt.Fprintln(os.Stderr, "bench:", err)
			return
		}
		to(r)
	}
	for range n {
		for _, sinks := range counts {
			for _, l := range lines {
				run(l, "flood", sinks, func(r *Result) { l.flood[sinks] = append(l.flood[sinks], r) })
			}
		}
		for _, l := range lines {
			run(l, "paced", some, func(r *Result) { l.paced = append(l.paced, r) })
			run(l, "latency", some, func(r *Result) { l.latency = append(l.latency, r) })
		}
	}
	fmt.Printf("%s; %d bytes, medians of %d runs\n\n| adapter |", machine(), b.size, n)
	for _, head := range []string{"CPU us/delivery", "deliveries/s"} {
		for _, sinks := range counts {
			fmt.Printf(" %s, %d sinks |", head, sinks)
		}
	}
	fmt.Printf(" lost, %d sinks | CPU at 10,000/s | p50 | p99 us at 1,000/s | broker MiB |\n|---|%s\n", some, strings.Repeat("--:|", 2*len(counts)+5))
	for _, l := range lines {
		fmt.Println(l.row(counts, some))
	}
	svg := chart(lines, some, b.size)
	if err := os.WriteFile("build/table.svg", []byte(svg), 0o644); err != nil {
		return fmt.Errorf("cannot write chart: %w", err)
	}
	fmt.Fprintln(os.Stderr, "bench: build/table.svg")
	return nil
}

// figure is the median of one figure as text, "-" without runs.
func figure(rs []*Result, f func(*Result) float64, show func(float64) string) string {
	if len(rs) == 0 {
		return "-"
	}
	return show(median(rs, f))
}

func cpuOf(r *Result) float64 { return r.CPU }

func (l *line) row(counts []int, some int) string {
	whole := func(x float64) string { return fmt.Sprintf("%.0f", x) }
	cells := []string{l.adapter.name}
	for _, n := range counts {
		cells = append(cells, figure(l.flood[n], cpuOf, us))
	}
	for _, n := range counts {
		cells = append(cells, figure(l.flood[n], func(r *Result) float64 { return r.DeliveredRate }, count))
	}
	share := func(r *Result) float64 { return 100 * ratio(float64(r.Lost), float64(r.Sent)*float64(r.Sinks)) }
	cells = append(cells, figure(l.flood[some], share, func(x float64) string { return fmt.Sprintf("%.2g%%", x) }),
		figure(l.paced, cpuOf, us),
		figure(l.latency, func(r *Result) float64 { return r.P50 }, whole),
		figure(l.latency, func(r *Result) float64 { return r.P99 }, whole))
	memory := "-"
	if l.adapter.broker != nil {
		memory = figure(l.flood[some], func(r *Result) float64 { return r.Memory.Pss }, func(x float64) string { return fmt.Sprintf("%.1f", x) })
	}
	return "| " + strings.Join(append(cells, memory), " | ") + " |"
}

// chart draws CPU per delivery in a flood as bars on a logarithmic scale.
func chart(lines []*line, sinks, size int) string {
	const (
		labels, width, bar, top = 120, 720, 20, 46
		low, decades            = 0.01, 4 // 0.01 to 100 us
		scale                   = (width - labels - 60) / float64(decades)
	)
	colour := map[string]string{"msgmux": "#c2410c", "floor": "#9ca3af", "peer": "#3b82f6"}
	at := func(x float64) float64 { return labels + scale*min(max(math.Log10(x/low), 0), decades) }
	height := top + bar*len(lines) + 24
	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&s, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	fmt.Fprintf(&s, `<text x="8" y="18" font-size="14">CPU for each delivery, all processes, microseconds (less is better)</text>`+"\n")
	fmt.Fprintf(&s, `<text x="8" y="34" fill="#555">flood, %d bytes, %d sinks; logarithmic</text>`+"\n", size, sinks)
	for d := 0; d <= decades; d++ {
		x := low * math.Pow10(d)
		fmt.Fprintf(&s, `<path d="M%.1f %d V%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle" fill="#555">%g</text>`+"\n",
			at(x), top, height-18, at(x), height-5, x)
	}
	for i, l := range lines {
		y := top + bar*i
		fmt.Fprintf(&s, `<text x="%d" y="%d" text-anchor="end">%s</text>`, labels-6, y+14, l.adapter.name)
		if rs := l.flood[sinks]; len(rs) > 0 {
			cpu := median(rs, cpuOf)
			fmt.Fprintf(&s, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d">%s</text>`,
				labels, y+3, max(1, at(cpu)-labels), bar-6, colour[l.adapter.group], at(cpu)+5, y+14, us(cpu))
		} else {
			fmt.Fprintf(&s, `<text x="%d" y="%d" fill="#555">no result</text>`, labels+5, y+14)
		}
		s.WriteByte('\n')
	}
	s.WriteString("</svg>\n")
	return s.String()
}
