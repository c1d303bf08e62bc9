// SPDX-License-Identifier: Apache-2.0

package wire_test

// What strangers send must not panic, and whatever is accepted must be printed as something that means the same: so
// nothing is understood that could not have been said plainly, and what the broker stores it can read again.

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/msgmux/msgmux/internal/wire"
)

var (
	nameAlphabet = regexp.MustCompile(`^([A-Za-z0-9_.-]{1,64})?$`)
	codeAlphabet = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)
)

// seed gives the fuzzer the golden files of a pattern, and more.
func seed(f *testing.F, pattern string, more ...string) {
	f.Helper()
	found := false
	for _, name := range goldenNames(f) {
		if ok, _ := filepath.Match(pattern, name); ok {
			f.Add(golden(f, name))
			found = true
		}
	}
	if !found {
		f.Fatalf("no golden file is called %s", pattern)
	}
	for _, text := range more {
		f.Add([]byte(text))
	}
}

// checkRefusal wants an *Error that may be sent and logged.
func checkRefusal(t *testing.T, err error) {
	t.Helper()
	refusal, ok := errors.AsType[*wire.Error](err)
	if !ok {
		t.Fatalf("the error is a %T: %v", err, err)
	}
	if !utf8.ValidString(refusal.Text) || len(refusal.Text) == 0 || len(refusal.Text) > 800 ||
		bytes.ContainsFunc([]byte(refusal.Text), unicode.IsControl) {
		t.Fatalf("the text cannot be shown: %q", refusal.Text)
	}
	got, err := wire.ParseReply(wire.Reply{Err: refusal}.Append(nil))
	if err != nil || got.Err == nil || got.Err.Code != refusal.Code {
		t.Fatalf("%v arrives as %v, %v", refusal, got.Err, err)
	}
}

// checkAddress wants what ParseAddress promises.
func checkAddress(t *testing.T, a wire.Address) {
	t.Helper()
	switch {
	case a.IsZero():
	case len(a.Name) == 0 || len(a.Name) > 107 || !utf8.ValidString(a.Name) || bytes.ContainsFunc([]byte(a.Name), unicode.IsControl):
		t.Fatalf("accepted the address %q", a.Name)
	case !a.Abstract && a.Name[0] != '/':
		t.Fatalf("accepted the path %q", a.Name)
	}
	if got, err := wire.ParseAddress(a.String()); err != nil || got != a {
		t.Fatalf("%+v is printed as %q and read as %+v, %v", a, a, got, err)
	}
}

// checkOptions wants values as the documentation says, and the same after printing.
func checkOptions(t *testing.T, o wire.Options) {
	t.Helper()
	if !nameAlphabet.MatchString(o.Label) || !nameAlphabet.MatchString(o.Share) {
		t.Fatalf("accepted label %q, share %q", o.Label, o.Share)
	}
	if o.Patience < 0 || !o.PatienceSet && o.Patience != 0 || o.Tap && (o.Share != "" || o.Patience != 0) {
		t.Fatalf("accepted %+v", o)
	}
	if o.Keep < 0 || (o.From != wire.Position{}) != (o.From.Epoch != 0) {
		t.Fatalf("accepted %+v", o)
	}
	o.Ack, o.Keep, o.From, o.Replace, o.Batch, o.Mark = false, 0, wire.Position{}, false, 0, false // of connections alone
	if o.Meta {
		o.Frames = true // goes without saying on a connection
	}
	if got, err := wire.ParseOptionLines(o.AppendLines(nil)); err != nil || got != o {
		t.Fatalf("%+v is printed as %q and read as %+v, %v", o, o.AppendLines(nil), got, err)
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, text := range []string{"", "@tap", "/run/x", "tap", "@tap\x00\x00", "@\x1b[2J", "/\xff", "@a\u202eb"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := wire.ParseAddress(text)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		checkAddress(t, a)
		if a.String() != text {
			t.Fatalf("%q is printed as %q", text, a)
		}
	})
}

func FuzzParseOptionLines(f *testing.F) {
	seed(f, "*.conf", "label=x\r\n\r\nstart=oldest", "tap=yes\nshare=x", "patience=forever\ntap=no\n")
	f.Fuzz(func(t *testing.T, text []byte) {
		o, err := wire.ParseOptionLines(text)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		checkOptions(t, o)
	})
}

