// SPDX-License-Identifier: Apache-2.0

// Command otelcol is the OpenTelemetry collector with the StatsD receiver and an exporter that prints, and nothing else: what its own
// builder makes of a list of two.
package main

import (
	"log"

	"github.com/open-telemetry/opentelemetry-collector-contrib/receiver/statsdreceiver"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/debugexporter"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/service/telemetry"
)

func main() {
	factories := func() (f otelcol.Factories, err error) {
		f.Telemetry = telemetry.NewFactory(func() component.Config { return &struct{}{} })
		if f.Receivers, err = otelcol.MakeFactoryMap[receiver.Factory](statsdreceiver.NewFactory()); err != nil {
			return f, err
		}
		f.Exporters, err = otelcol.MakeFactoryMap[exporter.Factory](debugexporter.NewFactory())
		return f, err
	}
	settings := confmap.ResolverSettings{DefaultScheme: "file", ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory()}}
	err := otelcol.NewCommand(otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "otelcol"}, Factories: factories,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: settings},
	}).Execute()
	if err != nil {
		log.Fatal(err)
	}
}
