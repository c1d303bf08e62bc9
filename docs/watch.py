#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes docs/watch.svg of a picture of `msgmux status --watch`, taken from a terminal:

    tmux -u new-session -d -x 110 -y 14 -s s 'msgmux status --watch'
    tmux capture-pane -e -p -t s | docs/watch.py >docs/watch.svg
"""

import re
import sys
from xml.sax.saxutils import escape

WIDTH, HEIGHT, MARGIN = 8.4, 18, 14  # of a character in the font below, and around all of them
COLOURS = {"31": "#ff7b72", "33": "#e3b341", "35": "#d2a8ff"}
PLAIN = "#e6edf3"


def spans(line):
    """Takes a line apart into pieces of one colour: (colour, text)."""
    colour = PLAIN
    for piece in re.split(r"(\x1b\[[0-9;]*m)", line):
        if piece.startswith("\x1b["):
            codes = piece[2:-1].split(";")
            colour = next((COLOURS[c] for c in codes if c in COLOURS), PLAIN)
        elif piece:
            yield colour, piece


def main():
    lines = sys.stdin.read().rstrip("\n").split("\n")
    columns = max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in lines)
    width, height = columns * WIDTH + 2 * MARGIN, len(lines) * HEIGHT + 2 * MARGIN
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" role="img">')
    print("<title>msgmux status --watch under load: one sink is left behind</title>")
    print('<rect width="100%" height="100%" rx="8" fill="#0d1117"/>')
    print('<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14" xml:space="preserve">')
    for row, line in enumerate(lines):
        at = 0
        for colour, text in spans(line):
            x, y = MARGIN + at * WIDTH, MARGIN + (row + 0.75) * HEIGHT
            # The width is said, so that columns stay columns in any font.
            print(f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" textLength="{len(text) * WIDTH:.1f}">{escape(text)}</text>')
            at += len(text)
    print("</g></svg>")


main()
