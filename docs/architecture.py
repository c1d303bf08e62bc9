#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws docs/architecture.svg: python3 docs/architecture.py >docs/architecture.svg

Coordinates are pixels. A test holds the picture to this text."""

from drawing import *


def queue(x, y, label, held, packets=4):
    """A kernel queue: a box with slots."""
    box(x, y, 104, 52, KERNEL, KERNEL_LINE, label, top=17, size=12)
    for i in range(5):
        fill = KERNEL_LINE if i < packets else PAPER
        out.append(f'<rect x="{x + 12 + 16 * i}" y="{y + 25}" width="12" height="12" fill="{fill}" stroke="{KERNEL_LINE}"/>')
    text(x + 52, y + 48, held, size=9.5, fill=SOFT)


# The broker's process, and in it the data thread.
box(296, 50, 500, 398, PAPER, BROKER_LINE, dash=True)
text(546, 44, "msgmuxd", size=15, weight="bold")
box(312, 66, 468, 262, BROKER, BROKER_LINE)
text(326, 86, "data thread: one, and nothing in it blocks but epoll", size=12, anchor="start", weight="bold")

# Sources and their queues.
for y, name, what in ((92, "source", "logger, nginx, ..."), (170, "source", "framed client"), (248, "source", "message queue")):
    box(14, y, 112, 46, PEOPLE, PEOPLE_LINE, name, [what], top=19)
for y, name, held in ((89, "source", "datagrams"), (167, "publish", "packets, one connection each"), (245, "mq", "messages")):
    queue(166, y, name, held if name != "publish" else "packets")
    arrow((126, y + 26), (162, y + 26))
step(144, 98, 1)

# Landing zone and ring.
box(332, 128, 106, 92, KEPT, KEPT_LINE, "landing zone", ["64 slots, each", "with a header;", "msg_len: the", "kernel's record"], top=18, size=12)
for y in (115, 193, 271):
    arrow((270, y), (328, 150 if y == 115 else 174 if y == 193 else 198))
step(302, 104, 2)
text(332, 116, "RECV: recvmmsg", size=11, fill=SOFT, anchor="start")

box(482, 128, 282, 92, KEPT, KEPT_LINE, "", [])
text(492, 146, "ring", size=13, anchor="start", weight="bold")
for i in range(15):
    fill = KEPT_LINE if 3 <= i < 12 else PAPER
    out.append(f'<rect x="{494 + 17 * i}" y="155" width="15" height="22" fill="{fill}" stroke="{KEPT_LINE}"/>')
for x, name in ((545, "tail"), (647, "delivered"), (698, "head")):
    out.append(f'<path d="M{x} 150 v32" stroke="{INK}" stroke-width="2"/>')
    text(x, 196, name, size=11)
text(568, 213, "oldest kept", size=10, fill=SOFT)
arrow((438, 166), (478, 166))
step(460, 146, 3)
text(482, 116, "APPEND: copied as room comes", size=11, fill=SOFT, anchor="start")

# Cursors.
text(332, 292, "cursors, one for each sink:", size=11, anchor="start", weight="bold")
for i, (x, name) in enumerate(((647, "A: the furthest"), (596, "B: a little behind"), (545, "C: slow, so the tail waits"))):
    y = 272 + 17 * i
    out.append(f'<path d="M{x} {y} V220" stroke="{KEPT_LINE}" stroke-width="1.4" stroke-dasharray="2 2"/>')
    out.append(f'<circle cx="{x}" cy="{y}" r="4" fill="{KEPT_LINE}"/>')
    text(x + 9, y + 4, name, size=10.5, fill=SOFT, anchor="start")

# Sinks.
for y, label, packets, who in ((89, "A", 1, "msgmux sub"), (167, "B", 2, "any program"), (245, "C", 5, "static sink")):
    queue(836, y, f"queue of {label}", "own socket for each", packets)
    box(976, y + 3, 112, 46, PEOPLE, PEOPLE_LINE, f"sink {label}", [who], top=19)
    arrow((764, 150 if label == "A" else 174 if label == "B" else 198), (832, y + 26))
    arrow((940, y + 26), (972, y + 26))
step(800, 118, 4)
text(860, 322, "SEND: sendmmsg, out of the ring", size=11, fill=SOFT, anchor="start")
step(956, 98, 5)

# Those who may block.
box(346, 362, 400, 72, PEOPLE, PEOPLE_LINE, "goroutines that may block", [
    "registrar, doors (publish, subscribe), static sinks, reaper, journal,",
    "control: status, D-Bus, metrics"], top=20, size=12)
arrow((470, 362), (470, 332), line=SOFT)
text(478, 350, "finished results: commands, eventfd", size=11, fill=SOFT, anchor="start")

# systemd.
box(14, 486, 1074, 92, KERNEL, KERNEL_LINE, "")
text(28, 507, "systemd keeps", size=13, anchor="start", weight="bold")
box(28, 520, 228, 46, PAPER, KERNEL_LINE, "listening sockets", ["one for each name in the folder"], top=18, size=12)
box(312, 520, 468, 46, KEPT, KEPT_LINE, "two memfds: data and state", ["ring, landing zone, cursors, counts, operation log"], top=18, size=12)
box(836, 520, 238, 46, PAPER, KERNEL_LINE, "connected sinks and clients", ["descriptors in the store, by id"], top=18, size=12)
arrow((218, 520), (218, 301), line=KERNEL_LINE, dash=True)
arrow((329, 520), (329, 332), line=KEPT_LINE, dash=True)
arrow((763, 520), (763, 332), line=KEPT_LINE, dash=True)
arrow((848, 520), (848, 301), line=KERNEL_LINE, dash=True)

finish("architecture.py", 1102, 592)
