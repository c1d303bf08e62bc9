#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# A source: each line of standard input becomes a message. Waits while the channel takes none.
set -eu
dir=${MSGMUX_RUNTIME_DIR:-/run/msgmux}

# One socat for each message: a single one would send what it reads at once, several lines, as one message.
while IFS= read -r line; do
	printf '%s' "$line" | socat -u -b 262144 STDIN "UNIX-SENDTO:$dir/source"
done
