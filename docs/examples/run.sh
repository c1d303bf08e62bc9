#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A first look at msgmux, as `make run` gives it: a broker in a temporary folder, two sinks that print, and this host's own
# log lines as the messages. Takes a few seconds, needs no root and leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf '\n-- %s\n' "$*"; }
fail() {
	echo "run: $*" >&2
	exit 1
}

for program in bin/msgmuxd bin/msgmux; do
	[ -x "$program" ] || fail "there is no $program: make build makes it"
done

dir=$(mktemp -d "${TMPDIR:-/tmp}/msgmux.XXXXXX")
export MSGMUX_RUNTIME_DIR="$dir/msgmux" # where bin/msgmux looks for the broker
mkdir "$MSGMUX_RUNTIME_DIR"
started=()

# stop PID: ends one process that was started here, and waits for it; what does not go in 5 s is killed.
stop() {
	kill "$1" 2>/dev/null || return 0
	for _ in {1..50}; do
		kill -0 "$1" 2>/dev/null || return 0
		sleep 0.1
	done
	echo "run: process $1 did not stop by itself" >&2
	kill -KILL "$1" 2>/dev/null || :
}

leave() {
	for pid in "${started[@]}"; do stop "$pid"; done
	rm -rf "$dir"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# until_true WHAT COMMAND...: tries for 5 s, then gives up and says what did not happen.
until_true() {
	local what=$1
	shift
	for _ in {1..50}; do
		if "$@" >/dev/null 2>&1; then return 0; fi
		kill -0 "${started[0]}" 2>/dev/null || fail "the broker stopped: $(tail -n 3 "$dir/broker.log")"
		sleep 0.1
	done
	fail "$what did not happen in 5 s; the broker says: $(tail -n 3 "$dir/broker.log")"
}

# pick NAME COMMAND...: the last lines that COMMAND prints become the input, if there are any. Only what is safe to print.
pick() {
	[ ! -s "$dir/input" ] || return 0
	input=$1
	shift
	{ "$@" 2>/dev/null || :; } | LC_ALL=C tr -cd '[:print:]\n' | cut -c1-100 | { grep '[^ ]' || :; } | tail -n 10 >"$dir/input"
}
pick journal journalctl -q -n 10 -o cat
for log in /var/log/syslog /var/log/messages /var/log/dpkg.log /var/log/pacman.log; do pick "${log##*/}" tail -n 10 "$log"; done
pick kernel dmesg
pick mounts cat /proc/self/mounts # a container may have no log at all
[ -s "$dir/input" ] || fail "cannot find any line to send: no journal, no /var/log, no kernel log, no /proc"

say "a broker: bin/msgmuxd --runtime-dir $MSGMUX_RUNTIME_DIR"
bin/msgmuxd --runtime-dir "$MSGMUX_RUNTIME_DIR" 2>"$dir/broker.log" &
started+=($!)
until_true "the broker's start" bin/msgmux status

say "two sinks: bin/msgmux sub --label alpha, and beta"
listed() { bin/msgmux sinks list >"$dir/list" && grep -qw "$1" "$dir/list"; }
for sink in alpha beta; do
	: >"$dir/$sink"
	# Each line is kept for the comparison below, and shown with the name of the sink that got it.
	bin/msgmux sub --label "$sink" > >(tee "$dir/$sink" | sed -u "s/^/$(printf %-5s "$sink") | /") 2>"$dir/$sink.log" &
	started+=($!)
	until_true "the registration of sink $sink" listed "$sink"
done

# logger is the plainest source there is: it knows nothing of msgmux and sends datagrams to the socket it is told.
if logger --help 2>/dev/null | grep -q -- --socket-errors; then
	say "the last lines of the $input, through: logger -u $MSGMUX_RUNTIME_DIR/source"
	logger -u "$MSGMUX_RUNTIME_DIR/source" --socket-errors=on -t "$input" <"$dir/input" || fail "logger could not send"
else
	say "the last lines of the $input, through: bin/msgmux pub -l"
	bin/msgmux pub -l -W 5s <"$dir/input" || fail "msgmux pub could not send"
fi
bin/msgmux pub -W 5s "and one line from msgmux pub" || fail "msgmux pub could not send"

sent=$(($(wc -l <"$dir/input") + 1))
arrived() { [ "$(wc -l <"$dir/$1")" -ge "$sent" ]; }
for sink in alpha beta; do until_true "the arrival of $sent messages at sink $sink" arrived "$sink"; done
cmp -s "$dir/alpha" "$dir/beta" || fail "the two sinks did not get the same"
sleep 0.2 # the last lines are still on their way through sed
say "each sink got all $sent messages, the same ones in the same order"

say "the end: bin/msgmux status"
bin/msgmux status

for pid in "${started[@]:1}"; do stop "$pid"; done
kill "${started[0]}"
wait "${started[0]}" || fail "the broker did not stop in good order: $(tail -n 3 "$dir/broker.log")"
say "the broker has stopped, and its sockets are gone with the temporary folder"
