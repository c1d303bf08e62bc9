// SPDX-License-Identifier: Apache-2.0

package wire_test

// The files in testdata are the bytes of the protocol, for this package and for whoever writes another: text as it is,
// packets as hexadecimal with comments. docs/protocol.md shows each of them; see docs_test.go.

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// golden reads a file of testdata; a packet becomes the bytes that it stands for.
func golden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatalf("cannot read the golden file: %v", err)
	}
	if filepath.Ext(name) != ".hex" {
		return text
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		code, _, _ := strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(code), ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatalf("cannot read %s: %v", name, err)
	}
	return b
}

// goldenNames lists testdata, without what fuzzing keeps there.
func goldenNames(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatalf("cannot list the golden files: %v", err)
	}
	var names []string
	for _, entry := range entries {
		if !entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names
}

// TestGolden prints and parses every golden file.
func TestGolden(t *testing.T) {
	tap := wire.Address{Abstract: true, Name: "tap"}
	db := wire.Options{Label: "db", Patience: 2500 * time.Millisecond, PatienceSet: true, Start: wire.StartOldest, Frames: true, Reply: true}
	notOwner := wire.Refuse(wire.CodeNotOwner, "%q belongs to uid %d and not to uid %d who asks; its owner or root has to register it, "+
		"or who holds it proves that (prove=yes)", tap, 0, 1000)
	messages := []string{"hello", "", "pong"}
	tests := map[string]func(t *testing.T, b []byte){
		"registration-bare.txt":    isRegistration(wire.Registration{Address: tap}),
		"registration-options.txt": isRegistration(wire.Registration{Address: wire.Address{Name: "/run/db/in"}, Options: db}),
		"registration-share.txt":   isRegistration(wire.Registration{Options: wire.Options{Share: "workers"}}),
		"registration-remove.txt":  isRegistration(wire.Registration{Address: tap, Remove: true, Options: wire.Options{Reply: true}}),
		"hello-publish.txt":        isHello(wire.Options{Label: "web"}),
		"hello-subscribe.txt":      isHello(wire.Options{Label: "db", Patience: wire.Forever, PatienceSet: true}),
		"hello-kept.txt":           isHello(wire.Options{Label: "db", Ack: true, Keep: time.Hour, From: wire.Position{Epoch: 0x9f3c0a1d, Seq: 1003}}),
		"hello-marked.txt":         isHello(wire.Options{Label: "tail", Keep: time.Hour, Mark: true}),
		"reply-marked.txt":         isReply(wire.Reply{ID: 13, Epoch: 0x9f3c0a1d, Mark: 48213, Marked: true, MaxMessage: 256 << 10}),
		"ack.hex": func(t *testing.T, b []byte) {
			if printed := wire.AppendAck(nil, 1003); !bytes.Equal(printed, b) {
				t.Errorf("printed as % x", printed)
			}
			if s, err := wire.ParseSaid(b); err != nil || s != (wire.Said{Done: 1003}) {
				t.Errorf("read as %+v, %v", s, err)
			}
		},
		"packet-marked.hex": func(t *testing.T, b []byte) {
			if printed := append(binary.LittleEndian.AppendUint64(nil, 48223), packet("hello")...); !bytes.Equal(printed, b) {
				t.Errorf("printed as % x", printed)
			}
		},
		"reply-ok.txt":    isReply(wire.Reply{ID: 12}),
		"reply-hello.txt": isReply(wire.Reply{ID: 12, Label: "db-2", Epoch: 0x9f3c0a1d, Next: 1000, MaxMessage: 256 << 10}),
		"reply-error.txt": isReply(wire.Reply{Err: notOwner}),
		"sink.conf": func(t *testing.T, b []byte) {
			got, err := wire.ParseOptionLines(b)
			if err != nil || got != (wire.Options{PatienceSet: true, NoEmpty: true, End: wire.EndNewline, MaxSize: 65536}) {
				t.Errorf("read as %+v, %v", got, err)
			}
		},
		"packet-source.hex": func(t *testing.T, b []byte) {
			if printed := packet(messages...); !bytes.Equal(printed, b) {
				t.Errorf("printed as % x", printed)
			}
			if n, err := wire.CheckRecords(b, 5); n != 3 || err != nil || !slices.Equal(payloads(b), messages) {
				t.Errorf("read as %d records %q, %v", n, payloads(b), err)
			}
		},
		"packet-sink.hex": func(t *testing.T, b []byte) {
			printed := make([]byte, wire.SinkHeader)
			wire.PutSinkHeader(printed, 1000, 2)
			if printed = append(printed, packet(messages...)...); !bytes.Equal(printed, b) {
				t.Errorf("printed as % x", printed)
			}
			if p, err := wire.ParseSinkPacket(b); err != nil || p.First != 1000 || p.Lost != 2 || !slices.Equal(payloads(p.Records), messages) {
				t.Errorf("read as %+v, %v", p, err)
			}
		},
		"packet-meta.hex": func(t *testing.T, b []byte) {
			known := wire.Origin{Time: 1779551940123456789, PID: 1234, UID: 1000, GID: 100, Source: 1, Known: true}
			printed := make([]byte, wire.MetaHeader+2*wire.OriginSize)
			wire.PutMetaHeader(printed, 1000, 2, 2)
			wire.PutOrigin(printed[wire.MetaHeader:], 1000, known)
			wire.PutOrigin(printed[wire.MetaHeader+wire.OriginSize:], 1002, wire.Origin{Time: known.Time, Source: 1})
			if printed = append(printed, packet(messages...)...); !bytes.Equal(printed, b) {
				t.Errorf("printed as % x", printed)
			}
			p, err := wire.ParseMetaPacket(b)
			if err != nil || p.First != 1000 || p.Lost != 2 || p.Count != 3 || !slices.Equal(payloads(p.Records), messages) {
				t.Fatalf("read as %+v, %v", p, err)
			}
			for i, want := range []wire.Origin{known, known, {Time: known.Time, Source: 1}} {
				if got := p.OriginOf(1000 + uint64(i)); got != want {
					t.Errorf("the origin of message %d is read as %+v", 1000+i, got)
				}
			}
		},
		"request-list.json": isRequest(wire.Request{Op: wire.OpList}),
		"request-drop.json": isRequest(wire.Request{Op: wire.OpDrop, Sink: "#12"}),
		"request-set.json":  isRequest(wire.Request{Op: wire.OpSet, Sink: "db", Patience: "2.5s"}),
		"answer-done.json":  isAnswer,
		"answer-error.json": isAnswer,
		"answer-list.json":  isAnswer,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, golden(t, name)) })
	}
	for _, name := range goldenNames(t) {
		if tests[name] == nil {
			t.Errorf("nothing tests testdata/%s", name)
		}
	}
}

