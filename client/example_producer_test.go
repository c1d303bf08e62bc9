// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"strings"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/client/brokertest"
)

// produce sends each line of input, of any length and bytes, and waits while the channel takes none.
func produce(ctx context.Context, channel msgmux.Channel, input io.Reader) error {
	source, err := channel.Dial(ctx, msgmux.SourceOptions{Label: "lines"})
	if err != nil {
		return err
	}
	defer source.Close()
	for reader := bufio.NewReader(input); ; {
		line, end := reader.ReadBytes('\n')
		if len(line) > 0 {
			if err := source.Send(ctx, bytes.TrimSuffix(line, []byte("\n"))); err != nil {
				return err // msgmux.ErrTooLarge: this line is over source.MaxMessage()
			}
		}
		if errors.Is(end, io.EOF) {
			return nil
		}
		if end != nil {
			return end
		}
	}
}

// lines is an input of several lines.
func lines(texts ...string) io.Reader { return strings.NewReader(strings.Join(texts, "\n")) }

// A producer: what it has sent is in the channel, whether a sink is there or not.
func Example_producer() {
	broker, err := brokertest.Run(brokertest.Options{}) // elsewhere: channel, err := msgmux.Default()
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println(produce(ctx, broker.Channel, lines("one", "", "last")))
	// Output: <nil>
}
