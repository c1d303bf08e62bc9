// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/wire"
)

var update = flag.Bool("update", false, "write the golden files of JSON anew: only for a form that is new, or has more")

// aTime is not in UTC, and has digits of all kinds.
var aTime = time.Date(2026, 3, 4, 5, 6, 7, 890_000_001, time.FixedZone("", 3600))

// aListing has something in every field.
func aListing() listing {
	return listing{
		Status: wire.Status{
			Version: "1.2.3", Channel: "audit", PID: 4711, RuntimeDir: "/run/msgmux.audit", Generation: 1, Starts: 2,
			SinceUnix: 1_770_000_000, RingSince: 1_760_000_000, Buffer: 16 << 20, Used: 4096, MaxMessage: 256 << 10, MaxSinks: 4096, SinksRoom: 2048, MaxClients: 1024,
			Received: 1005, Entered: 1000, EnteredBytes: 64_000, Landed: 2, Refused: map[string]uint64{"too-large": 5}, Accepted: 1990, Lost: 10,
			Abandoned: 3, Delivered: 1000, Tail: 900, Uncertain: 1, AsOwn: 4, Sinks: wire.SinkCounts{Total: 2, Static: 1, Dynamic: 1, Framed: 1, Stalled: 1},
			Sources: wire.Sources{Blocked: true, Why: "sink archive", Sink: "archive", ForSeconds: 0.25, BlockedSecs: 12.5, Sockets: []wire.SourceSocket{
				{Number: 1, Path: "/run/msgmux.audit/source", Kind: wire.KindDatagrams, Waiting: 3, WaitingBytes: 120},
				{Path: "/run/msgmux.audit/publish", Kind: wire.KindConnections, WaitingBytes: 4096, Blocked: 1}}}, RateSeconds: 1.5,
			ReceivedRate: 99.5, Registrations: map[string]uint64{"ok": 2, "denied": 1}, LogDropped: 0,
		},
		Sinks: []wire.Sink{
			{ID: 1, Label: "archive", Kind: "static", State: "stalled", Address: "/run/msgmux.audit/sinks/archive", Credentials: "pass",
				Patience: "forever", PatienceLeft: -1, Start: 10, Next: 990, Accepted: 980, Waiting: 10, LagBytes: 640, Rate: 99.5, SinceUnix: 1_770_000_001},
			{ID: 7, Label: "work", Kind: "framed", State: "lagging", UID: 1000, Share: "workers", Frames: true, Patience: "1s",
				Next: 1000, Accepted: 990, Lost: 10, SinceUnix: 1_770_000_002, LaggingSince: 1_770_000_003},
		},
		Senders: []sender{{Socket: "publish", UID: 1000, Sockets: 2, Processes: []string{"app[815]"}}},
		Readers: []sinkEnd{{Sinks: []string{"work"}, UID: 1000, Sockets: 1, Processes: []string{"work[816]"}, Units: []string{"work.service"}}},
	}
}

// aMessage is one that came at aTime.
func aMessage(text string, seq uint64) *message {
	return &message{Message: msgmux.Message{Payload: []byte(text), Seq: seq}, at: aTime, senders: &processes{}}
}

