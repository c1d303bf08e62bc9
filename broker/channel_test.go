// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/brokertest"
)

func TestSelfRegisteredSink(t *testing.T) {
	b := brokertest.Start(t)
	sink, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "@mmtest-" + t.Name(), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	if _, err := sink.WriteToUnix([]byte("\n"), &net.UnixAddr{Name: b.Dir + "/register", Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	source, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: b.Dir + "/source", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	buf := make([]byte, 100)
	sink.SetReadDeadline(time.Now().Add(5 * time.Second))
	for i := range 1000 {
		want := fmt.Sprint("message ", i)
		if _, err := source.Write([]byte(want)); err != nil {
			t.Fatal(err)
		}
		n, err := sink.Read(buf)
		if err != nil || string(buf[:n]) != want {
			t.Fatalf("got %q (%v) instead of %q", buf[:n], err, want)
		}
	}
}
