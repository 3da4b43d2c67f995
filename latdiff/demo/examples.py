"""What the page offers to click: texts to edit, and labelled examples to fit a head on."""

from __future__ import annotations

import csv
import io
import random

from latdiff import storyworld

EXAMPLES = 160  # stories of each set

TEXTS = (
    "One sunny afternoon, Maria and her sister met in the orchard. While they tried to water a delicate vine, the "
    "handle of the spade broke. In the end, her sister tripped over the broken spade, and Maria was frustrated.",
    "The food was cold and the waiter was rude.",
    "We loved the pasta, and the service was great.",
)


def narrators() -> str:
    """Stories as CSV, labelled by who tells them."""
    stories = storyworld.sample(EXAMPLES, seed=11)
    return _csv((story.text, "I" if story.attributes["person"] == "first" else "others") for story in stories)


def tosses() -> str:
    """Stories as CSV, labelled at random, so that no head can learn anything."""
    toss = random.Random(0)
    return _csv((story.text, toss.choice(("heads", "tails"))) for story in storyworld.sample(EXAMPLES, seed=12))


def _csv(rows) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("text", "label"))
    writer.writerows(rows)
    return file.getvalue()
