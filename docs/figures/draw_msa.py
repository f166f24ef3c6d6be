"""Draws docs/figures/msa.svg: where adapters sit in SAM, one encoder block and one decoder block of it.

    python docs/figures/draw_msa.py

Facts: https://arxiv.org/abs/2304.12620, figure 2, and `src/medsam_adapter/adapters/`. Boxes bring their own ground,
lines and titles are of a middle grey, so that the figure can be read on a light and on a dark page.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

FILE = Path(__file__).with_name("msa.svg")
WIDTH, HEIGHT = 1200, 690
GREY = "#7d8896"
KINDS = {  # ground, edge
    "frozen": ("#dce9f5", "#5b8db8"),
    "trained": ("#ffe0b8", "#d5832b"),
    "data": ("#eef0f2", "#8a94a0"),
    "sum": ("#ffffff", "#8a94a0"),
}
parts: list[str] = []


def box(x: float, y: float, width: float, text: str, kind: str, height: float = 34) -> None:
    """A box whose top middle is (x, y); lines of text are parted by a stroke."""
    ground, edge = KINDS[kind]
    parts.append(
        f'<rect x="{x - width / 2}" y="{y}" width="{width}" height="{height}" rx="6" fill="{ground}" stroke="{edge}"/>'
    )
    lines = text.split("|")
    for number, line in enumerate(lines):
        middle = y + height / 2 + 4.5 + 15 * (number - (len(lines) - 1) / 2)
        parts.append(f'<text x="{x}" y="{middle}" text-anchor="middle" fill="#1c2733">{escape(line)}</text>')


def plus(x: float, y: float) -> None:
    """A sum, its middle at (x, y)."""
    ground, edge = KINDS["sum"]
    parts.append(f'<circle cx="{x}" cy="{y}" r="10" fill="{ground}" stroke="{edge}"/>')
    parts.append(f'<text x="{x}" y="{y + 5}" text-anchor="middle" fill="#1c2733">+</text>')


def arrow(*points: tuple[float, float]) -> None:
    path = " ".join(f"{x},{y}" for x, y in points)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{GREY}" stroke-width="1.6" marker-end="url(#tip)"/>')


def note(x: float, y: float, text: str, weight: str = "normal", anchor: str = "middle", size: int = 13) -> None:
    parts.append(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{GREY}" font-weight="{weight}" font-size="{size}">'
        f"{escape(text)}</text>"
    )


def whole_model() -> None:
    """The left part: a scan and prompts on their way to a mask."""
    x, side = 125, 300
    note(210, 28, "A SAM with adapters", "bold", size=16)
    box(x, 50, 170, "picture, or D slices", "data")
    arrow((x, 84), (x, 106))
    box(x, 108, 170, "patch embedding", "frozen")
    arrow((x, 142), (x, 164))
    box(x, 166, 170, "encoder blocks|with adapters", "frozen", 50)
    box(x + 95, 176, 22, "a", "trained", 30)
    arrow((x, 216), (x, 238))
    box(x, 240, 170, "neck", "frozen")
    arrow((x, 274), (x, 306))
    note(x - 8, 295, "image embedding", anchor="end", size=12)
    box(x, 308, 170, "two-way decoder|blocks with adapters", "frozen", 50)
    box(x + 95, 318, 22, "a", "trained", 30)
    arrow((x, 358), (x, 380))
    box(x, 382, 170, "upscaling, mask head", "frozen")
    arrow((x, 416), (x, 438))
    box(x, 440, 170, "mask of each object", "data")
    box(side + 20, 50, 130, "sentence", "data")
    arrow((side + 20, 84), (side + 20, 106))
    box(side + 20, 108, 130, "CLIP text model", "frozen")
    arrow((side + 20, 142), (side + 20, 164))
    box(side + 20, 166, 130, "projection", "trained")
    arrow((side + 20, 200), (side + 20, 238))
    box(side + 20, 440, 130, "clicks, boxes", "data")
    arrow((side + 20, 440), (side + 20, 418))
    box(side + 20, 382, 130, "prompt encoder", "frozen")
    arrow((side + 20, 382), (side + 20, 276))
    box(side + 20, 240, 130, "prompt tokens", "data")
    arrow((side - 45, 257), (side - 66, 257), (side - 66, 333), (x + 110, 333))
    box(75, 560, 100, "frozen", "frozen")
    box(190, 560, 100, "trained", "trained")
    box(305, 560, 100, "data", "data")
    note(20, 622, "Adapter: Up(ReLU(Down(z))), C to rC to C, r = 1/16.", anchor="start")
    note(20, 642, "Up starts at zero: a fresh model is exactly SAM.", anchor="start")


def encoder_block() -> None:
    """The middle part."""
    x, depth = 520, 680
    note(590, 28, "Encoder block", "bold", size=16)
    box(x, 50, 120, "tokens x", "data")
    arrow((x, 84), (x, 106))
    box(x, 108, 120, "LayerNorm 1", "frozen")
    arrow((x, 142), (x, 176))
    arrow((x, 158), (depth, 158), (depth, 176))
    box(x, 178, 140, "attention in space|(windows or global)", "frozen", 50)
    box(depth, 178, 140, "the same attention|across the D slices", "frozen", 50)
    arrow((x, 228), (x, 262))
    arrow((depth, 228), (depth, 262))
    box(x, 264, 120, "space adapter", "trained")
    box(depth, 264, 120, "depth adapter", "trained")
    arrow((x, 245), (x - 78, 245), (x - 78, 324), (x - 11, 324))
    arrow((x, 298), (x, 313))
    plus(x, 324)
    arrow((x, 334), (x, 353))
    plus(x, 364)
    arrow((depth, 298), (depth, 364), (x + 11, 364))
    arrow((x, 94), (x - 100, 94), (x - 100, 364), (x - 11, 364))
    note(depth + 6, 380, "volumes only", size=12)
    arrow((x, 374), (x, 408))
    box(x, 410, 120, "LayerNorm 2", "frozen")
    arrow((x, 444), (x, 476))
    arrow((x, 460), (depth, 460), (depth, 476))
    box(x, 478, 120, "MLP", "frozen")
    box(depth, 478, 120, "MLP adapter", "trained")
    arrow((x, 512), (x, 543))
    plus(x, 554)
    arrow((depth, 512), (depth, 554), (x + 11, 554))
    note(depth - 60, 546, "times s", size=12)
    arrow((x, 391), (x - 100, 391), (x - 100, 554), (x - 11, 554))
    arrow((x, 564), (x, 588))
    box(x, 590, 120, "tokens y", "data")


def decoder_block() -> None:
    """The right part: tokens (with the prompts) on the left, keys (the image) on the right."""
    x, side, keys = 860, 1000, 1130
    note(990, 28, "Decoder block (two of them)", "bold", size=16)
    box(x, 50, 120, "tokens q", "data")
    box(side, 50, 110, "prompt p", "data")
    box(keys, 50, 100, "image k", "data")
    arrow((x, 84), (x, 102))
    box(x, 104, 150, "self-attention, LN 1", "frozen")
    arrow((x, 138), (x, 158))
    box(x, 160, 150, "attention to image", "frozen")
    arrow((keys, 84), (keys, 177), (x + 77, 177))
    arrow((x, 194), (x, 224))
    box(x, 226, 120, "adapter 1", "trained")
    arrow((side, 84), (side, 243), (x + 62, 243))
    note(side + 6, 262, "add, concat,", size=12, anchor="middle")
    note(side + 6, 277, "hyper or none", size=12, anchor="middle")
    arrow((x, 208), (x - 78, 208), (x - 78, 284), (x - 11, 284))
    arrow((x, 260), (x, 273))
    plus(x, 284)
    arrow((x, 294), (x, 312))
    box(x, 314, 130, "+ q, LN 2", "frozen")
    arrow((x, 348), (x, 376))
    arrow((x, 362), (side, 362), (side, 376))
    box(x, 378, 120, "MLP", "frozen")
    box(side, 378, 110, "adapter 2", "trained")
    arrow((x, 412), (x, 430))
    box(x, 432, 150, "+ both, LN 3", "frozen")
    arrow((side, 412), (side, 449), (x + 77, 449))
    note(side + 22, 432, "times s", size=12)
    arrow((x, 466), (x, 588))
    box(x, 590, 120, "tokens q", "data")
    arrow((x, 488), (1063, 488))
    box(keys, 470, 130, "attention to|tokens, + k", "frozen", 40)
    arrow((keys, 177), (keys, 468))
    arrow((keys, 510), (keys, 526))
    box(keys, 528, 110, "adapter 3", "trained", 28)
    arrow((keys, 556), (keys, 588))
    box(keys, 590, 130, "+ itself, LN 4", "frozen")
    arrow((keys, 624), (keys, 644))
    box(keys, 646, 100, "image k", "data")


def main() -> None:
    for draw in (whole_model, encoder_block, decoder_block):
        draw()
    for x in (412, 762):
        parts.append(f'<line x1="{x}" y1="14" x2="{x}" y2="{HEIGHT - 14}" stroke="{GREY}" stroke-dasharray="3 5"/>')
    tip = (
        '<marker id="tip" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">'
        f'<path d="M0,0 L6,3 L0,6 z" fill="{GREY}"/></marker>'
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13" role="img">\n<title>SAM with adapters: the model, an encoder block, a decoder block</title>\n'
    )
    FILE.write_text(head + f"<defs>{tip}</defs>\n" + "\n".join(parts) + "\n</svg>\n")


if __name__ == "__main__":
    main()
