#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
#
# A client of msgmux that needs nothing but the standard library.
#
#   client.py send DIR TEXT...         each TEXT is a message; without one, each line of standard input
#   client.py receive DIR OPTION...    prints numbers and messages; an OPTION is such as label=db. With ack=yes a message is
#                                      done when it is printed; with keep=10m, too, the next run goes on behind that
#   client.py follow DIR LABEL FILE    each line of FILE, and what is added to it, is in the channel once, also when this is
#                                      killed: the next run with that LABEL goes on where this was
#
# DIR is the folder of the channel's sockets, such as /run/msgmux. docs/protocol.md shows and explains what stands
# between the two marks.

import signal, sys

# begin
import socket, struct, time

def heard(receive, *args):
    """What it receives; nothing at the end, which may be told before what was sent last, once in either of its forms."""
    for _ in range(3):
        try:
            if got := receive(*args): return got
        except ConnectionError: pass
    return b""

def connect(path, options=""):
    """A connection to publish or subscribe on which the broker has said ok, and the words behind that."""
    while True:
        conn = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        answer = ""
        try:
            conn.connect(path)
            try: conn.send(b"msgmux/1\n" + options.encode())
            except ConnectionError: pass  # a refusal may still be there
            answer = heard(conn.recv, 1024).decode()
        except ConnectionError: pass
        verdict, *words = answer.split() or [""]
        if verdict == "ok":
            return conn, dict(word.partition("=")[::2] for word in words)
        conn.close()
        if answer and words[:1] != ["busy"]:
            raise RuntimeError(answer.strip())
        time.sleep(1)

def packet(messages, mark=None):
    """A packet from a source: at most 65536 bytes, unless there is only one message. A mark is for mark=yes."""
    records = b"".join(struct.pack("<I", len(m)) + m + bytes(-len(m) % 4) for m in messages)
    return records if mark is None else struct.pack("<Q", mark) + records

def acknowledge(conn, done):
    """Everything numbered below done is done. It may block until the broker has looked at earlier ones."""
    try: conn.send(struct.pack("<Q", done))
    except ConnectionError: pass  # who receives to the end is told

def receive(conn, ack=False):
    """Yields (number, lost so far, message) until the broker hangs up. With ack the messages of a packet are done when
    the next one is asked for."""
    for number, lost, message, _ in receive_origins(conn, ack, False):
        yield number, lost, message

def receive_origins(conn, ack=False, meta=True):
    """As receive, of a connection with meta=yes; behind the message (time, pid, uid, gid, source, flags)."""
    buffer = bytearray(4096 + (4 << 20))
    while size := heard(conn.recv_into, buffer):
        if buffer.startswith(b"error "):
            raise RuntimeError(buffer[:size].decode().strip())
        number, lost, count, each = struct.unpack_from("<QQII", buffer)
        count, at = (count, 24 + count * each) if meta else (0, 16)
        origins = [struct.unpack_from("<QqiIIHH", buffer, 24 + i * each) for i in range(count)]
        origins, who = {since: who for since, *who in origins}, None
        while at < size:
            n, = struct.unpack_from("<I", buffer, at)
            who = origins.get(number, who)
            yield number, lost, bytes(buffer[at + 4:at + 4 + n]), who
            at += (4 + n + 3) // 4 * 4
            number += 1
        if ack:
            acknowledge(conn, number)
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

def send(source, packets):
    try:
        for p in packets:
            source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, max(len(p), 212992))
            source.send(p)
        source.shutdown(socket.SHUT_WR)
    except ConnectionError:
        pass  # the broker says why
    if refusal := heard(source.recv, 1024):  # or nothing, when it has read all
        sys.exit(refusal.decode())

def lines(path, at):
    """Packets of a line each, whose mark is the place behind it, from there on."""
    with open(path, "rb") as file:
        while True:
            file.seek(at)
            line = file.readline()
            if line.endswith(b"\n"):
                at = file.tell()
                yield packet([line[:-1]], at)
            else:
                time.sleep(0.1)  # it has no end yet

def main(command, folder, *words):
    if command == "send":
        messages = [word.encode() for word in words] or (line.rstrip(b"\n") for line in sys.stdin.buffer)
        source, _ = connect(folder + "/publish")
        send(source, packets(messages))
    elif command == "follow":
        label, path = words
        source, ok = connect(folder + "/publish", f"label={label}\nmark=yes\nkeep=10m\n")
        send(source, lines(path, int(ok["mark"])))
    elif command == "receive":
        known = 0
        sink, ok = connect(folder + "/subscribe", "\n".join(words))
        if int(ok.get("lost", 0)):
            print(ok["lost"], "messages lost while this was away", file=sys.stderr)
        meta = "meta=yes" in words
        for number, lost, message, origin in receive_origins(sink, "ack=yes" in words, meta):
            if lost > known:
                print(lost - known, "messages lost", file=sys.stderr)
                known = lost
            if meta:
                when, pid, uid, *_, flags = origin
                who = "pid %d, uid %d" % (pid, uid) if flags & 1 else "somebody"
                number = "%d %s %s:" % (number, time.strftime("%T", time.localtime(when // 10**9)) if when else "-", who)
            sys.stdout.buffer.write(b"%s %s\n" % (str(number).encode(), message))
            sys.stdout.flush()
        sys.exit("the broker has hung up")

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it, and no more
    main(*sys.argv[1:])
