# SPDX-License-Identifier: Apache-2.0
"""What the drawings of these pages are made of. Coordinates are pixels."""

INK, SOFT, PAPER = "#1f2933", "#52606d", "#ffffff"
KERNEL, BROKER, KEPT, PEOPLE = "#e4ecf7", "#fdf3dc", "#e3f1e4", "#f3f4f6"
KERNEL_LINE, BROKER_LINE, KEPT_LINE, PEOPLE_LINE = "#5b7db1", "#c08a2b", "#4d8a55", "#8a94a0"

out = []


def text(x, y, words, size=13, fill=INK, anchor="middle", weight="normal", style="normal"):
    out.append(f'<text x="{x}" y="{y}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" '
               f'font-weight="{weight}" font-style="{style}">{words}</text>')


def box(x, y, w, h, fill, line, label="", below=(), dash=False, top=20, size=13):
    dashes = ' stroke-dasharray="6 4"' if dash else ""
    out.append(f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="6" fill="{fill}" stroke="{line}" stroke-width="1.5"{dashes}/>')
    if label:
        text(x + w / 2, y + top, label, size=size, weight="bold")
    for i, words in enumerate(below):
        text(x + w / 2, y + top + 17 * (i + 1), words, size=11, fill=SOFT)


def arrow(*points, line=INK, dash=False, width=1.8):
    path = " L".join(f"{x} {y}" for x, y in points)
    dashes = ' stroke-dasharray="5 4"' if dash else ""
    out.append(f'<path d="M{path}" fill="none" stroke="{line}" stroke-width="{width}" marker-end="url(#tip)"{dashes}/>')


def step(x, y, number):
    out.append(f'<circle cx="{x}" cy="{y}" r="10" fill="{INK}"/>')
    text(x, y + 4.5, number, fill=PAPER, weight="bold")


def finish(maker, width, height):
    """Prints the picture."""
    print(f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="DejaVu Sans, Verdana, sans-serif">
<!-- Made by {maker}; change that. -->
<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" fill="context-stroke"/></marker></defs>
<rect width="{width}" height="{height}" fill="{PAPER}"/>""")
    print("\n".join(out))
    print("</svg>")
