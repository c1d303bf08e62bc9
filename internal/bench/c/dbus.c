// SPDX-License-Identifier: Apache-2.0
//
// dbus.c - D-Bus signals by sd-bus on a bus of the run's own, DIR/bus: one
// argument of type "ay" for each message.
//
// The role broker starts dbus-broker. Its own launcher wants a running systemd,
// so a small controller stands in: it hands over the listening socket and a
// policy that lets everybody own, send and receive everything.
#include "meter.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

static sd_bus *bus;
static char *payload;
static struct track track;

static int check(int r, const char *what) {
	if (r < 0) {
		errno = -r;
		die("cannot %s", what);
	}
	return r;
}

// The type of AddListener's policy in dbus-broker's controller interface:
// rules by uid, rules by uid and gid, SELinux names, AppArmor, bus type.
#define RULES "bta(btbs)a(btssssuutt)a(btssssuutt)"
#define POLICY "a(u(" RULES "))a(buu(" RULES "))a(ss)bs"

// control answers dbus-broker until it ends.
static void control(int fd, int listener) {
	sd_bus_message *call;
	check(sd_bus_new(&bus), "make controller");
	check(sd_bus_set_fd(bus, fd, fd), "make controller");
	check(sd_bus_start(bus), "start controller");
	check(sd_bus_message_new_method_call(bus, &call, NULL, "/org/bus1/DBus/Broker", "org.bus1.DBus.Broker", "AddListener"), "make call");
	check(sd_bus_message_append(call, "oh", "/org/bus1/DBus/Listener/1", listener), "append listener");
	check(sd_bus_message_open_container(call, 'v', "(" POLICY ")"), "open policy");
	check(sd_bus_message_open_container(call, 'r', POLICY), "open policy");
	// For every uid: may connect; may own any name (priority 1, prefix "");
	// one rule for sending and one for receiving, any name, path, interface
	// and member, any type, any broadcast flag, any number of descriptors.
	check(sd_bus_message_append(call, "a(u(" RULES "))", 1, UINT32_MAX,
				    1, (uint64_t)1,
				    1, 1, (uint64_t)1, 1, "",
				    1, 1, (uint64_t)1, "", "", "", "", 0, 0, (uint64_t)0, UINT64_MAX,
				    1, 1, (uint64_t)1, "", "", "", "", 0, 0, (uint64_t)0, UINT64_MAX),
	      "append rules");
	check(sd_bus_message_append(call, "a(buu(" RULES "))", 0), "append rules");
	check(sd_bus_message_append(call, "a(ss)bs", 0, 0, "session"), "append rules");
	check(sd_bus_message_close_container(call), "close policy");
	check(sd_bus_message_close_container(call), "close policy");
	check(sd_bus_call(bus, call, 5000000, NULL, NULL), "add listener");
	// Only now may the driver see the socket.
	if (rename(sock_path("bus.new", -1).sun_path, sock_path("bus", -1).sun_path)) die("cannot name bus");
	for (;;)
		if (!check(sd_bus_process(bus, NULL), "control")) sd_bus_wait(bus, UINT64_MAX);
}

void client_broker(void) {
	int pair[2], listener = sock_bound(SOCK_STREAM | SOCK_NONBLOCK, sock_path("bus.new", -1));
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair)) die("cannot make socket pair");
	pid_t child = fork();
	if (child < 0) die("cannot fork");
	if (!child) { // the broker keeps the pid that the driver measures
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(pair[1]);
		control(pair[0], listener);
	}
	char fd[12];
	close(pair[0]);
	snprintf(fd, sizeof fd, "%d", pair[1]);
	execlp("dbus-broker", "dbus-broker", "--controller", fd, "--machine-id", "00112233445566778899aabbccddeeff",
	       "--max-bytes", "1000000000", "--max-fds", "1000", "--max-matches", "1000000", "--max-objects", "1000000", NULL);
	die("cannot start dbus-broker");
}

static void dial(void) {
	char address[160];
	snprintf(address, sizeof address, "unix:path=%s/bus", dir);
	check(sd_bus_new(&bus), "make connection");
	check(sd_bus_set_address(bus, address), "set address");
	check(sd_bus_set_bus_client(bus, 1), "set client");
	check(sd_bus_start(bus), "connect");
	check(sd_bus_call_method(bus, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetId", NULL, NULL, ""), "connect");
}

static void emit(unsigned n) {
	for (unsigned i = 0; i < n; i++) {
		sd_bus_message *signal;
		payload_stamp(payload);
		check(sd_bus_message_new_signal(bus, &signal, "/bench", "bench.Source", "Message"), "make signal");
		check(sd_bus_message_append_array(signal, 'y', payload, board->size), "append payload");
		check(sd_bus_send(bus, signal, NULL), "send signal");
		sd_bus_message_unref(signal);
	}
	check(sd_bus_flush(bus), "flush");
}

void client_source(void) {
	dial();
	payload = calloc(1, board->size);
	source_loop(16, emit, NULL);
}

static int on_signal(sd_bus_message *m, void *arg, sd_bus_error *e) {
	const void *p;
	size_t len;
	(void)arg, (void)e;
	if (sd_bus_message_read_array(m, 'y', &p, &len) > 0) payload_take(&track, p, len);
	return 0;
}

void client_sink(void) {
	dial();
	check(sd_bus_add_match(bus, NULL, "type='signal',interface='bench.Source',member='Message'", on_signal, NULL), "add match");
	tally->ready = 1;
	for (;;) {
		int r = sd_bus_process(bus, NULL);
		if (r < 0) hung_up();
		if (!r) sd_bus_wait(bus, UINT64_MAX);
	}
}