func isRegistration(want wire.Registration) func(*testing.T, []byte) {
	return func(t *testing.T, b []byte) {
		if got, err := wire.ParseRegistration(b); err != nil || got != want {
			t.Errorf("read as %+v, %v", got, err)
		}
		if printed := want.Append(nil); !bytes.Equal(printed, b) {
			t.Errorf("printed as %q", printed)
		}
	}
}

func isHello(want wire.Options) func(*testing.T, []byte) {
	return func(t *testing.T, b []byte) {
		if got, err := wire.ParseHello(b); err != nil || got.Options != want {
			t.Errorf("read as %+v, %v", got, err)
		}
		if printed := (wire.Hello{Options: want}).Append(nil); !bytes.Equal(printed, b) {
			t.Errorf("printed as %q", printed)
		}
	}
}

func isReply(want wire.Reply) func(*testing.T, []byte) {
	return func(t *testing.T, b []byte) {
		got, err := wire.ParseReply(b)
		if err != nil || got.ID != want.ID || got.MaxMessage != want.MaxMessage || !sameError(got.Err, want.Err) {
			t.Errorf("read as %d %v, %v", got.ID, got.Err, err)
		}
		if printed := want.Append(nil); !bytes.Equal(printed, b) {
			t.Errorf("printed as %q", printed)
		}
	}
}

func sameError(a, b *wire.Error) bool { return a == b || a != nil && b != nil && *a == *b }

func isRequest(want wire.Request) func(*testing.T, []byte) {
	return func(t *testing.T, b []byte) {
		if got, err := wire.ParseRequest(b); err != nil || got != want {
			t.Errorf("read as %+v, %v", got, err)
		}
		sameJSON(t, b, want)
	}
}

// isAnswer wants every field in the file to be one of wire.Answer, and the other way round.
func isAnswer(t *testing.T, b []byte) {
	var got wire.Answer
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&got); err != nil {
		t.Fatalf("cannot read it: %v", err)
	}
	sameJSON(t, b, got)
}

// sameJSON compares b and the JSON of v, fields in order, but for the space between them.
func sameJSON(t *testing.T, b []byte, v any) {
	t.Helper()
	var want bytes.Buffer
	got, err := json.Marshal(v)
	if err := errors.Join(err, json.Compact(&want, b)); err != nil {
		t.Fatalf("cannot compare: %v", err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("printed as %s", got)
	}
}
