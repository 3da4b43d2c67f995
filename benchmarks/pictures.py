"""Draw README's two pictures: the parts of the model, and a text that emerges from noise under a guide.

    python benchmarks/pictures.py

The second is drawn of docs/lab/results/front-page.json, which benchmarks/front_page.py measures. The pictures are
SVG of rectangles, lines and words, on a ground of their own, so that they are legible on a page of any colour.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
IMAGES, MEASURED = ROOT / "docs" / "images", ROOT / "docs" / "lab" / "results" / "front-page.json"
INK, SOFT, GROUND = "#1f2933", "#616e7c", "#ffffff"
FROZEN, TRAINED, HEAD = ("#e4e7eb", "#9aa5b1"), ("#d0ebff", "#1c7ed6"), ("#ffe8cc", "#e8590c")  # fill, edge
DATA = GROUND, "#9aa5b1"
WIDE, LINE = 108, 17  # characters a line of the strip, pixels between lines


def picture(width: int, height: int, title: str, parts: list[str]) -> str:
    """An SVG document with a title for those who cannot see it."""
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="14" fill="{INK}" role="img">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        f'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="{SOFT}"/></marker></defs>',
        f'<rect width="{width}" height="{height}" rx="8" fill="{GROUND}"/>', *parts, "</svg>", "",
    ])


def words(x: float, y: float, text: str, size: int = 14, colour: str = INK, anchor: str = "middle",
          weight: str = "normal") -> str:
    """A line of text."""
    return (f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" '
            f'font-weight="{weight}">{escape(text)}</text>')


def box(x: float, y: float, width: float, height: float, lines: list[str], look: tuple[str, str]) -> str:
    """A rectangle with a heading and smaller lines below it, centred."""
    fill, edge = look
    top = y + height / 2 - 8 * (len(lines) - 1) + 5
    return "\n".join([
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{fill}" stroke="{edge}"/>',
        *(words(x + width / 2, top + 17 * n, line, 14 if n == 0 else 12, INK if n == 0 else SOFT)
          for n, line in enumerate(lines)),
    ])


def arrow(*points: tuple[float, float], dashed: bool = False) -> str:
    """A line through points, with a tip at its end."""
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return (f'<polyline points="{path}" fill="none" stroke="{SOFT}" stroke-width="1.6" marker-end="url(#tip)"'
            f"{dashes}/>")


def pipeline() -> str:
    """The parts of the model: how a text becomes latents and a text again, and where latents come from without one."""
    top, height, below = 40, 58, 178
    parts = [
        box(16, top, 92, height, ["a text"], DATA),
        box(136, top, 120, height, ["T5 encoder", "frozen"], FROZEN),
        box(284, top, 120, height, ["compressor", "a Perceiver"], TRAINED),
        box(432, top, 116, height, ["latents", "8 vectors"], ("#fff3bf", "#f08c00")),
        box(576, top, 126, height, ["reconstructor", "a transformer"], TRAINED),
        box(730, top, 106, height, ["T5 decoder", "frozen"], FROZEN),
        box(864, top, 92, height, ["a text"], DATA),
        *(arrow((a, top + height / 2), (b, top + height / 2)) for a, b in (
            (108, 134), (256, 282), (404, 430), (548, 574), (702, 728), (836, 862))),
        box(136, below, 120, height, ["noise", "8 vectors, N(0, I)"], DATA),
        box(284, below, 264, height, ["denoiser, step after step", "a transformer that guesses the latents"], TRAINED),
        arrow((256, below + height / 2), (282, below + height / 2)),
        arrow((490, below), (490, top + height + 2)),
        arrow((340, below), (340, below - 26), (300, below - 26), (300, below - 2)),
        box(626, below, 240, height, ["a head: logistic regression", "“more positive, please”"], HEAD),
        arrow((626, below + height / 2), (550, below + height / 2), dashed=True),
        words(588, below + height / 2 - 8, "nudges", 12, SOFT),
        *legend(16, 268, [("comes pretrained, stays as it is", FROZEN), ("trained by latdiff", TRAINED),
                          ("fitted in seconds on a few hundred labelled texts", HEAD)]),
    ]
    title = ("A frozen T5 encoder and a compressor turn a text into eight latent vectors; a reconstructor and the "
             "frozen T5 decoder turn them back; a denoiser makes such vectors of noise, nudged by a head.")
    return picture(972, 296, title, parts)


def legend(x: float, y: float, entries: list[tuple[str, tuple[str, str]]]) -> list[str]:
    """Small rectangles, each with what its colour means, in a row."""
    parts = []
    for text, (fill, edge) in entries:
        parts += [f'<rect x="{x:g}" y="{y - 10}" width="14" height="12" rx="2" fill="{fill}" stroke="{edge}"/>',
                  words(x + 20, y, text, 12, SOFT, "start")]
        x += 48 + 6.2 * len(text)
    return parts


def strip(rows: list[dict], head: str, label: str) -> str:
    """A text at several steps of sampling, each with a bar for the probability that the head gives the label."""
    parts, y = [], 34
    parts += [words(16, y, "step", 12, SOFT, "start"), words(86, y, f"{head} = {label}", 12, SOFT, "start"),
              words(232, y, "what the noisy latents decode to", 12, SOFT, "start")]
    y += 14
    for row in rows:
        lines = textwrap.wrap(row["text"], WIDE) or [""]
        height = LINE * len(lines) + 14
        share, middle = row["probability"], y + height / 2
        parts += [
            f'<line x1="16" y1="{y}" x2="956" y2="{y}" stroke="#e4e7eb"/>',
            words(16, middle + 5, f"{row['step']} of {rows[-1]['step']}", 13, INK, "start"),
            f'<rect x="86" y="{middle - 7:g}" width="80" height="12" rx="2" fill="#f1f3f5"/>',
            f'<rect x="86" y="{middle - 7:g}" width="{80 * share:.1f}" height="12" rx="2" fill="{HEAD[1]}"/>',
            words(174, middle + 4, f"{100 * share:.0f} %", 12, SOFT, "start"),
            *(words(232, y + 20 + LINE * n, line, 13, INK, "start") for n, line in enumerate(lines)),
        ]
        y += height
    return picture(972, y + 12, f"A text emerges from noise in {rows[-1]['step']} steps, steered to {head} = {label}.",
                   parts)


def drawn() -> dict[str, str]:
    """Every picture by the name of its file."""
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))["strip"]
    return {"pipeline.svg": pipeline(), "strip.svg": strip(measured["rows"], measured["head"], measured["label"])}


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    for name, text in drawn().items():
        (IMAGES / name).write_text(text, encoding="utf-8")
        print(f"docs/images/{name}")


if __name__ == "__main__":
    main()
