// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/msgmux/msgmux/internal/wire"
)

// evil would clear a terminal, set its title by a C1 control, turn the direction of writing, and begin lines of its own.
const evil = "\x1b[2J\u009d0;x\x07\u202e\u2067\u200f\u2028\nmsgmux: all is well\r\x7f"

// serve plays a server at one of the sockets of a channel: it gives this answer to everybody.
func serve(t *testing.T, dir, socket, answer string) {
	t.Helper()
	listener, err := net.Listen("unixpacket", filepath.Join(dir, socket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = conn.Read(make([]byte, 4096))
				_, _ = conn.Write([]byte(answer))
			}()
		}
	}()
}

// isTame wants nothing in text that acts on a terminal, but for its newlines.
func isTame(t *testing.T, what, text string) {
	t.Helper()
	for _, r := range text {
		if r != '\n' && (unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)) || r == unicode.ReplacementChar {
			t.Errorf("%s would act on a terminal by %U: %q", what, r, text)
			return
		}
	}
}

// TestNothingOfAServerActsOnTheTerminal: whatever a server says, in refusals, in names and as what is no answer at all, stays
// on its line, as text, in every command and in every form.
func TestNothingOfAServerActsOnTheTerminal(t *testing.T) {
	refusal, err := json.Marshal(wire.Answer{Error: &wire.Error{Code: evil, Text: evil}})
	if err != nil {
		t.Fatal(err)
	}
	sink := wire.Sink{ID: 1, Label: evil, Kind: evil, State: evil, Address: evil, Share: evil, Patience: evil, LagBytes: 5}
	lagging, absent := sink, sink
	lagging.State, absent.State = "lagging", "absent"
	list, err := json.Marshal(wire.Answer{OK: true, Sinks: []wire.Sink{sink, lagging, absent}, Status: &wire.Status{
		Version: evil, Channel: evil, RuntimeDir: "/tmp/" + evil, PID: 1, Refused: map[string]uint64{evil: 1}, Buffer: 100,
		Sources: wire.Sources{Blocked: true, Why: evil, Sink: evil}, Registrations: map[string]uint64{evil: 1}, MaxMessage: 1 << 16, RateSeconds: 1,
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, answer := range map[string]string{"a refusal": string(refusal), "a list": string(list), "no JSON": evil} {
		dir := folder(t)
		serve(t, dir, "control", answer)
		serve(t, dir, "subscribe", "error code=quota\n"+evil)
		serve(t, dir, "publish", evil)
		serve(t, dir, "source", "")
		for _, args := range []string{
			"status", "status --json", "status --watch --interval 0.05 --count 1", "status --watch --json --interval 0.05 --count 1", "status --senders",
			"sinks", "sinks --json", "sinks drop x", "sinks set x --patience 1s", "doctor", "doctor --json", "bench --duration 0.1 --force",
			"sub -W 1", "sub -W 1 -o json", "pub -W 0.2 -l", "__complete sinks drop", "__complete sub --share", "__complete sinks set",
		} {
			fields := strings.Fields(args)
			if fields[0] == "__complete" {
				fields = append(fields, "")
			}
			p := prepare(t, dir, fields...).input(strings.NewReader("x\n")).start()
			p.status()
			out := p.stdout.String()
			if fields[0] == "__complete" {
				out = strings.ReplaceAll(out, "\t", " ")
			}
			isTame(t, name+": the output of "+args, out)
			isTame(t, name+": what is said by "+args, p.stderr.String())
			for _, text := range []string{out, p.stderr.String()} {
				if strings.Contains(text, "\nmsgmux: all is well") || strings.HasPrefix(text, "msgmux: all is well") {
					t.Errorf("%s: %s has a line of the server's: %q", name, args, text)
				}
			}
		}
	}
	// Nor in the picture.
	v := new(view)
	l := listing{Status: wire.Status{RuntimeDir: evil, Buffer: 100}, Sinks: []wire.Sink{{ID: 1, Label: evil, Kind: evil, State: evil, LagBytes: 7}}}
	v.take(l, v.at)
	isTame(t, "the picture", strings.Join(picture(v, 300, 50, style{bars: asciiBars, more: "~"}), "\n"))
}
