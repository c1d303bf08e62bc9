#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""sqlite-writer DATABASE [FOLDER]: an archive of a channel, in which each message is once.

It is a kept sink: while it is away the broker keeps its place, and everything behind that. And it has its own books: with the
messages of a packet, in the same transaction, it writes down the number of the next one, and that is where it begins when it
comes back. So it may be killed at any moment, whatever it has told the broker by then. docs/protocol.md, "Coming back".
"""
import os
import select
import signal
import socket
import sqlite3
import struct
import sys
import time

LARGEST = 16 + 4 + (4 << 20)  # a packet with the largest message that any broker lets pass
# The archive must have everything: rather stop the channel. Both are root's to ask for; others leave patience out, and ask for as
# much as the broker's --keep gives them.
OPTIONS = os.environ.get("OPTIONS", "label=archive patience=forever keep=forever")

SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, received REAL, number INTEGER, message BLOB);
CREATE TABLE IF NOT EXISTS place (one INTEGER PRIMARY KEY CHECK (one = 1), epoch TEXT, next INTEGER);
"""


def say(text):
    print("sqlite-writer:", text, file=sys.stderr)


def heard(receive, *args):
    """What it receives; nothing at the end, which may be told before what was sent last, once in either of its forms."""
    for _ in range(3):
        try:
            if got := receive(*args):
                return got
        except ConnectionError:
            pass
    return b""


def connect(path, options, stop):
    """A connection on which the broker has said ok, and the words behind that. There may be no broker for a while."""
    while True:
        sink, answer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET), ""
        try:
            sink.connect(path)
            try:
                sink.send(("msgmux/1\n" + "\n".join(options)).encode())
            except ConnectionError:
                pass  # a refusal may still be there
            answer = heard(sink.recv, 1024).decode()
        except (ConnectionError, FileNotFoundError):
            pass
        verdict, *words = answer.split() or [""]
        if verdict == "ok":
            return sink, dict(word.partition("=")[::2] for word in words)
        sink.close()
        if answer and words[:1] != ["busy"]:
            sys.exit(f"sqlite-writer: {answer.strip()}")
        if select.select([stop], [], [], 1)[0]:
            sys.exit()


def records(packet):
    """The messages of a packet, each with its number."""
    number, at = struct.unpack_from("<Q", packet)[0], 16
    while at < len(packet):
        (size,) = struct.unpack_from("<I", packet, at)
        yield number, bytes(packet[at + 4 : at + 4 + size])
        number, at = number + 1, at + 4 + (size + 3) // 4 * 4


def archive(sink, db, epoch, next_number, stop):
    """Writes packet after packet until stop becomes readable. A transaction holds a packet: one message when little happens,
    thousands when much does, because the broker fills packets while a sink is busy."""
    buffer = memoryview(bytearray(LARGEST))
    while stop not in select.select([sink, stop], [], [])[0]:
        packet = buffer[: heard(sink.recv_into, buffer) or 0]
        if not packet or packet[:6] == b"error ":
            sys.exit(f"sqlite-writer: hung up on: {bytes(packet).decode().strip() or 'the channel was stopped, or this sink dropped'}")
        messages = list(records(packet))
        if messages[0][0] > next_number:
            say(f"{messages[0][0] - next_number} messages are missing: this sink was too slow, or away for too long")
        next_number, now = messages[-1][0] + 1, time.time()
        with db:
            db.executemany("INSERT INTO messages (received, number, message) VALUES (?, ?, ?)",
                           ((now, number, message) for number, message in messages))
            db.execute("INSERT OR REPLACE INTO place VALUES (1, ?, ?)", (epoch, next_number))
        try:
            sink.send(struct.pack("<Q", next_number))  # everything below is done: the broker needs it no more
        except ConnectionError:
            pass  # it has gone; there may be more to read


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: sqlite-writer DATABASE [FOLDER]")
    folder = sys.argv[2] if len(sys.argv) == 3 else "/run/msgmux"
    db = sqlite3.connect(sys.argv[1])
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")  # on the disk before it leaves the broker
    db.executescript(SCHEMA)
    # SIGTERM and Ctrl-C come between two packets: their handler does nothing, but makes stop readable.
    stop, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    for end in signal.SIGTERM, signal.SIGINT:
        signal.signal(end, lambda *_: None)

    options = OPTIONS.split() + ["ack=yes"]
    place = db.execute("SELECT epoch, next FROM place").fetchone()
    if place:
        options.append("from=%s:%d" % place)
    sink, ok = connect(folder + "/subscribe", options, stop)
    if place and place[0] != ok["epoch"]:
        say("the channel has begun anew, and so have its numbers: what it held when it was stopped is gone")
        place = None
    archive(sink, db, ok["epoch"], place[1] if place else int(ok["next"]), stop)
    db.close()


if __name__ == "__main__":
    main()
