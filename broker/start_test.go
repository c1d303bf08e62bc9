// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/msgmux/msgmux/broker/brokertest"
)

// TestSinksAreToldWhereTheyBegin with their ok, connected ones, and begin there.
func TestSinksAreToldWhereTheyBegin(t *testing.T) {
	b := brokertest.Start(t)
	source, first := brokertest.NewPublisher(t, b.Dir), brokertest.NewSubscriber(t, b.Dir)
	for i := range 20 {
		if err := source.Send(fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
		if _, err := first.Receive(); err != nil {
			t.Fatal(err)
		}
	}
	_, told := brokertest.Greet(t, b.Dir, "subscribe")
	if told.Epoch == 0 || told.Next != 20 || told.Label != "sink-2" {
		t.Errorf("the ok says %+v", told)
	}
	for start, want := range map[string]uint64{
		"now": 20, "oldest": 0, "-5": 15, "-500": 0, "7": 7, "500": 20,
		fmt.Sprintf("%x:7", told.Epoch): 7, fmt.Sprintf("%x:7", told.Epoch+2): 0,
	} {
		c, r := brokertest.Greet(t, b.Dir, "subscribe", "label=it", "start="+start)
		if r.Err != nil || r.Next != want || r.Epoch != told.Epoch {
			t.Errorf("start=%s: the ok says %+v, want number %d", start, r, want)
		}
		if want < 20 {
			if p, err := c.Receive(); err != nil || p.First != want {
				t.Errorf("start=%s: got %+v and %v", start, p, err)
			}
		}
		plain := brokertest.NewSink(t, b.Dir, "start="+start)
		if want < 20 {
			if m, err := plain.Receive(); err != nil || string(m) != fmt.Sprint(want) {
				t.Errorf("start=%s: a datagram sink got %q and %v", start, m, err)
			}
		}
	}
	long := strings.Repeat("l", 64)
	if _, r := brokertest.Greet(t, b.Dir, "subscribe", "label="+long); r.Label != long || r.MaxMessage != told.MaxMessage {
		t.Errorf("with the longest label the ok says %+v", r)
	}
	if _, r := brokertest.Greet(t, b.Dir, "publish", "label=web"); r.Epoch != 0 || r.Label != "" || r.MaxMessage == 0 {
		t.Errorf("a source's ok says %+v", r)
	}
}
