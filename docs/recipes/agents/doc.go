// SPDX-License-Identifier: Apache-2.0

// Package agents runs what docs/recipes/statsd.md says of Telegraf, the OpenTelemetry collector and agents that ask the kernel who has
// sent: with the first two themselves, built from their modules, and a receiver that does what the last do with their socket. It is
// a module of its own because of how much they bring along.
package agents
