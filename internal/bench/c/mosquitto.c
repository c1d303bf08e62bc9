// SPDX-License-Identifier: Apache-2.0
//
// mosquitto.c - MQTT by libmosquitto over DIR/mqtt, without its threads. The word
// "qos1" asks for acknowledgements, with 20 in flight (one when paced).
#include "meter.h"
#include <mosquitto.h>
#include <stdlib.h>

static struct mosquitto *client;
static struct track track;
static char *payload;
static int qos, connected;
static uint64_t under_way;

static void check(int e, const char *what) {
	if (e) die("cannot %s: %s", what, mosquitto_strerror(e));
}

static void on_connect(struct mosquitto *m, void *arg, int code) {
	(void)m, (void)arg;
	if (code) die("connection refused: %s", mosquitto_connack_string(code));
	connected = 1;
}
static void on_subscribe(struct mosquitto *m, void *arg, int id, int n, const int *granted) {
	(void)m, (void)arg, (void)id, (void)n, (void)granted;
	tally->ready = 1;
}
static void on_message(struct mosquitto *m, void *arg, const struct mosquitto_message *msg) {
	(void)m, (void)arg;
	payload_take(&track, msg->payload, (size_t)msg->payloadlen);
}
static void on_publish(struct mosquitto *m, void *arg, int id) {
	(void)m, (void)arg, (void)id;
	under_way--;
}

static void dial(void) {
	qos = word("qos1");
	mosquitto_lib_init();
	client = mosquitto_new(NULL, true, NULL);
	mosquitto_connect_callback_set(client, on_connect);
	mosquitto_subscribe_callback_set(client, on_subscribe);
	mosquitto_message_callback_set(client, on_message);
	mosquitto_publish_callback_set(client, on_publish);
	check(mosquitto_connect(client, sock_path("mqtt", -1).sun_path, 0, 600), "connect"); // port 0: a unix socket
	while (!connected) check(mosquitto_loop(client, 100, 1), "connect");
}

static void emit(unsigned n) {
	for (unsigned i = 0; i < n; i++) {
		payload_stamp(payload);
		under_way++;
		check(mosquitto_publish(client, NULL, "bench", (int)board->size, payload, qos, false), "publish");
	}
	uint64_t window = board->rate ? 1 : 20;
	while (mosquitto_want_write(client) || (qos && under_way >= window)) check(mosquitto_loop(client, 100, 1), "publish");
}

static void finish(void) {
	while (under_way || mosquitto_want_write(client)) check(mosquitto_loop(client, 100, 1), "publish");
}

void client_source(void) {
	dial();
	payload = calloc(1, board->size);
	source_loop(16, emit, finish);
}

void client_sink(void) {
	dial();
	check(mosquitto_subscribe(client, NULL, "bench", qos), "subscribe");
	while (!mosquitto_loop(client, 1000, 1)) {}
	hung_up();
}
