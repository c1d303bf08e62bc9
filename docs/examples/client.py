#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
#
# A client of msgmux that needs nothing but the standard library.
#
#   client.py send DIR TEXT...         each TEXT is a message; without one, each line of standard input
#   client.py receive DIR OPTION...    prints numbers and messages; an OPTION is such as label=db
#
# DIR is the folder of the channel's sockets, such as /run/msgmux. docs/protocol.md shows and explains what stands
# between the two marks.

import signal, sys

# begin
import socket, struct, time

def connect(path, options=""):
    """A connection to publish or subscribe on which the broker has said ok."""
    while True:
        conn = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        answer = ""
        try:
            conn.connect(path)
            conn.send(b"msgmux/1\n" + options.encode())
            answer = conn.recv(1024).decode()
        except ConnectionError:
            try: answer = conn.recv(1024).decode()  # a refusal may still be there
            except OSError: pass
        if answer.split()[:1] == ["ok"]:
            return conn
        conn.close()
        if answer:
            raise RuntimeError(answer.strip())
        time.sleep(1)

def packet(messages):
    """A packet from a source: at most 65536 bytes, unless there is only one message."""
    return b"".join(struct.pack("<I", len(m)) + m + bytes(-len(m) % 4) for m in messages)

def receive(conn):
    """Yields (number, lost so far, message) until the broker hangs up."""
    buffer = bytearray(20 + (4 << 20))
    while size := conn.recv_into(buffer):
        number, lost = struct.unpack_from("<QQ", buffer)
        at = 16
        while at < size:
            n, = struct.unpack_from("<I", buffer, at)
            yield number, lost, bytes(buffer[at + 4:at + 4 + n])
            at += (4 + n + 3) // 4 * 4
            number += 1
# end

def packets(messages):
    """Packets of as many messages as fit."""
    several, size = [], 0
    for m in messages:
        needs = 4 + len(m) + -len(m) % 4
        if several and size + needs > 65536:
            yield packet(several)
            several, size = [], 0
        several.append(m)
        size += needs
    if several:
        yield packet(several)

def main(command, folder, *words):
    if command == "send":
        messages = [word.encode() for word in words] or (line.rstrip(b"\n") for line in sys.stdin.buffer)
        source = connect(folder + "/publish")
        try:
            for p in packets(messages):
                source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, max(len(p), 212992))
                source.send(p)
            source.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass  # the broker says why
        try: refusal = source.recv(1024)  # or nothing, when it has read all
        except ConnectionError: refusal = source.recv(1024)
        if refusal:
            sys.exit(refusal.decode())
    elif command == "receive":
        known = 0
        for number, lost, message in receive(connect(folder + "/subscribe", "\n".join(words))):
            if lost > known:
                print(lost - known, "messages lost", file=sys.stderr)
                known = lost
            sys.stdout.buffer.write(b"%d %s\n" % (number, message))
            sys.stdout.flush()
        sys.exit("the broker has hung up")

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it, and no more
    main(*sys.argv[1:])
