#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""sqlite-writer DATABASE: an archive of a channel, as a static sink with frames=yes.

systemd binds the sink's socket, keeps it, and starts this program when a message comes. It ends when nothing came for half a
minute. It may be killed at any moment: a packet is looked at, written, and only then taken out of the socket, so what was not
written is still there for the next start. The packet that was written and not yet taken is known by its mark.
"""
import hashlib
import os
import select
import signal
import socket
import sqlite3
import struct
import sys
import time

IDLE = 30.0  # seconds
LARGEST = 16 + 4 + (4 << 20)  # a packet with the largest message that any broker lets pass

SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, received REAL, number INTEGER, message BLOB);
CREATE TABLE IF NOT EXISTS last (one INTEGER PRIMARY KEY CHECK (one = 1), mark BLOB, lost INTEGER);
INSERT OR IGNORE INTO last VALUES (1, NULL, 0);
"""


def inherited():
    """The socket that systemd hands over, sd_listen_fds(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        sys.exit("sqlite-writer: start me by a socket unit")
    return socket.socket(fileno=3)


def records(packet):
    """The messages of a packet, each with its number."""
    number, at = struct.unpack_from("<Q", packet)[0], 16
    while at < len(packet):
        (size,) = struct.unpack_from("<I", packet, at)
        yield number, bytes(packet[at + 4 : at + 4 + size])
        number, at = number + 1, at + 4 + (size + 3) // 4 * 4


def archive(sink, db, stop):
    """Writes packet after packet until nothing comes, or stop becomes readable. A transaction holds a packet: one message
    when little happens, thousands when much does, because the broker fills packets while a sink is busy."""
    buffer = memoryview(bytearray(LARGEST))
    mark, lost = db.execute("SELECT mark, lost FROM last").fetchone()
    while sink in select.select([sink, stop], [], [], IDLE)[0] and stop not in select.select([stop], [], [], 0)[0]:
        packet = buffer[: sink.recv_into(buffer, 0, socket.MSG_PEEK)]
        (lost_now,) = struct.unpack_from("<Q", packet, 8)
        if lost_now > lost:
            print(f"lost {lost_now - lost} messages: this sink was too slow", file=sys.stderr)
        # The mark of the packet before: if this one has it, we were killed between writing it and taking it.
        mark, before, lost = hashlib.sha256(packet).digest(), mark, lost_now
        if mark != before:
            now = time.time()
            with db:
                db.executemany("INSERT INTO messages (received, number, message) VALUES (?, ?, ?)",
                               ((now, number, message) for number, message in records(packet)))
                db.execute("UPDATE last SET mark = ?, lost = ?", (mark, lost))
        sink.recv(1)  # takes all of the packet
    # In good order nothing is in doubt. A channel whose memory was made anew counts from the beginning again, and its
    # first packet could look like one of before.
    with db:
        db.execute("UPDATE last SET mark = NULL")


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: sqlite-writer DATABASE")
    sink = inherited()
    db = sqlite3.connect(sys.argv[1])
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")  # on the disk before it leaves the socket
    db.executescript(SCHEMA)
    # SIGTERM comes between two packets: its handler does nothing, but makes stop readable.
    stop, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGTERM, lambda *_: None)
    archive(sink, db, stop)
    db.close()


if __name__ == "__main__":
    main()