// goldenForms are the forms as testdata has them.
func goldenForms(t *testing.T) map[string][]byte {
	t.Helper()
	encode := func(value any, indent bool) []byte {
		text, err := encodeJSON(value, indent)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	l := aListing()
	status := channelAsJSON(l.Status)
	lines := slices.Concat(
		encode(messageAsJSON(aMessage("hello", 41)), false),
		encode(jsonGap{moment{aTime}, gapJSON{Before: 45, Lost: 3}}, false),
		encode(messageAsJSON(aMessage("\xff\x00", 45)), false),
		encode(jsonGap{moment{aTime}, gapJSON{Before: 0, Anew: true}}, false),
		encode(messageAsJSON(aMessageFrom("hello", 46, "cron", "cron.service")), false),
	)
	return map[string][]byte{
		"status.json": encode(l.asJSON(aTime), true),
		"sinks.json":  encode(sinksAsJSON(l.Sinks), true),
		"channels.json": encode([]foundJSON{
			{Name: "", RuntimeDir: "/run/msgmux", State: stateRefused}, {Name: "audit", RuntimeDir: "/run/msgmux.audit", State: stateRunning, Status: &status},
		}, true),
		"doctor.json": encode([]finding{
			found("sock_diag", good, "", "the kernel tells whose a socket is"),
			found("sink archive", poor, "start what binds it, or remove the entry", "nobody is at /run/msgmux/sinks/archive"),
		}, true),
		"bench.json": encode(benchJSON{Sinks: 4, Size: 256, Transport: "frames", Rate: 1000, Seconds: 5.01, Sent: 5000, Deliveries: 19_990, Lost: 10, Disordered: 0,
			MessagesPS: 998, PerSecond: 3990, BrokerCPU: 0.25, ClientCPU: 0.5, CPU: 37.52, P50: 70.1, P99: 200.5, P999: 900, BrokerBuild: "1.2.3", ClientBuild: "1.2.3"}, true),
		"sub.json": lines,
	}
}

// TestJSONStaysAsItIs, byte by byte: the forms are an interface.
func TestJSONStaysAsItIs(t *testing.T) {
	for name, text := range goldenForms(t) {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		golden, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(text, golden) {
			t.Errorf("%s is now\n%s", name, text)
		}
	}
}

var yearFirst = regexp.MustCompile(`^\d{4}-`)

// keysOf are the names of all fields in JSON, each with those around it, and the times in it.
func keysOf(t *testing.T, text string) (keys map[string]bool, times []string) {
	t.Helper()
	keys = map[string]bool{}
	var walk func(path string, value any)
	walk = func(path string, value any) {
		switch v := value.(type) {
		case map[string]any:
			for key, inner := range v {
				if strings.HasSuffix(path, ".refused") || strings.HasSuffix(path, ".registrations") {
					key = "*" // by reason
				}
				keys[path+"."+key] = true
				walk(path+"."+key, inner)
			}
		case []any:
			for _, inner := range v {
				walk(path, inner)
			}
		case string:
			if yearFirst.MatchString(v) {
				times = append(times, v)
			}
		}
	}
	for decoder := json.NewDecoder(strings.NewReader(text)); decoder.More(); {
		var value any
		if err := decoder.Decode(&value); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		walk("", value)
	}
	return keys, times
}

// TestAllJSONIsWrittenDown: what every command really prints has no field that its golden file has not, and times of one form.
func TestAllJSONIsWrittenDown(t *testing.T) {
	parent := folder(t)
	dir := userChannel(t, parent, "msgmux", true)
	sub := startSub(t, dir, "-o", "json", "-C", "2", "--share", "work")
	startSub(t, dir, "--tap", "--patience", "0")
	reader, writer := pipe(t)
	prepare(t, dir, "pub", "-l").input(reader).start()
	sendAll(t, dir, []string{"one", "\xff"})
	sub.want(0)
	forms := map[string]string{
		"sub.json": sub.stdout.String(),
	}
	for form, args := range map[string]string{
		"status.json": "status --json --senders --readers", "sinks.json": "sinks list --json", "channels.json": "channels --json", "doctor.json": "doctor --json",
		"bench.json": "bench --json --force --duration 0.1 --rate 100",
	} {
		p := prepare(t, dir, strings.Fields(args)...)
		if form == "channels.json" {
			p.ofUser(parent)
		}
		p.start().status()
		forms[form] = p.stdout.String()
	}
	watched := prepare(t, dir, "status", "--watch", "--json", "--count", "1", "--interval", "0.1").want(0).stdout.String()
	if strings.Count(watched, "\n") != 1 {
		t.Errorf("%q is not one line", watched)
	}
	writer.Close()
	time := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$`)
	check := func(form, text string) {
		golden, err := os.ReadFile(filepath.Join("testdata", form))
		if err != nil {
			t.Fatal(err)
		}
		known, _ := keysOf(t, string(golden))
		// Not at the same time in any one sink or answer.
		for _, key := range []string{".sinks.tap", ".tap"} {
			known[key] = true
		}
		keys, times := keysOf(t, text)
		if len(keys) < len(known)/2 {
			t.Errorf("%s: only %d fields in %s", form, len(keys), text)
		}
		for key := range maps.Keys(keys) {
			if !known[key] {
				t.Errorf("%s does not have %s", form, key)
			}
		}
		for _, at := range times {
			if !time.MatchString(at) {
				t.Errorf("%s has the time %s", form, at)
			}
		}
	}
	for form, text := range forms {
		check(form, text)
	}
	check("status.json", watched)
}

// TestManPageHasEveryField of every form, and no other.
func TestManPageHasEveryField(t *testing.T) {
	source, err := os.ReadFile("../../docs/man/msgmux-formats.5")
	if err != nil {
		t.Fatal(err)
	}
	page := strings.ReplaceAll(string(source), `\-`, "-")
	described := map[string]bool{}
	for _, line := range regexp.MustCompile(`(?m)^(?:\.It Cm|\.Cm) (.*)$`).FindAllStringSubmatch(page, -1) {
		for word := range strings.FieldsSeq(line[1]) {
			described[strings.Trim(word, ",;:.")] = true
		}
	}
	needed := map[string]bool{}
	for _, of := range []any{statusJSON{}, channelJSON{}, sinkCountsJSON{}, sourcesJSON{}, sinkJSON{}, foundJSON{}, finding{}, benchJSON{}, sender{}, sinkEnd{},
		jsonMessage{}, originJSON{}, guessJSON{}, jsonGap{}, gapJSON{}} {
		for field := range reflect.TypeOf(of).Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name == "" {
				continue
			}
			needed[name] = true
			if !described[name] {
				t.Errorf("msgmux-formats(5) does not describe %s of %T", name, of)
			}
		}
	}
	for _, list := range regexp.MustCompile(`(?m)^\.It Cm (.*)$`).FindAllStringSubmatch(page, -1) {
		for word := range strings.FieldsSeq(list[1]) {
			if word = strings.Trim(word, ","); word != "" && !needed[word] {
				t.Errorf("msgmux-formats(5) describes %s, which nothing has", word)
			}
		}
	}
	if limit := commas(msgmux.MaxMessage); !strings.Contains(page, limit) {
		t.Errorf("msgmux-formats(5) does not have the limit %s", limit)
	}
}
