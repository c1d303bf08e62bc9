// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// slowSends is the kernel where sending takes long, and costs processor time.
type slowSends struct{ sys.Kernel }

func (k slowSends) Sendmmsg(seam string, fd int, hdrs []sys.Mmsghdr) (int, unix.Errno) {
	for began := sys.ThreadTime(); sys.ThreadTime()-began < 5*time.Millisecond; {
	}
	return k.Kernel.Sendmmsg(seam, fd, hdrs)
}

// TestPromise9_OneIsNotPunishedForWhoRests: three brokers have ended over the registration of a user for whom nothing is to be done when
// the next one reads it. What is behind it in the queue has ended none.
func TestPromise9_OneIsNotPunishedForWhoRests(t *testing.T) {
	needRoot(t)
	log := &keptLog{}
	b := brokertest.StartWith(t, func(cfg *broker.Config, in *activation.Set) {
		cfg.Ops = slowSends{}
		data, state := attemptedRing(t, 3)
		in.Data, in.State = []activation.Descriptor{data}, []activation.Descriptor{state}
	}, keepLog(log))
	openToAll(t, b.Dir)
	source := brokertest.NewSource(t, b.Dir)
	bar(t, b, source, log)

	if r := registerAs(t, b.Dir, stranger, nil, strangersSocket(t, brokertest.Name()).Name); codeOf(r.Err) != wire.CodeBusy {
		t.Fatalf("the registration of whoever is barred: %+v", r)
	}
	if r := brokertest.Register(t, b.Dir, brokertest.NewSocket(t, brokertest.Name()).Name); r.Err != nil {
		t.Errorf("the one behind it: %v", r.Err)
	}
}

// attemptedRing is a pair of files in which so many brokers have begun with the registration at the head of the queue.
func attemptedRing(t *testing.T, brokers int) (data, state activation.Descriptor) {
	t.Helper()
	r, err := ring.Create(brokertest.Config().Geometry, 7, ring.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Retire()
	for range brokers {
		r.Attempt()
	}
	return handedOn(t, r)
}

// bar has the stranger be barred: a sink of his is dropped, because sending to it costs too much.
func bar(t *testing.T, b *brokertest.Broker, source *brokertest.Source, log *keptLog) {
	t.Helper()
	strangers(t, b.Dir+"/subscribe", 1)
	stop := make(chan struct{})
	sent := flood(source, 1, 100, stop)
	log.logged(t, 1, "too-costly", "dropped", fmt.Sprint("uid=", stranger))
	close(stop)
	<-sent
}
