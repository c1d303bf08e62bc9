// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/subuid"
	"github.com/msgmux/msgmux/internal/wire"
)

// Users that take all places: as many as they are, and as many as one user may be by his subordinate uids.

// TestPromise9_AllPlaces: ordinary users, however many, leave a tenth of the sinks and of the connected sources to root and to
// declared sinks.
func TestPromise9_AllPlaces(t *testing.T) {
	needRoot(t)
	b := brokertest.Start(t, func(cfg *broker.Config) {
		cfg.Geometry.MaxSinks, cfg.Geometry.MaxClients, cfg.SinksPerUser = 40, 40, 40
	})
	openToAll(t, b.Dir)
	taken := 0
	for range 40 {
		s := strangersSocket(t, brokertest.Name())
		if r := registerAs(t, b.Dir, stranger, nil, s.Name); r.Err == nil {
			taken++
		} else if codeOf(r.Err) != wire.CodeQuota {
			t.Error(r.Err)
		}
	}
	if taken != 36 {
		t.Errorf("ordinary users have %d of 40 places of sinks", taken)
	}
	if r := brokertest.Register(t, b.Dir, brokertest.NewSocket(t, brokertest.Name()).Name); r.Err != nil {
		t.Errorf("root: %v", r.Err)
	}
	brokertest.NewSocket(t, b.Dir+"/sinks/declared")
	becomes(t, b, "declared", "ready")
	if n := granted(clientsOf(t, stranger, b.Dir+"/publish", 40)); n != 36 {
		t.Errorf("ordinary users have %d of 40 places of connected sources", n)
	}
	brokertest.NewPublisher(t, b.Dir)
}

// TestPromise9_QueuesOfAll: of what may wait in the kernel for all sinks together, the last tenth is root's as well.
func TestPromise9_QueuesOfAll(t *testing.T) {
	needRoot(t)
	b := brokertest.Start(t, func(cfg *broker.Config) { cfg.QueueTotal = 20 * cfg.QueueBytes() })
	openToAll(t, b.Dir)
	if n := granted(clientsOf(t, stranger, b.Dir+"/subscribe", 20)); n != 18 {
		t.Errorf("ordinary users have %d of 20 queues", n)
	}
	brokertest.NewSubscriber(t, b.Dir)
}

// TestPromise9_SubordinateUsers: uids that /etc/subuid gives to a user have their places with him, and with nobody else.
func TestPromise9_SubordinateUsers(t *testing.T) {
	needRoot(t)
	const first, count, each = 500_000, 10, 4
	b := brokertest.Start(t, func(cfg *broker.Config) {
		cfg.SinksPerUser = each
		broker.SetUsers(cfg, subordinates(t, first, count))
	})
	openToAll(t, b.Dir)
	register := func(uid int) string {
		var s, asking *brokertest.Sink
		asUser(uid, func() {
			s, asking = brokertest.NewSocket(t, brokertest.Name()), brokertest.NewSocket(t, brokertest.Name())
		})
		return codeOf(registerAs(t, b.Dir, uint32(uid), asking, s.Name).Err)
	}
	sources, sinks := 0, 0
	for _, uid := range []int{stranger, first, first + 1, first + count - 1} {
		sources += granted(clientsOf(t, uint32(uid), b.Dir+"/publish", 2))
		for range 2 {
			switch code := register(uid); code {
			case "":
				sinks++
			case wire.CodeQuota:
			default:
				t.Errorf("uid %d is refused for %s", uid, code)
			}
		}
	}
	if sinks != each || sources != each {
		t.Errorf("a user has %d sinks and %d connected sources, %d are his", sinks, sources, each)
	}
	if code := register(first + count); code != "" {
		t.Errorf("another user is refused for %s", code)
	}
	if n := granted(clientsOf(t, first+count, b.Dir+"/publish", 1)); n != 1 {
		t.Error("another user's source is refused")
	}
}

// subordinates is a file that gives so many uids from first on to the stranger.
func subordinates(t *testing.T, first, count int) *subuid.File {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"/passwd": fmt.Sprintf("greedy:x:%d:%d::/:/bin/sh\n", stranger, stranger),
		"/subuid": fmt.Sprintf("greedy:%d:%d\n", first, count),
	} {
		writeFile(t, dir+name, text)
	}
	return subuid.At(dir+"/subuid", dir+"/passwd")
}

// granted counts the answers that are ok.
func granted(answers []string) (n int) {
	for _, a := range answers {
		if strings.HasPrefix(a, "ok ") {
			n++
		}
	}
	return n
}
