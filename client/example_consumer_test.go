// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/client/brokertest"
)

// consume gives each message to store until ctx is done. A payload is only lent: store copies what it keeps.
func consume(ctx context.Context, channel msgmux.Channel, store func(payload []byte) error) error {
	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{Label: "archive"})
	if err != nil {
		return err
	}
	defer sink.Close()
	for message, err := range sink.Messages(ctx) {
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if err == nil {
			err = store(message.Payload)
		}
		if err != nil {
			return err // msgmux.ErrHungUp: the channel was stopped
		}
	}
	return nil
}

// A consumer, which Ctrl-C ends in good order.
func Example_consumer() {
	broker, err := brokertest.Run(brokertest.Options{}) // elsewhere: channel, err := msgmux.Default()
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Stop()
	if err := produce(context.Background(), broker.Channel, lines("one", "", "last")); err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err = consume(ctx, broker.Channel, func(payload []byte) error {
		fmt.Printf("%q\n", payload)
		if string(payload) == "last" {
			stop() // as Ctrl-C does
		}
		return nil
	})
	fmt.Println(err)
	// Output:
	// "one"
	// ""
	// "last"
	// <nil>
}
