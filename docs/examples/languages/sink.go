// SPDX-License-Identifier: Apache-2.0
//
// A sink: prints each message as a line, until it is ended.

//go:build ignore

package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"

	msgmux "github.com/msgmux/msgmux/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	channel, err := msgmux.Default()
	if err != nil {
		log.Fatal(err)
	}
	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{Label: "go"})
	if err != nil {
		log.Fatal(err)
	}
	for message, err := range sink.Messages(ctx) {
		if err == nil {
			_, err = fmt.Printf("%s\n", message.Payload)
		}
		if err != nil && !errors.Is(err, context.Canceled) { // that is Ctrl-C
			log.Fatal(err)
		}
	}
}
