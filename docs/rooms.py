#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws docs/rooms.svg: python3 docs/rooms.py >docs/rooms.svg

The rooms of the broker, floor by floor: a room imports from the floors below it. A test holds the picture to this text."""

from drawing import *

DATAGRAM, REGISTRATION = "#2563a8", "#b3362b"

# The thread and the goroutines.
text(14, 40, "programs", size=12, fill=SOFT, anchor="start")
text(14, 130, "joined", size=12, fill=SOFT, anchor="start")
text(14, 220, "may block", size=12, fill=SOFT, anchor="start")
text(14, 325, "data thread", size=12, fill=SOFT, anchor="start")
text(14, 430, "kept, told, proved", size=12, fill=SOFT, anchor="start")
text(14, 525, "memory", size=12, fill=SOFT, anchor="start")
text(14, 620, "for all", size=12, fill=SOFT, anchor="start")
for y in (75, 165, 265, 375, 475, 570):
    out.append(f'<path d="M14 {y} H996" stroke="#d5dae0" stroke-width="1"/>')

box(160, 18, 150, 42, PEOPLE, PEOPLE_LINE, "cmd/msgmuxd", ["sockets in, channel runs"])
box(340, 18, 150, 42, PEOPLE, PEOPLE_LINE, "cmd/msgmux", ["pub, sub, status"])
box(520, 18, 150, 42, PEOPLE, PEOPLE_LINE, "client", ["the Go client"])

box(160, 100, 150, 48, BROKER, BROKER_LINE, "broker", ["opens, runs, closes"])
box(650, 100, 200, 48, PEOPLE, PEOPLE_LINE, "broker/control", ["control, D-Bus, metrics"])

box(160, 190, 360, 56, BROKER, BROKER_LINE, "broker/gate", ["registrar, doors, static sinks, reaper"])
box(650, 190, 200, 56, BROKER, BROKER_LINE, "broker/status", ["status, rates, systemd's line"])

box(160, 290, 390, 66, BROKER, BROKER_LINE, "broker/loop", ["one thread: sources' turns, sinks, patience. Who holds", "the roster is on it; Thread.Call is the only way to get it"], top=22)

box(360, 400, 190, 56, KEPT, KEPT_LINE, "broker/store", ["files, descriptors"])
box(570, 400, 130, 56, KEPT, KEPT_LINE, "broker/owner", ["whose is a socket?"])
box(720, 400, 130, 56, KEPT, KEPT_LINE, "broker/journal", ["lines, events"])
box(870, 400, 130, 56, KEPT, KEPT_LINE, "activation", ["systemd"])

box(160, 498, 390, 54, KEPT, KEPT_LINE, "broker/ring", ["cursors, operation log, recovery, patience"])
box(570, 498, 130, 54, KEPT, KEPT_LINE, "ring/mem", ["watched stores"])
box(720, 498, 130, 54, KEPT, KEPT_LINE, "ring/layout2", ["the one before"])
box(870, 498, 130, 54, KEPT, KEPT_LINE, "broker/scout", ["where a path leads"])

box(160, 592, 210, 46, KERNEL, KERNEL_LINE, "internal/sys", ["system calls"])
box(400, 592, 210, 46, KERNEL, KERNEL_LINE, "internal/wire", ["texts and packets"])
box(640, 592, 210, 46, KERNEL, KERNEL_LINE, "internal/fair", ["who goes when it is full"])

# A datagram.
text(80, 348, "a datagram", size=12, fill=DATAGRAM, weight="bold")
arrow((120, 340), (156, 340), line=DATAGRAM)
arrow((200, 356), (200, 494), line=DATAGRAM)
text(192, 420, "RECV,", size=10.5, fill=DATAGRAM, anchor="end")
text(192, 434, "APPEND", size=10.5, fill=DATAGRAM, anchor="end")
arrow((236, 498), (236, 360), line=DATAGRAM)
text(244, 427, "SEND", size=10.5, fill=DATAGRAM, anchor="start")
arrow((550, 348), (632, 348), line=DATAGRAM)
text(640, 352, "to every sink", size=11, fill=DATAGRAM, anchor="start")

# A registration.
text(76, 190, "a registration", size=12, fill=REGISTRATION, weight="bold")
arrow((118, 200), (156, 200), line=REGISTRATION)
step(184, 232, 1)
arrow((520, 204), (612, 204), (612, 396), line=REGISTRATION)
step(612, 262, 2)
arrow((250, 246), (250, 286), line=REGISTRATION)
step(236, 268, 3)
arrow((520, 232), (580, 232), (580, 378), (470, 378), (470, 396), line=REGISTRATION)
step(580, 300, 4)
arrow((330, 246), (330, 286), line=REGISTRATION)
step(316, 268, 5)
arrow((310, 356), (310, 494), line=REGISTRATION)
for i, words in enumerate(("1 read by peeking", "2 whose it is: proved", "3 an id is reserved", "4 stored, for certain", "5 entered, and opened")):
    text(650, 272 + 15 * i, words, size=11, fill=REGISTRATION, anchor="start")

finish("rooms.py", 1010, 656)
