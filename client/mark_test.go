// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestMarkedSourceIsHungUpOnEachTime by a broker that says ok: it does not connect without end, and with Retry not without a pause.
func TestMarkedSourceIsHungUpOnEachTime(t *testing.T) {
	channel := folder(t)
	listener := listen(t, channel, "publish")
	var dials atomic.Int32
	go func() {
		for {
			conn, err := listener.AcceptUnix()
			if err != nil {
				return // closed
			}
			defer conn.Close()
			dials.Add(1)
			conn.Read(make([]byte, wire.MaxReply))
			conn.CloseRead() // before the ok: so nothing can be sent behind it
			conn.Write([]byte("ok id=7 epoch=1 mark=5\n"))
		}
	}()
	options := msgmux.SourceOptions{Label: "tail", Marks: true}
	source, err := channel.Dial(inTime(t), options)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*shortly)
	defer cancel()
	if err := source.Send(ctx, []byte("x")); !errors.Is(err, msgmux.ErrNoBroker) || dials.Load() != 2 {
		t.Fatalf("Send: %v after %d connections", err, dials.Load())
	}
	if err := source.TrySend([]byte("x")); !errors.Is(err, msgmux.ErrNoBroker) || dials.Load() != 3 {
		t.Errorf("TrySend: %v after %d connections", err, dials.Load())
	}
	batch := source.Batch()
	if err := errors.Join(batch.Add(inTime(t), []byte("x")), batch.Mark(6)); err != nil {
		t.Fatal(err)
	}
	if err := batch.TryFlush(); !errors.Is(err, msgmux.ErrNoBroker) || dials.Load() != 4 || batch.Len() != 1 {
		t.Errorf("TryFlush: %v after %d connections, %d messages are left", err, dials.Load(), batch.Len())
	}

	options.Retry = true
	patient, err := channel.Dial(inTime(t), options)
	if err != nil {
		t.Fatal(err)
	}
	defer patient.Close()
	dials.Store(0)
	ctx, cancel = context.WithTimeout(context.Background(), 1500*time.Millisecond)
	defer cancel()
	if err := patient.Send(ctx, []byte("x")); !errors.Is(err, context.DeadlineExceeded) || dials.Load() != 2 {
		t.Errorf("with Retry: %v after %d connections", err, dials.Load())
	}
	if err := patient.TrySend([]byte("x")); !errors.Is(err, msgmux.ErrNoBroker) || dials.Load() != 3 {
		t.Errorf("TrySend with Retry: %v after %d connections", err, dials.Load())
	}
}
