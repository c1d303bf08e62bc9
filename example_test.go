// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/msgmux/msgmux"
)

// A source and a sink of one channel. The message goes to every sink that there is.
func Example() {
	channel, stop := exampleChannel() // elsewhere: msgmux.Locate("", false, "")
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{Label: "archive"})
	if err != nil {
		log.Fatal(err)
	}
	defer sink.Close()

	source, err := channel.Dial(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	if err := source.Send(ctx, []byte("hello")); err != nil {
		log.Fatal(err)
	}

	message, err := sink.Receive(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", message.Payload)
	// Output: hello
}

// A channel by name, and one by its folder.
func ExampleLocate() {
	for _, name := range []string{"", "web"} {
		channel, err := msgmux.Locate(name, false, "")
		fmt.Println(channel.RuntimeDir, err)
	}
	channel, err := msgmux.Locate("", false, "/srv/msgmux")
	fmt.Println(channel.RuntimeDir, err)
	_, err = msgmux.Locate("Not a name", false, "")
	fmt.Println(errors.Is(err, msgmux.ErrBadOption))
	// Output:
	// /run/msgmux <nil>
	// /run/msgmux.web <nil>
	// /srv/msgmux <nil>
	// true
}

// A program that must not wait says what it does when the channel is full: here nobody has come to take a message.
func ExampleSource_TrySend() {
	channel, stop := exampleChannel()
	defer stop()
	source, err := channel.Dial(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()

	message := make([]byte, 1000)
	for {
		err := source.TrySend(message)
		if errors.Is(err, msgmux.ErrWouldBlock) {
			fmt.Println("full")
			break
		}
		if err != nil {
			log.Fatal(err)
		}
	}

	// One that may wait a little gives a deadline.
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err = source.Send(ctx, message)
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output:
	// full
	// true
}

// The cheapest way to receive: the message is lent for the time of the call.
func ExampleSink_Each() {
	channel, stop := exampleChannel()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{Patience: new(5 * time.Second)})
	if err != nil {
		log.Fatal(err)
	}
	defer sink.Close()
	source, err := channel.Dial(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	for _, text := range []string{"one", "two", "three"} {
		if err := source.Send(ctx, []byte(text)); err != nil {
			log.Fatal(err)
		}
	}

	enough := errors.New("enough")
	size := 0
	err = sink.Each(ctx, func(message msgmux.Message) error {
		size += len(message.Payload)
		if string(message.Payload) == "three" {
			return enough
		}
		return nil
	})
	fmt.Println(size, err)
	// Output: 11 enough
}

// Who is there, and how far behind.
func ExampleChannel_List() {
	channel, stop := exampleChannel()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{Label: "archive", Patience: new(3 * time.Second)})
	if err != nil {
		log.Fatal(err)
	}
	defer sink.Close()
	if err := channel.Set(ctx, "archive", msgmux.Settings{Patience: new(msgmux.Forever)}); err != nil {
		log.Fatal(err)
	}

	_, sinks, err := channel.List(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range sinks {
		fmt.Println(s.Label, s.State, s.Patience, s.Waiting)
	}
	fmt.Println(errors.Is(channel.Drop(ctx, "nobody"), msgmux.ErrNotFound))
	// Output:
	// archive ready forever 0
	// true
}