func FuzzParseRegistration(f *testing.F) {
	seed(f, "registration-*.txt", "", "@tap", "tap", "@tap\x00", "@x\nremove\nremove", "\r\nlabel=x\r\n")
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := wire.ParseRegistration(text)
		if err != nil {
			checkRefusal(t, err)
			checkAddress(t, r.Address)
			if r != (wire.Registration{Address: r.Address, Options: wire.Options{Reply: r.Reply}}) {
				t.Fatalf("%+v comes with a refusal", r)
			}
			return
		}
		checkAddress(t, r.Address)
		checkOptions(t, r.Options)
		printed := r.Append(nil)
		if again, err := wire.ParseRegistration(printed); err != nil || again != r || len(printed) > wire.MaxRegistration {
			t.Fatalf("%+v is printed as %q and read as %+v, %v", r, printed, again, err)
		}
	})
}

func FuzzParseSaid(f *testing.F) {
	for _, b := range [][]byte{nil, golden(f, "ack.hex"), []byte(wire.Leave), make([]byte, 7), make([]byte, 9)} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := wire.ParseSaid(b)
		switch {
		case err != nil:
			checkRefusal(t, err)
		case !s.Leaving && !bytes.Equal(wire.AppendAck(nil, s.Done), b), s.Leaving && string(b) != wire.Leave:
			t.Fatalf("% x is read as %+v", b, s)
		}
	})
}

func FuzzParseHello(f *testing.F) {
	seed(f, "hello-*.txt", "", "msgmux/1", "msgmux/2\n", "msgmux/1\nframes=no")
	f.Fuzz(func(t *testing.T, text []byte) {
		h, err := wire.ParseHello(text)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		checkOptions(t, h.Options)
		if h.Frames || h.Reply {
			t.Fatalf("accepted %+v", h)
		}
		printed := h.Append(nil)
		if again, err := wire.ParseHello(printed); err != nil || again != h || len(printed) > wire.MaxHello {
			t.Fatalf("%+v is printed as %q and read as %+v, %v", h, printed, again, err)
		}
	})
}

func FuzzParseReply(f *testing.F) {
	seed(f, "reply-*.txt", "", "ok", "ok more id=1 id=2", "ok max-message=0 id=7", "ok id=2 label=a next=5", "ok epoch=0 next=3", "ok epoch=aF next=3", "ok max-message=-1", "error busy", "error  x")
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := wire.ParseReply(text)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		if r.Err != nil && (r.ID != 0 || r.MaxMessage != 0 || !codeAlphabet.MatchString(r.Err.Code)) {
			t.Fatalf("accepted %+v %+v", r, r.Err)
		}
		printed := r.Append(nil)
		again, err := wire.ParseReply(printed)
		if err != nil || again.ID != r.ID || again.MaxMessage != r.MaxMessage || !sameError(again.Err, r.Err) || len(printed) > wire.MaxReply {
			t.Fatalf("%+v is printed as %q and read as %+v, %v", r, printed, again, err)
		}
	})
}

// records is a second reading of a packet, by the words of docs/protocol.md and without this package.
func records(b []byte) (all [][]byte, ok bool) {
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, false
		}
		n := int64(binary.LittleEndian.Uint32(b))
		end := 4 + n
		for end%4 != 0 {
			end++
		}
		if end > int64(len(b)) {
			return nil, false
		}
		all = append(all, b[4:4+n])
		b = b[end:]
	}
	return all, len(all) > 0
}

func FuzzCheckRecords(f *testing.F) {
	for _, b := range [][]byte{golden(f, "packet-source.hex"), nil, {0, 0, 0, 0}, {1, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff, 0}} {
		f.Add(b, 5, uint16(0))
		f.Add(b, math.MaxInt, uint16(wire.MaxPacket/4-3))
	}
	// The fuzzer does not grow inputs to 64 KiB by itself: empty records in front make them large.
	f.Fuzz(func(t *testing.T, b []byte, maxMessage int, empty uint16) {
		maxMessage = max(maxMessage, 0)
		b = append(make([]byte, int(empty)*4), b...)
		n, err := wire.CheckRecords(b, maxMessage)
		want, ok := records(b)
		for _, payload := range want {
			ok = ok && len(payload) <= maxMessage
		}
		ok = ok && (len(want) == 1 || len(b) <= wire.MaxPacket)
		if (err == nil) != ok || ok && n != len(want) {
			t.Fatalf("CheckRecords says %d, %v; a second reading %d, %v", n, err, len(want), ok)
		}
		if err != nil {
			checkRefusal(t, err)
			return
		}
		var again []byte
		wire.EachRecord(b, func(payload []byte) bool {
			if !bytes.Equal(payload, want[0]) {
				t.Fatalf("got the payload %q, want %q", payload, want[0])
			}
			want = want[1:]
			again = wire.AppendRecord(again, payload)
			return true
		})
		if len(want) > 0 || len(again) != len(b) {
			t.Fatalf("%d records were left out, %d bytes became %d", len(want), len(b), len(again))
		}
	})
}

