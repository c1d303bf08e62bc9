#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# A sink: prints what passes, until it is ended. Nothing stands between two messages but what they end with themselves.
set -eu
dir=${MSGMUX_RUNTIME_DIR:-/run/msgmux}
name=sink-$$

# Bind first, then register; an abstract name needs no clearing away.
socat -u -b 262144 "ABSTRACT-RECV:$name" STDOUT &
socat=$!
trap 'kill "$socat" 2>/dev/null || :' EXIT # it may be gone by itself
trap 'exit 0' INT TERM
until grep -q " @$name\$" /proc/net/unix; do sleep 0.1; done
echo "@$name" | socat -u STDIN "UNIX-SENDTO:$dir/register"
wait "$socat"
