// SPDX-License-Identifier: Apache-2.0

// Command request sends one request to a NATS server and prints the answer: request URL SUBJECT TEXT. Tests use it where there is
// no other client. An answer of JetStream that is an error ends it with status 1.
package main

import (
	"bytes"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
)

func main() {
	if err := request(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "request:", err)
		os.Exit(1)
	}
}

func request(words []string) error {
	if len(words) != 3 {
		return fmt.Errorf("URL, SUBJECT and TEXT are wanted, and there are %d", len(words))
	}
	conn, err := nats.Connect(words[0])
	if err != nil {
		return fmt.Errorf("cannot connect to %s: %w", words[0], err)
	}
	defer conn.Close()
	answer, err := conn.Request(words[1], []byte(words[2]), 10*time.Second)
	if err != nil {
		return fmt.Errorf("cannot ask %s: %w", words[1], err)
	}
	fmt.Printf("%s\n", answer.Data)
	if bytes.Contains(answer.Data, []byte(`"error":{`)) {
		return fmt.Errorf("%s refuses", words[1])
	}
	return nil
}