func FuzzParseSinkPacket(f *testing.F) {
	f.Add(golden(f, "packet-sink.hex"))
	f.Add(make([]byte, wire.SinkHeader))
	f.Add(golden(f, "packet-source.hex"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := wire.ParseSinkPacket(b)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		if _, err := wire.CheckRecords(p.Records, math.MaxInt); err != nil {
			t.Fatalf("accepted records that are none: %v", err)
		}
		printed := make([]byte, wire.SinkHeader)
		wire.PutSinkHeader(printed, p.First, p.Lost)
		if !bytes.Equal(slices.Concat(printed, p.Records), b) {
			t.Fatalf("printed as % x", printed)
		}
	})
}

func FuzzParseMetaPacket(f *testing.F) {
	longer := golden(f, "packet-meta.hex")
	f.Add(longer)
	f.Add(golden(f, "packet-sink.hex"))
	f.Add(make([]byte, wire.MetaHeader))
	f.Add(slices.Concat(longer[:20], []byte{0, 0, 0, 0}, longer[24:]))             // origins of no bytes
	f.Add(slices.Concat(longer[:16], []byte{0xff, 0xff, 0xff, 0xff}, longer[20:])) // very many
	f.Add(slices.Concat(longer[:16], []byte{1, 0, 0, 0, 64, 0, 0, 0}, longer[24:88], packet("of a longer one")))
	f.Add(slices.Concat(longer[:16], []byte{0, 0, 0, 0, 32, 0, 0, 0}, longer[88:]))                                                               // none
	f.Add(slices.Concat(longer[:24], longer[56:88], longer[24:56], longer[88:]))                                                                  // in the wrong order
	f.Add(slices.Concat(longer[:56], []byte{0xeb}, longer[57:]))                                                                                  // behind the last record
	f.Add(slices.Concat(longer[:56], []byte{0xe8, 3, 0, 0, 0, 0, 0, 0}, longer[64:]))                                                             // two for one record
	f.Add(slices.Concat(bytes.Repeat([]byte{0xff}, 8), longer[8:24], bytes.Repeat([]byte{0xff}, 8), longer[32:56], make([]byte, 8), longer[64:])) // numbers that end
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := wire.ParseMetaPacket(b)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		if n, err := wire.CheckRecords(p.Records, math.MaxInt); err != nil || n != p.Count || len(p.Origins)%p.OriginSize != 0 || len(p.Origins) == 0 {
			t.Fatalf("accepted %d records with %d bytes of origins: %v", n, len(p.Origins), err)
		}
		header := make([]byte, wire.MetaHeader)
		wire.PutMetaHeader(header, p.First, p.Lost, len(p.Origins)/p.OriginSize)
		binary.LittleEndian.PutUint32(header[20:], uint32(p.OriginSize))
		if !bytes.Equal(slices.Concat(header, p.Origins, p.Records), b) {
			t.Fatalf("printed as % x", header)
		}
		for b := p.Origins; len(b) > 0; b = b[p.OriginSize:] {
			from, o := wire.ParseOrigin(b)
			again := make([]byte, wire.OriginSize)
			wire.PutOrigin(again, from, o)
			if f, other := wire.ParseOrigin(again); f != from || other != o {
				t.Fatalf("%+v from %d on is printed as % x", o, from, again)
			}
			if got := p.OriginOf(from); got != o {
				t.Fatalf("message %d is of %+v, and %+v holds from there on", from, got, o)
			}
		}
	})
}

func FuzzControlRequest(f *testing.F) {
	seed(f, "request-*.json", `{"op":"set","sink":"db","patience":"soon"}`, `{"op":"status"} {}`, `[[[[`, "null",
		`{"`+strings.Repeat("F", 900)+`":1}`)
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := wire.ParseRequest(text)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		changes := r.Op == wire.OpDrop || r.Op == wire.OpSet
		if changes != (r.Sink != "") || (r.Op == wire.OpSet) != (r.Patience != "") {
			t.Fatalf("accepted %+v", r)
		}
		printed, err := json.Marshal(r)
		if err != nil {
			t.Fatalf("cannot print %+v: %v", r, err)
		}
		if again, err := wire.ParseRequest(printed); err != nil || again != r {
			t.Fatalf("%+v is printed as %s and read as %+v, %v", r, printed, again, err)
		}
	})
}
