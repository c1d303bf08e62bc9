// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/msgmux/msgmux/internal/wire"
)

// packet makes a packet of records.
func packet(payloads ...string) []byte {
	var b []byte
	for _, payload := range payloads {
		b = wire.AppendRecord(b, []byte(payload))
	}
	return b
}

// payloads takes one apart.
func payloads(b []byte) []string {
	var all []string
	wire.EachRecord(b, func(payload []byte) bool {
		all = append(all, string(payload))
		return true
	})
	return all
}

func TestPadded(t *testing.T) {
	for n, want := range map[int]int{0: 4, 1: 8, 3: 8, 4: 8, 5: 12, 8: 12, 65532: 65536, 65533: 65540, 4 << 20: 4<<20 + 4, 1<<32 - 1: 1<<32 + 4} {
		if got := wire.Padded(n); got != want {
			t.Errorf("Padded(%d) = %d, want %d", n, got, want)
		}
		if got := wire.Padded(uint64(n)); got != uint64(want) {
			t.Errorf("Padded(uint64(%d)) = %d, want %d", n, got, want)
		}
	}
	for n := range 9 {
		record := wire.AppendRecord([]byte("ab"), bytes.Repeat([]byte{0xaa}, n))[2:]
		if len(record) != wire.Padded(n) || bytes.Trim(record[4+n:], "\x00") != nil {
			t.Errorf("the record of %d bytes is % x", n, record)
		}
	}
}

func TestCheckRecords(t *testing.T) {
	big := strings.Repeat("b", wire.MaxPacket) // 4 bytes too much for a packet with company
	half := strings.Repeat("h", wire.MaxPacket/2-4)
	with := func(b []byte, more ...byte) []byte { return append(b, more...) }
	oddPadding := packet("hello")
	oddPadding[len(oddPadding)-1] = 0xff
	for name, test := range map[string]struct {
		packet  []byte
		max     int
		records int
		code    string
	}{
		"one":                       {packet: packet("hello"), max: 5, records: 1},
		"empty message":             {packet: packet(""), max: 5, records: 1},
		"empty message, 0 allowed":  {packet: packet(""), max: 0, records: 1},
		"several":                   {packet: packet("a", "", "abcd", "abcde"), max: 5, records: 4},
		"padding need not be zero":  {packet: oddPadding, max: 5, records: 1},
		"full":                      {packet: packet(half, half), max: 1 << 20, records: 2},
		"one large record alone":    {packet: packet(big), max: 1 << 20, records: 1},
		"no record":                 {packet: nil, max: 5, code: wire.CodeBadPacket},
		"part of a length":          {packet: []byte{1, 0, 0}, max: 5, code: wire.CodeBadPacket},
		"length and nothing":        {packet: []byte{1, 0, 0, 0}, max: 5, code: wire.CodeBadPacket},
		"payload cut":               {packet: packet("hello")[:8], max: 5, code: wire.CodeBadPacket},
		"padding cut":               {packet: packet("hello")[:11], max: 5, code: wire.CodeBadPacket},
		"bytes behind":              {packet: with(packet("a"), 0), max: 5, code: wire.CodeBadPacket},
		"zeros behind are a record": {packet: with(packet("a"), 0, 0, 0, 0), max: 5, records: 2},
		"second outside":            {packet: with(packet("a"), 5, 0, 0, 0, 1, 2, 3, 4), max: 5, code: wire.CodeBadPacket},
		"length of 2 GiB":           {packet: []byte{0, 0, 0, 0x80, 1, 2, 3, 4}, max: math.MaxInt, code: wire.CodeBadPacket},
		"length of 4 GiB":           {packet: []byte{0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4}, max: math.MaxInt, code: wire.CodeBadPacket},
		"message too large":         {packet: packet("hello", "hello!"), max: 5, code: wire.CodeTooLarge},
		"large record in company":   {packet: packet("a", big), max: 1 << 20, code: wire.CodeTooLarge},
		"small records, too many":   {packet: packet(half, half, ""), max: 1 << 20, code: wire.CodeTooLarge},
		"large record too large":    {packet: packet(big), max: wire.MaxPacket - 1, code: wire.CodeTooLarge},
		"no messages are allowed":   {packet: packet("a"), max: -1, code: wire.CodeTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			records, err := wire.CheckRecords(test.packet, test.max)
			wantCode(t, err, test.code)
			if records != test.records {
				t.Errorf("counted %d records, want %d", records, test.records)
			}
		})
	}
}

func TestEachRecord(t *testing.T) {
	want := []string{"hello", "", "pong"}
	b := packet(want...)
	if got := payloads(b); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	seen := 0
	wire.EachRecord(b, func(payload []byte) bool {
		seen++
		if cap(payload) != len(payload) {
			t.Error("appending to a payload would write into its neighbour")
		}
		return seen < 2
	})
	if seen != 2 {
		t.Errorf("%d calls after the second said stop", seen)
	}
}

func TestSinkPacket(t *testing.T) {
	header := make([]byte, wire.SinkHeader)
	wire.PutSinkHeader(header, 1<<63+7, 3)
	if binary.LittleEndian.Uint64(header) != 1<<63+7 || binary.LittleEndian.Uint64(header[8:]) != 3 {
		t.Errorf("the header is % x", header)
	}
	with := func(payloads ...string) []byte { return append(slices.Clone(header), packet(payloads...)...) }

	got, err := wire.ParseSinkPacket(with("a", ""))
	if err != nil || got.First != 1<<63+7 || got.Lost != 3 || !slices.Equal(payloads(got.Records), []string{"a", ""}) {
		t.Errorf("got %+v, %v", got, err)
	}
	// The header counts: 64 KiB are 64 KiB for whoever has a buffer of that size.
	fits := strings.Repeat("x", wire.MaxPacket-wire.SinkHeader-wire.Padded(0)-wire.RecordHeader)
	for name, test := range map[string]struct {
		packet []byte
		code   string
	}{
		"full":              {packet: with(fits, "")},
		"large alone":       {packet: with(strings.Repeat("x", 4<<20))},
		"too full":          {packet: with(fits+"x", ""), code: wire.CodeTooLarge},
		"empty":             {packet: nil, code: wire.CodeBadPacket},
		"header cut":        {packet: header[:15], code: wire.CodeBadPacket},
		"no records":        {packet: header, code: wire.CodeBadPacket},
		"record cut":        {packet: with("abcde")[:24], code: wire.CodeBadPacket},
		"an error's text":   {packet: []byte("error internal out of luck\n"), code: wire.CodeBadPacket},
		"a plain datagram!": {packet: []byte("a plain datagram!"), code: wire.CodeBadPacket},
	} {
		_, err := wire.ParseSinkPacket(test.packet)
		t.Run(name, func(t *testing.T) { wantCode(t, err, test.code) })
	}
}

// TestFramesAllocateNothing: all of this runs once for every message.
func TestFramesAllocateNothing(t *testing.T) {
	room := make([]byte, 0, 1024)
	sum := 0
	count := func(payload []byte) bool { sum += len(payload); return true }
	n := testing.AllocsPerRun(100, func() {
		b := room[:wire.SinkHeader]
		wire.PutSinkHeader(b, 1, 2)
		b = wire.AppendRecord(b, []byte("hello"))
		b = wire.AppendRecord(b, nil)
		p, err := wire.ParseSinkPacket(b)
		if _, again := wire.CheckRecords(p.Records, 5); err != nil || again != nil {
			t.Error(err, again)
		}
		wire.EachRecord(p.Records, count)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
