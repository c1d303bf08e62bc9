// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/wire"
)

// controller answers the requests on the channel's control socket with packets, and shows what was asked; no packets
// at all is silence.
func controller(t testing.TB, channel msgmux.Channel, packets func(request wire.Request) []string) <-chan wire.Request {
	t.Helper()
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(channel.RuntimeDir, "control"), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	asked := make(chan wire.Request, 100)
	go func() {
		buffer := make([]byte, wire.MaxRequest)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			n, err := conn.Read(buffer)
			if err != nil {
				t.Error(err)
			}
			request, err := wire.ParseRequest(buffer[:n])
			if err != nil {
				t.Errorf("a request that no broker takes: %q: %v", buffer[:n], err)
			}
			asked <- request
			answer := packets(request)
			for _, packet := range answer {
				conn.Write([]byte(packet))
			}
			if answer == nil {
				conn.Read(buffer) // until the client gives up
			}
			conn.Close()
		}
	}()
	return asked
}

// cut makes packets of n bytes of an answer.
func cut(t testing.TB, answer wire.Answer, n int) []string {
	text, err := json.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	var packets []string
	for ; len(text) > n; text = text[n:] {
		packets = append(packets, string(text[:n]))
	}
	return append(packets, string(text))
}

// TestControlAsksAndReads goes through the operations; the list comes in many packets.
func TestControlAsksAndReads(t *testing.T) {
	channel := folder(t)
	label := strings.Repeat("l", 64)
	asked := controller(t, channel, func(r wire.Request) []string {
		answer := wire.Answer{OK: true}
		if r.Op == wire.OpStatus || r.Op == wire.OpList {
			answer.Status = &wire.Status{PID: 4711, Entered: 1 << 60}
		}
		if r.Op == wire.OpList {
			answer.Sinks = make([]wire.Sink, 4000)
			answer.Sinks[3999] = wire.Sink{ID: 12, Label: label}
		}
		return cut(t, answer, 60_000)
	})
	ctx := inTime(t)
	status, err := channel.Status(ctx)
	if err != nil || status.PID != 4711 || status.Entered != 1<<60 {
		t.Errorf("got %+v and %v", status, err)
	}
	status, sinks, err := channel.Sinks(ctx)
	if err != nil || status.PID != 4711 || len(sinks) != 4000 || sinks[3999].Label != label {
		t.Errorf("got %d sinks and %v", len(sinks), err)
	}
	if err := channel.Drop(ctx, "#12"); err != nil {
		t.Error(err)
	}
	if err := channel.SetPatience(ctx, "archive", msgmux.Forever); err != nil {
		t.Error(err)
	}
	for _, want := range []wire.Request{
		{Op: "status"}, {Op: "list"}, {Op: "drop", Sink: "#12"}, {Op: "set", Sink: "archive", Patience: "forever"},
	} {
		if got := <-asked; got != want {
			t.Errorf("asked was %+v, want %+v", got, want)
		}
	}
	if err := channel.SetPatience(ctx, "archive", -time.Second); !errors.Is(err, msgmux.ErrBadOption) {
		t.Errorf("got %v", err)
	}
}

// TestControlRefusals wants each refusal in its class, and an answer that is none as an error of its own.
func TestControlRefusals(t *testing.T) {
	for _, test := range []struct {
		packets []string
		want    error // nil: none of the classes
	}{
		{cut(t, wire.Answer{Error: wire.Refuse(wire.CodeNotFound, "there is no sink x")}, 1000), msgmux.ErrNotFound},
		{cut(t, wire.Answer{Error: wire.Refuse(wire.CodeDenied, "not yours")}, 10), msgmux.ErrRefused},
		{[]string{"hello"}, nil},
		{[]string{}, nil},
		{[]string{"{}"}, nil},
		{[]string{`{"ok":false}`}, nil},
		{nil, context.DeadlineExceeded},
	} {
		channel := folder(t)
		controller(t, channel, func(wire.Request) []string { return test.packets })
		ctx, cancel := context.WithTimeout(context.Background(), 4*shortly)
		err := channel.Drop(ctx, "x")
		cancel()
		if err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%q: got %v", test.packets, err)
		}
		for _, class := range []error{msgmux.ErrNotFound, msgmux.ErrRefused, msgmux.ErrNoBroker, context.DeadlineExceeded} {
			if !errors.Is(class, test.want) && errors.Is(err, class) {
				t.Errorf("%q: %v is also %v", test.packets, err, class)
			}
		}
	}
	// An answer that says yes to the question how it is, and nothing else.
	channel := folder(t)
	controller(t, channel, func(wire.Request) []string { return []string{`{"ok":true}`} })
	if _, err := channel.Status(inTime(t)); err == nil {
		t.Error("an answer without a status was taken")
	}
}

// TestControlReadsARefusalOfWhatWasNotRead: a broker that has too many clients says busy, and closes without reading the request. The
// client hears of the end first, when it writes or when it reads.
func TestControlReadsARefusalOfWhatWasNotRead(t *testing.T) {
	busy := cut(t, wire.Answer{Error: wire.Refuse(wire.CodeBusy, "too many clients say nothing; try again")}, 1000)[0]
	for _, asked := range []bool{true, false} { // before the broker closes; or perhaps behind that
		for _, answer := range []string{busy, ""} {
			channel := folder(t)
			listener := listen(t, channel, "control")
			go func() {
				for {
					conn, err := listener.AcceptUnix()
					if err != nil {
						return // closed
					}
					if asked {
						await(t, conn)
					} else {
						conn.CloseRead() // as of now nothing can be written
					}
					if answer != "" {
						conn.Write([]byte(answer))
					}
					conn.Close()
				}
			}()
			for range 20 {
				_, err := channel.Status(inTime(t))
				op, _ := errors.AsType[*msgmux.OpError](err)
				switch {
				case op == nil || answer != "" && (op.Code != wire.CodeBusy || !errors.Is(err, msgmux.ErrRefused)):
					t.Fatalf("asked before: %t: got %v", asked, err)
				case answer == "" && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE):
					t.Fatalf("asked before: %t, and told nothing: got %v", asked, err)
				}
			}
		}
	}
}

// await waits until something is there to be read, and leaves it there.
func await(t testing.TB, conn *net.UnixConn) {
	raw, err := conn.SyscallConn()
	if err == nil {
		err = raw.Read(func(fd uintptr) bool {
			_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
			return err != syscall.EAGAIN
		})
	}
	if err != nil {
		t.Error(err)
	}
}

// TestControlWaitsForItsTurn connects to a listener whose backlog is full.
func TestControlWaitsForItsTurn(t *testing.T) {
	channel := folder(t)
	if _, err := channel.Status(inTime(t)); !errors.Is(err, msgmux.ErrNoBroker) {
		t.Errorf("no socket: got %v", err)
	}
	path := filepath.Join(channel.RuntimeDir, "control")
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for {
		conn, err := net.Dial("unixpacket", path)
		if err != nil {
			break // the backlog, net.core.somaxconn, is full
		}
		defer conn.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), shortly)
	defer cancel()
	if _, err := channel.Status(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
