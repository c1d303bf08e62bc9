// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// peers are what a user might take instead of msgmux, each in the way that its
// own documentation makes natural, over a unix socket where it has one.
var peers = []*adapter{
	{
		name: "nats", about: "nats-server, core publish and subscribe, loopback TCP, defaults", group: "peer",
		broker: func(c *cell) []string { return []string{c.program("nats-server"), "-a", "127.0.0.1", "-p", "4222"} },
		port:   "127.0.0.1:4222", source: program{name: "nats"}, sink: program{name: "nats"},
	},
	{
		name: "redis", about: "Redis PUBLISH and SUBSCRIBE, unix socket, hiredis, 64 pipelined", group: "peer",
		broker: func(c *cell) []string {
			return []string{"redis-server", "--port", "0", "--unixsocket", c.dir + "/redis", "--save", "", "--appendonly", "no", "--dir", c.dir}
		},
		ready: []string{"redis"}, source: program{name: "redis"}, sink: program{name: "redis"},
		packages: []string{"redis-server", "libhiredis-dev"},
	},
	mqtt("mosquitto", "Mosquitto, QoS 0, unix socket, libmosquitto"),
	mqtt("mosquitto-qos1", "Mosquitto, QoS 1, 20 in flight", "qos1"),
	zmq("zmq", "ZeroMQ, XSUB/XPUB proxy, ipc, drops when full"),
	zmq("zmq-nodrop", "ZeroMQ, the same with XPUB_NODROP", "nodrop"),
	{
		name: "nng", about: "nng pub0 and sub0, ipc, no broker, drops when full", group: "peer",
		source: program{name: "nng"}, sink: program{name: "nng"},
		packages: []string{"libnng-dev"},
	},
	{
		name: "dbus-daemon", about: "dbus-daemon, bus of its own, signals, sd-bus", group: "peer",
		broker: dbusDaemon, ready: []string{"bus"}, source: program{name: "dbus"}, sink: program{name: "dbus"},
		packages: []string{"dbus-daemon", "libsystemd-dev"},
	},
	{
		name: "dbus-broker", about: "dbus-broker, bus of its own, signals, sd-bus", group: "peer",
		broker: func(c *cell) []string { return []string{c.program("dbus"), "broker", c.dir} },
		ready:  []string{"bus"}, source: program{name: "dbus"}, sink: program{name: "dbus"},
		packages: []string{"dbus-broker", "libsystemd-dev"},
	},
	iceoryx("iceoryx", "iceoryx, a message a chunk of shared memory, wait set, a source that waits"),
	iceoryx("iceoryx-packed", "iceoryx, up to 64 KiB of records a chunk", "packed"),
	{
		name: "shm", about: "a ring in shared memory and no broker: the limit", group: "peer",
		source: program{name: "shm"}, sink: program{name: "shm"},
	},
	{
		name: "udp-multicast", about: "UDP multicast on the loopback device, no broker, 64 a call", group: "peer",
		source: program{name: "udp"}, sink: program{name: "udp"}, maxSize: 65507,
	},
}

func mqtt(name, about string, words ...string) *adapter {
	p := program{name: "mosquitto", words: words}
	return &adapter{
		name: name, about: about, group: "peer",
		broker: func(c *cell) []string {
			text := fmt.Sprintf("listener 0 %s/mqtt\nallow_anonymous true\nuser root\npersistence false\nlog_type error\n", c.dir)
			return []string{"mosquitto", "-c", c.conf("mosquitto.conf", text)}
		},
		ready: []string{"mqtt"}, source: p, sink: p,
		packages: []string{"mosquitto", "libmosquitto-dev"},
	}
}

// iceoryx has one daemon a host, whose sockets and memory have names of their own.
func iceoryx(name, about string, words ...string) *adapter {
	p := program{name: "iceoryx", words: words}
	return &adapter{
		name: name, about: about, group: "peer",
		broker: func(c *cell) []string {
			text := "[general]\nversion = 1\n[[segment]]\n"
			for _, pool := range []struct{ size, count int }{{512, 4000}, {8192, 2000}, {131072, 400}} {
				text += fmt.Sprintf("[[segment.mempool]]\nsize = %d\ncount = %d\n", pool.size, pool.count)
			}
			return []string{"iox-roudi", "-c", c.conf("roudi.toml", text), "-l", "error"}
		},
		source: p, sink: p, maxSize: 130000,
		packages: []string{"iceoryx", "libiceoryx-binding-c-dev"},
	}
}

func zmq(name, about string, words ...string) *adapter {
	p := program{name: "zmq", words: words}
	return &adapter{
		name: name, about: about, group: "peer",
		broker: func(c *cell) []string { return append([]string{c.program("zmq"), "broker", c.dir}, words...) },
		ready:  []string{"pub", "sub"}, source: p, sink: p,
		packages: []string{"libzmq3-dev"},
	}
}

// dbusDaemon is a bus that allows everything, with the limits of a session bus.
func dbusDaemon(c *cell) []string {
	var limits strings.Builder
	for name, value := range map[string]int{
		"max_incoming_bytes": 1e9, "max_outgoing_bytes": 1e9, "max_message_size": 1e9,
		"max_completed_connections": 1e5, "max_incomplete_connections": 1e4,
		"max_connections_per_user": 1e5, "max_match_rules_per_connection": 5e4,
	} {
		fmt.Fprintf(&limits, "<limit name=%q>%d</limit>\n", name, value)
	}
	text := fmt.Sprintf(`<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
<type>session</type>
<listen>unix:path=%s/bus</listen>
<auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
%s</busconfig>
`, c.dir, limits.String())
	return []string{"dbus-daemon", "--nofork", "--nopidfile", "--config-file=" + c.conf("bus.conf", text)}
}
