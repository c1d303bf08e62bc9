#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# A source: each line of standard input becomes a message. Waits while the channel takes none. For text: a shell has no place
# for NUL bytes.
set -eu
export LC_ALL=C # a character is a byte
dir=${MSGMUX_RUNTIME_DIR:-/run/msgmux}
message=$(mktemp)
trap 'rm -f "$message"' EXIT
trap 'exit 130' INT

# One socat for each message: a single one would send what it reads at once, several lines, as one message. From a file, since
# it reads a pipe in pieces. The last line may lack its newline.
while IFS= read -r line || [ -n "$line" ]; do
	if [ "${#line}" -gt 262144 ]; then
		echo "source.sh: a line of ${#line} bytes is too long" >&2
		exit 1
	elif [ -n "$line" ]; then
		printf '%s' "$line" >"$message"
		socat -u -b 262144 "OPEN:$message" "UNIX-SENDTO:$dir/source,sndbuf=1048576"
	else
		socat -u OPEN:/dev/null "UNIX-SENDTO:$dir/source,shut-null" # an empty message
	fi
done
