// SPDX-License-Identifier: Apache-2.0

// Command telegraf is Telegraf's agent with the StatsD input and an output that prints, and nothing else. As the whole program it
// takes its configuration by --config.
package main

import (
	"context"
	"flag"
	"log"
	"os/signal"
	"syscall"

	"github.com/influxdata/telegraf/agent"
	"github.com/influxdata/telegraf/config"
	_ "github.com/influxdata/telegraf/plugins/inputs/statsd"      // what the page's configuration names
	_ "github.com/influxdata/telegraf/plugins/outputs/file"       // and what the test reads
	_ "github.com/influxdata/telegraf/plugins/serializers/influx" // in its usual form
)

func main() {
	file := flag.String("config", "", "")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c := config.NewConfig()
	if err := c.LoadConfig(*file); err != nil {
		log.Fatal(err)
	}
	if err := agent.NewAgent(c).Run(ctx); err != nil {
		log.Fatal(err)
	}
}
