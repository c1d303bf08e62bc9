// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/client/brokertest"
)

// A source and a sink of one channel. The message goes to every sink that there is.
func Example() {
	broker, err := brokertest.Run(brokertest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Stop()
	channel := broker.Channel // elsewhere: channel, err := msgmux.Default()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{Label: "archive"})
	if err != nil {
		log.Fatal(err)
	}
	defer sink.Close()

	source, err := channel.Dial(ctx, msgmux.SourceOptions{})
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

// A channel by its name, and one by its folder.
func ExampleNamed() {
	for _, name := range []string{"web", "Not a name"} {
		channel, err := msgmux.Named(name)
		fmt.Println(channel.RuntimeDir, err)
	}
	channel := msgmux.Channel{RuntimeDir: "/srv/msgmux"}
	fmt.Println(channel.RuntimeDir)
	// Output:
	// /run/msgmux.web <nil>
	//  cannot find the channel: bad option: channel name "Not a name": 1 to 32 of a-z, 0-9 and _
	// /srv/msgmux
}

// A program that must not wait says what it does when the channel is full: here nobody has come to take a message.
// Collected messages are sent in the same way with Batch.TryFlush.
func ExampleSource_TrySend() {
	broker, err := brokertest.Run(brokertest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Stop()
	channel := broker.Channel
	source, err := channel.Dial(context.Background(), msgmux.SourceOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()

	message := make([]byte, 1000)
	for {
		err = source.TrySend(message)
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

// The log of a program, each line a message.
func ExampleSource_Writer() {
	broker, err := brokertest.Run(brokertest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	sink, err := broker.Channel.Subscribe(ctx, msgmux.SinkOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer sink.Close()
	source, err := broker.Channel.Dial(ctx, msgmux.SourceOptions{Label: "app"})
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()

	logger := log.New(source.Writer(ctx), "app: ", 0)
	logger.Print("started")

	message, err := sink.Receive(ctx)
	fmt.Printf("%q %v\n", message.Payload, err)
	// Output: "app: started\n" <nil>
}

// A service whose socket systemd holds, as msgmux-sink@archive.socket does: what comes while it is away waits.
func ExampleInherited() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	sink, err := msgmux.Inherited("archive", msgmux.InheritedOptions{})
	if err != nil {
		log.Fatal(err)
	}
	for message, err := range sink.Messages(ctx) {
		if errors.Is(err, context.Canceled) {
			break // nothing is lost: the next life goes on here
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", message.Payload)
	}
}

// The last messages of a channel, and what comes then.
func ExampleLast() {
	broker, err := brokertest.Run(brokertest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Stop()
	channel := broker.Channel
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	first, err := channel.Subscribe(ctx, msgmux.SinkOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer first.Close()
	source, err := channel.Dial(ctx, msgmux.SourceOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	for _, text := range []string{"one", "two", "three"} {
		if err := source.Send(ctx, []byte(text)); err != nil {
			log.Fatal(err)
		}
		if _, err := first.Receive(ctx); err != nil {
			log.Fatal(err)
		}
	}

	late, err := channel.Subscribe(ctx, msgmux.SinkOptions{Start: msgmux.Last(2)})
	if err != nil {
		log.Fatal(err)
	}
	defer late.Close()
	for range 2 {
		message, err := late.Receive(ctx)
		fmt.Printf("%d %s %v\n", message.Seq, message.Payload, err)
	}
	// Output:
	// 1 two <nil>
	// 2 three <nil>
}

// A program that makes its messages itself can write them where they are sent from.
func ExampleBatch_Make() {
	broker, err := brokertest.Run(brokertest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Stop()
	channel := broker.Channel
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer sink.Close()
	source, err := channel.Dial(ctx, msgmux.SourceOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()

	batch := source.Batch()
	for _, reading := range []uint64{17, 23} {
		payload, err := batch.Make(ctx, 8)
		if err != nil {
			log.Fatal(err)
		}
		binary.BigEndian.PutUint64(payload, reading)
	}
	if err := batch.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	for range 2 {
		message, err := sink.Receive(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(binary.BigEndian.Uint64(message.Payload))
	}
	// Output:
	// 17
	// 23
}

// Many messages in one packet: what is there is collected, and sent before there is something to wait for. Here that is
// the input's next line.
func ExampleSource_Batch() {
	broker, err := brokertest.Run(brokertest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Stop()
	channel := broker.Channel
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer sink.Close()
	source, err := channel.Dial(ctx, msgmux.SourceOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()

	batch := source.Batch()
	input := bufio.NewReader(strings.NewReader("one\ntwo\nthree\n"))
	for {
		line, err := input.ReadSlice('\n')
		if err != nil {
			break
		}
		if err := batch.Add(ctx, line[:len(line)-1]); err != nil {
			log.Fatal(err)
		}
		if input.Buffered() == 0 {
			if err := batch.Flush(ctx); err != nil {
				log.Fatal(err)
			}
		}
	}
	for range 3 {
		message, err := sink.Receive(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d %s\n", message.Seq, message.Payload)
	}
	// Output:
	// 0 one
	// 1 two
	// 2 three
}

// The usual way to receive, and the cheapest. What is to be kept is copied.
func ExampleSink_Messages() {
	broker, err := brokertest.Run(brokertest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Stop()
	channel := broker.Channel
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer sink.Close()
	source, err := channel.Dial(ctx, msgmux.SourceOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	for _, text := range []string{"one", "two", "last"} {
		if err := source.Send(ctx, []byte(text)); err != nil {
			log.Fatal(err)
		}
	}

	var kept []string
	for message, err := range sink.Messages(ctx) {
		if err != nil {
			log.Fatal(err) // ctx is done, or the broker has hung up
		}
		kept = append(kept, string(message.Payload))
		if string(message.Payload) == "last" {
			break
		}
	}
	fmt.Println(kept)
	// Output: [one two last]
}

// A sink that is not waited for loses what it is too slow for, and is told: by OnGap where it is missing, by Stats
// how much it is in all.
func ExampleSinkOptions_gaps() {
	broker, err := brokertest.Run(brokertest.Options{}) // its ring holds a mebibyte
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Stop()
	channel := broker.Channel
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	next, missing := uint64(0), uint64(0)
	slow, err := channel.Subscribe(ctx, msgmux.SinkOptions{
		Patience: new(time.Duration), // 0
		OnGap:    func(gap msgmux.Gap) { missing += gap.Before - next },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer slow.Close()
	quick, err := channel.Subscribe(ctx, msgmux.SinkOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer quick.Close()
	go func() {
		for range quick.Messages(ctx) {
		}
	}()

	source, err := channel.Dial(ctx, msgmux.SourceOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	const all = 5000
	for range all {
		if err := source.Send(ctx, make([]byte, 1000)); err != nil {
			log.Fatal(err)
		}
	}
	received := uint64(0)
	for message, err := range slow.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		received, next = received+1, message.Seq+1
		if next == all {
			break
		}
	}
	fmt.Println("something was lost:", slow.Stats().Lost > 0)
	fmt.Println("told where:", missing == slow.Stats().Lost)
	fmt.Println("and how much:", received+slow.Stats().Lost == all)
	// Output:
	// something was lost: true
	// told where: true
	// and how much: true
}

// A sink that is to go on comes back when it is disconnected: it was dropped, or the channel was stopped and started. As
// long as the channel lives it goes on where it was.
func ExampleSinkOptions_reconnect() {
	broker, err := brokertest.Run(brokertest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Stop()
	channel := broker.Channel
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{
		Label: "archive", Reconnect: true, OnGap: func(gap msgmux.Gap) { fmt.Println("missing:", gap) },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer sink.Close()
	if err := channel.Drop(ctx, "archive"); err != nil { // what an administrator may do
		log.Fatal(err)
	}

	source, err := channel.Dial(ctx, msgmux.SourceOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	if err := source.Send(ctx, []byte("hello")); err != nil { // waits until a sink is there
		log.Fatal(err)
	}
	message, err := sink.Receive(ctx)
	fmt.Printf("%s %v\n", message.Payload, err)
	fmt.Println("connected again:", sink.Stats().Reconnects)
	// Output:
	// hello <nil>
	// connected again: 1
}

// To lose nothing, a sink leaves, reads what it was sent before, and then closes.
func ExampleSink_Leave() {
	broker, err := brokertest.Run(brokertest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Stop()
	channel := broker.Channel
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer sink.Close()
	source, err := channel.Dial(ctx, msgmux.SourceOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	batch := source.Batch()
	for _, text := range []string{"one", "two"} {
		if err := batch.Add(ctx, []byte(text)); err != nil {
			log.Fatal(err)
		}
	}
	if err := batch.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	message, err := sink.Receive(ctx)
	fmt.Printf("%s %v\n", message.Payload, err)

	if err := sink.Leave(ctx); err != nil {
		log.Fatal(err)
	}
	for message, err := range sink.Messages(ctx) {
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("left over: %s\n", message.Payload)
	}
	// Output:
	// one <nil>
	// left over: two
}

// What went wrong is found with errors.Is; where, and what the broker answered, is in the OpError.
func ExampleOpError() {
	broker, err := brokertest.Run(brokertest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Stop()
	channel := broker.Channel
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	err = channel.Drop(ctx, "nobody")
	fmt.Println(errors.Is(err, msgmux.ErrNotFound))
	if failed, ok := errors.AsType[*msgmux.OpError](err); ok {
		fmt.Println(failed.Op, "at", filepath.Base(failed.Path), "with code", failed.Code)
	}

	_, err = msgmux.Channel{RuntimeDir: "/nowhere"}.Dial(ctx, msgmux.SourceOptions{})
	fmt.Println(errors.Is(err, msgmux.ErrNoBroker), err)
	// Output:
	// true
	// drop the sink at control with code not-found
	// true cannot dial: /nowhere/source: no broker is listening (no such file or directory)
}

// Who is there, and how far behind.
func ExampleChannel_Sinks() {
	broker, err := brokertest.Run(brokertest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Stop()
	channel := broker.Channel
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{Label: "archive", Patience: new(3 * time.Second)})
	if err != nil {
		log.Fatal(err)
	}
	defer sink.Close()
	if err := channel.SetPatience(ctx, "archive", time.Minute); err != nil {
		log.Fatal(err)
	}

	_, sinks, err := channel.Sinks(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range sinks {
		fmt.Println(s.Label, s.State, s.Patience, s.Waiting)
	}
	fmt.Println(errors.Is(channel.Drop(ctx, "nobody"), msgmux.ErrNotFound))
	// Output:
	// archive ready 1m0s 0
	// true
}

// A sink that is kept goes on where it was, and one that stores its place with its results has each message once, whatever has
// become of it before: here it has stored two messages when it ends, and has said nothing.
func ExampleSinkOptions_kept() {
	broker, err := brokertest.Run(brokertest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var books struct { // in a database; both are written in one transaction
		messages []string
		place    msgmux.Position
	}
	archive := func(most int) {
		sink, err := broker.Channel.Subscribe(ctx, msgmux.SinkOptions{
			Label: "archive", Keep: time.Minute, Ack: true, From: books.place, // ErrEpoch: the channel has begun anew
		})
		if err != nil {
			log.Fatal(err)
		}
		defer sink.Close()
		for message, err := range sink.Messages(ctx) {
			if err != nil {
				log.Fatal(err)
			}
			books.messages = append(books.messages, string(message.Payload))
			books.place = msgmux.Position{Epoch: sink.Epoch(), Seq: message.Seq + 1}
			if most--; most == 0 {
				return // it dies here
			}
			if err := sink.Ack(message.Seq + 1); err != nil {
				log.Fatal(err)
			}
		}
	}

	source, err := broker.Channel.Dial(ctx, msgmux.SourceOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	go func() {
		for _, text := range []string{"one", "two", "three", "four"} {
			if err := source.Send(ctx, []byte(text)); err != nil {
				log.Fatal(err)
			}
		}
	}()
	archive(2)
	archive(2)
	fmt.Println(books.messages)
	// Output: [one two three four]
}

// A source that was killed learns what is in the channel. docs/examples/tailer follows a file so.
func ExampleBatch_Mark() {
	broker, err := brokertest.Run(brokertest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	sink, err := broker.Channel.Subscribe(ctx, msgmux.SinkOptions{}) // or the channel would take nothing in
	if err != nil {
		log.Fatal(err)
	}
	defer sink.Close()
	input := []string{"one", "two", "three"}
	for range 2 { // the second one is the first one again, after its death
		source, err := broker.Channel.Dial(ctx, msgmux.SourceOptions{Label: "input", Marks: true, Keep: time.Minute})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("from", source.Mark())
		batch := source.Batch()
		for i := int(source.Mark()); i < min(len(input), int(source.Mark())+2); i++ {
			if err := errors.Join(batch.Add(ctx, []byte(input[i])), batch.Mark(uint64(i+1))); err != nil {
				log.Fatal(err)
			}
		}
		if err := batch.Flush(ctx); err != nil {
			log.Fatal(err)
		}
		source.Close()
	}
	for range input {
		message, err := sink.Receive(ctx)
		fmt.Printf("%s %v\n", message.Payload, err)
	}
	// Output:
	// from 0
	// from 2
	// one <nil>
	// two <nil>
	// three <nil>
}
