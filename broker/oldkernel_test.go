// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/sys"
)

// withoutWait is a kernel before 5.11, or a filter of system calls that is older than that.
type withoutWait struct{ sys.Kernel }

func (withoutWait) EpollWait(string, int, []sys.Event, time.Duration) (int, unix.Errno) {
	return 0, unix.ENOSYS
}

// TestKernelWithoutWait: a broker that cannot wait for events says so at its start. It would hear of nothing, and turn in
// circles.
func TestKernelWithoutWait(t *testing.T) {
	cfg := brokertest.Config()
	cfg.Log, cfg.Ops = slog.NewTextHandler(t.Output(), nil), withoutWait{}
	c, err := broker.Open(cfg, activation.Set{})
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, unix.ENOSYS) {
		t.Errorf("opened: %v", err)
	}
}
