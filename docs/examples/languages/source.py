#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A source: each line of standard input becomes a message. Waits while the channel takes none."""
import os
import signal
import socket
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it, and no more
directory = os.environ.get("MSGMUX_RUNTIME_DIR", "/run/msgmux")
source = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)  # for messages over 208 KiB
source.connect(directory + "/source")
for line in sys.stdin.buffer:
    source.send(line.removesuffix(b"\n"))
