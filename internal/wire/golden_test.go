// SPDX-License-Identifier: Apache-2.0

package wire_test

// The files in testdata are the bytes of the protocol, for this package and for whoever writes another: text as it is,
// packets as hexadecimal with comments. docs/protocol.md shows each of them; see docs_test.go.

import (
	"bytes"
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
	notOwner := wire.Refuse(wire.CodeNotOwner, "%q belongs to uid %d and not to uid %d who asks; its owner or root has to register it", tap, 0, 1000)
	messages := []string{"hello", "", "pong"}
	tests := map[string]func(t *testing.T, b []byte){
		"registration-bare.txt":    isRegistration(wire.Registration{Address: tap}),
		"registration-options.txt": isRegistration(wire.Registration{Address: wire.Address{Name: "/run/db/in"}, Options: db}),
		"registration-share.txt":   isRegistration(wire.Registration{Options: wire.Options{Share: "workers"}}),
		"registration-remove.txt":  isRegistration(wire.Registration{Address: tap, Remove: true, Options: wire.Options{Reply: true}}),
		"hello-publish.txt":        isHello(wire.Options{Label: "web"}),
		"hello-subscribe.txt":      isHello(wire.Options{Label: "db", Patience: wire.Forever, PatienceSet: true}),
		"reply-ok.txt":             isReply(wire.Reply{ID: 12}),
		"reply-hello.txt":          isReply(wire.Reply{ID: 12, Label: "db-2", Epoch: 0x9f3c0a1d, Next: 1000, MaxMessage: 256 << 10}),
		"reply-error.txt":          isReply(wire.Reply{Err: notOwner}),
		"sink.conf": func(t *testing.T, b []byte) {
			got, err := wire.ParseOptionLines(b)
			if err != nil || got != (wire.Options{PatienceSet: true, Frames: true}) {
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
