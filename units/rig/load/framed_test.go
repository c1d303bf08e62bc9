// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"net"
	"strings"
	"testing"

	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/units/rig/load/tally"
)

// TestFramedClients has a framed source send to a framed sink, by way of a test that plays broker. It hangs up on the first
// client before its ok, as a broker does that ends.
func TestFramedClients(t *testing.T) {
	dir := test.Folder(t)
	listen := func(name string) *net.UnixListener {
		l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: dir + "/" + name, Net: "unixpacket"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	hellos := make(chan string, 3)
	welcome := func(l *net.UnixListener, ok bool) *net.UnixConn {
		c, err := l.AcceptUnix()
		if err != nil {
			t.Error(err)
			return nil
		}
		text := make([]byte, 4096)
		n, _ := c.Read(text)
		hellos <- string(text[:n])
		if !ok {
			c.Close()
			return nil
		}
		c.Write([]byte("ok id=1\n"))
		return c
	}
	publish, subscribe := listen("publish"), listen("subscribe")
	const lost = 7 // between the two packets that come first
	go func() {
		welcome(subscribe, false)
		to := welcome(subscribe, true)
		from := welcome(publish, true)
		if to == nil || from == nil {
			return
		}
		t.Cleanup(func() { to.Close() }) // the sink goes on after the source
		defer from.Close()
		buffer, next := make([]byte, maxPacket), uint64(100)
		told := uint64(0)
		for {
			n, err := from.Read(buffer)
			if err != nil || n == 0 {
				return
			}
			packet := binary.LittleEndian.AppendUint64(nil, next)
			packet = append(binary.LittleEndian.AppendUint64(packet, told), buffer[:n]...)
			to.Write(packet)
			for b := buffer[:n]; len(b) > 0; next++ {
				b = b[(recordHeader+int(binary.LittleEndian.Uint32(b))+3)&^3:]
			}
			if told == 0 {
				told, next = lost, next+lost
			}
		}
	}()
	sink := start(t, "subscribe", "--from", dir+"/subscribe", "--option", "label=x")
	sent := report[tally.Sender](start(t, "send", "--to", dir+"/publish", "--records", "30", "--count", "1000", "--spread", "1000"))
	if sent.Sent != 1000 || len(sent.Errors) > 0 {
		t.Errorf("the source reports %+v", sent)
	}
	got := stop[[]tally.Sink](sink)[0]
	if problems := got.Problems(sent); len(problems) > 0 || got.Told != lost {
		t.Errorf("the sink was told of %d lost, want %d: %v", got.Told, lost, problems)
	}
	for _, want := range []string{"label=x", "label=x", ""} {
		if got := <-hellos; !strings.HasPrefix(got, "msgmux/1\n") || !strings.Contains(got, want) {
			t.Errorf("a client says hello with %q, want msgmux/1 and %q", got, want)
		}
	}
}

// TestPacketsOutOfLine feeds packets whose numbers do not follow.
func TestPacketsOutOfLine(t *testing.T) {
	packet := func(first, lost uint64) []byte {
		message := make([]byte, tally.MinMessage)
		tally.Put(message, 1, first)
		b := binary.LittleEndian.AppendUint64(nil, first)
		return appendRecord(binary.LittleEndian.AppendUint64(b, lost), message)
	}
	for name, test := range map[string]struct {
		packets [][]byte
		corrupt uint64
	}{
		"in line":               {[][]byte{packet(5, 0), packet(6, 0)}, 0},
		"lost and told":         {[][]byte{packet(5, 0), packet(9, 3)}, 0},
		"lost and not told":     {[][]byte{packet(5, 0), packet(9, 0)}, 1},
		"told and not lost":     {[][]byte{packet(5, 0), packet(6, 1)}, 1},
		"shorter than a header": {[][]byte{make([]byte, sinkHeader)}, 1},
		"record cut off":        {[][]byte{packet(5, 0)[:sinkHeader+recordHeader+4]}, 1},
		"bytes behind":          {[][]byte{append(packet(5, 0), 1, 2)}, 1},
	} {
		var t1 tally.Tally
		var p packets
		for _, b := range test.packets {
			p.take(&t1, b)
		}
		if got := t1.Report("x").Corrupt; got != test.corrupt {
			t.Errorf("%s: %d messages are not whole, want %d", name, got, test.corrupt)
		}
	}
}
