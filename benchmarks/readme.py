"""Put measured figures and texts into README, between its markers.

    python benchmarks/readme.py

All comes from files in docs/lab/results, which the commands beside the figures write. A block of README stands between
`<!--NAME:benchmarks/readme.py-->` and `<!--/NAME-->`; a test asks that each is up to date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "lab" / "results"
BLOCK = "<!--{0}:benchmarks/readme.py-->\n{1}\n<!--/{0}-->"
PAIR = 2  # of the texts side by side: the third, a short one


def document(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def percent(share: float, digits: int = 1) -> str:
    """0.9934 -> "99.3 %", 1.0 -> "100 %"."""
    return f"{100 * share:.{digits}f}".removesuffix(".0") + " %"


def success(rows: list[dict]) -> float:
    """The share of all texts of several rows that are right."""
    return sum(row["success"] * row["n"] for row in rows) / sum(row["n"] for row in rows)


def english() -> str:
    """The same noise written without guides and with two, in real English."""
    one = json.loads(document("front-page")["english"]["output"].splitlines()[PAIR])
    return (f"> unsteered: *{one['unsteered']}*\n>\n> the same noise, steered to a *positive* *review*: "
            f"*{one['text']}*")


def commands() -> str:
    """Commands with their seconds, and what the first prints."""
    measured = document("front-page")
    longest = max(len(row["command"]) for row in measured["commands"])
    lines = [f"{row['command']:{longest}}  # {row['seconds']:.0f} s" for row in measured["commands"]]
    return "```\n" + "\n".join(lines) + f"\n```\n\nThe first prints\n\n> {measured['commands'][0]['output'].strip()}"


def attribute(label: str, who: str, name: str = "english-sentiment") -> float:
    """Share that an independent classifier calls right, of texts of one kind at the usual scale."""
    (row,) = (row for row in document(name)["rows"] if row["who"] == who and row["target"] == {"sentiment": label}
              and row.get("times", 1) == 1)
    return row["right"]


def both(who: str, name: str = "english-sentiment") -> str:
    """The shares of the two sentiments, negative first."""
    return " and ".join(percent(attribute(label, who, name)) for label in ("negative", "positive"))


def read_as_english() -> str:
    """How many of the steered texts that were read by eye are English sentences."""
    found = re.search(r"(\d+) of (\d+) positive and (\d+) of (\d+) negative ones read as English",
                      (RESULTS / "english-read.md").read_text(encoding="utf-8"))
    assert found is not None
    right, of, others, of_others = map(int, found.groups())
    return f"{right + others} of {of + of_others}"


def figures() -> str:
    """The table of figures, a row for each with what it has to be held against."""
    ours, rival, trained_longer = map(document, (
        "storyworld-pretrained", "storyworld-rival", "storyworld-rival-gpu-0.98"))
    free, plain, longer = (one["unconditional"][0] for one in (ours, rival, trained_longer))
    first = document("first-text")
    of_two = [row for row in rival["reranked"] if len(row["targets"]) == 2]
    by_head = {name: [row for row in ours["guided"] if row["attribute"] == name] for name in ("sentiment", "topic")}
    rows = [
        ("unsteered stories that the grammar could have written", percent(free["validity"]),
         f"a language model of this size {percent(plain['validity'])}, longer trained {percent(longer['validity'])}"),
        ("distance from the grammar's frequencies¹", f"{free['slot_tv']['mean']:.3f}",
         f"real stories {free['slot_tv']['floor']:.3f}, those models {plain['slot_tv']['mean']:.3f} and "
         f"{longer['slot_tv']['mean']:.3f}"),
        ("steered to a sentiment, to a topic: right", " and ".join(
            percent(success(rows)) for rows in by_head.values()), "heads from 400 stories"),
        ("to both at once: both right", percent(success(ours["composed"])),
         f"best of 8 of the language model's {percent(success(of_two))}"),
        ("English reviews steered to negative, to positive: right²", both("steered"),
         f"real ones {both('real texts')}, SmolLM2 when asked {both('prompted', 'english-rivals')}"),
        ("of these, English sentences, read by eye", read_as_english(), ""),
        ("minutes from clone to first steered text", f"{first['seconds']['all'] / 60:.1f}", "package index near"),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    machines = f"{ours['machine']}, {ours['date']}"
    return f"| | latdiff | to compare |\n|---|---|---|\n{table}\n\nStories: {machines}, five seeds."


BLOCKS: dict[str, Callable[[], str]] = {"english": english, "commands": commands, "figures": figures}


def filled(text: str) -> str:
    """README with every block as the measurements have it."""
    for name, made in BLOCKS.items():
        pattern = re.escape(BLOCK).replace(r"\{0\}", name).replace(r"\{1\}", ".*?")
        block = BLOCK.format(name, made()).replace("\\", r"\\")
        text, count = re.subn(pattern, block, text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"README has {count} blocks {name}, must have one")
    return text


def main() -> None:
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
