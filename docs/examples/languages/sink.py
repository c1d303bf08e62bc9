#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A sink: prints each message as a line, until it is ended."""
import os
import signal
import socket
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it, and no more
directory = os.environ.get("MSGMUX_RUNTIME_DIR", "/run/msgmux")
sink = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sink.bind("")  # the kernel chooses a name
name = sink.getsockname()[1:].decode()

# From a second socket, so that the answer cannot be taken for a message.
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as registrar:
    registrar.bind("")
    registrar.sendto(f"@{name}\nlabel=python\nreply=yes\n".encode(), directory + "/register")
    answer = registrar.recv(1024).decode()
if answer.split()[0] != "ok":
    sys.exit(f"cannot register: {answer}")

while True:
    message = sink.recv(4 << 20)  # a message of no bytes is one too
    sys.stdout.buffer.write(message + b"\n")
    sys.stdout.buffer.flush()
