// SPDX-License-Identifier: Apache-2.0

package stream_test

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/msgmux/msgmux/cmd/msgmux-nats/natstest"
	"github.com/msgmux/msgmux/cmd/msgmux-nats/stream"
)

// TestBookmarkInACluster stands where it was put, from the first time on.
func TestBookmarkInACluster(t *testing.T) {
	addresses := make([]string, 6) // for clients, and for servers
	for i := range addresses {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addresses[i] = l.Addr().String()
		l.Close()
	}
	var urls []string
	for i, address := range addresses[:3] {
		s := natstest.New(t, natstest.Options{Listen: address, Name: fmt.Sprint("n", i),
			Config: fmt.Sprintf("cluster { name: c, listen: %q, routes: [nats://%s] }\n", addresses[3+i], strings.Join(addresses[3:], ", nats://"))})
		s.Run(t)
		urls = append(urls, s.URL)
	}
	var js jetstream.JetStream
	var err error
	eventually(t, "the stream", func() bool {
		conn, failed := nats.Connect(strings.Join(urls, ","))
		if failed != nil {
			return false
		}
		t.Cleanup(conn.Close)
		if js, err = jetstream.New(conn); err == nil {
			_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"m"}, Replicas: 3})
		}
		return err == nil
	})
	for range 50 {
		if _, err := js.Publish(t.Context(), "m", nil); err != nil {
			t.Fatal(err)
		}
	}
	link, err := stream.Dial(t.Context(), stream.Config{Servers: urls, Stream: "S", Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	for _, first := range []uint64{0, 20, 49} {
		name := fmt.Sprint("there", first)
		for _, at := range []uint64{first, first + 1} {
			if err := link.SetBookmark(t.Context(), name, []string{"m"}, at); err != nil {
				t.Fatal(err)
			}
			got, known, err := link.Bookmark(t.Context(), name)
			waiting, failed := link.Waiting(t.Context(), name)
			if got != at || !known || waiting != 50-at || err != nil || failed != nil {
				t.Errorf("%s was put to %d: %d, %v, %v; %d wait, %v", name, at, got, known, err, waiting, failed)
			}
		}
	}
}
