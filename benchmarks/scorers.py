"""Measure how well MAUVE, perplexity and round trips agree with the oracle, and write every figure as JSON.

    python benchmarks/scorers.py --mauve path/to/model --fluency checkpoints/storyworld-judge-ar \\
        --json docs/lab/results/scorers.json --documents checkpoints/storyworld/metrics.json ...

A share of real stories is corrupted in a way that the oracle detects exactly: incoherent, broken, or all valid and of
less variety. The scores of each share, compared with those of real stories, show a scorer's sensitivity. DOCUMENTS of
`latdiff evaluate` with the same scorers add the texts of models and, of ours, the round trip of their latents. The
rank correlation with the oracle (Spearman) is computed over either kind of row.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

from scipy.stats import spearmanr

from latdiff import storyworld
from latdiff.errors import UserError, plain_errors
from latdiff.evaluation.averaging import averaged
from latdiff.evaluation.judges import FluencyJudge, MauveJudge
from latdiff.evaluation.metrics import require_packages
from latdiff.evaluation.report import machine, row_line, write_json
from latdiff.evaluation.scoring import judged
from latdiff.storyworld.grammar import tell
from latdiff.storyworld.lexicon import FEELINGS

SHARES = (0.02, 0.05, 0.1, 0.2, 0.5)
SEED = 2000  # far from those of the corpus
FEW = 20
# Larger is better on either side.
SCORERS = {
    "mauve": lambda row: row["mauve"],
    "perplexity": lambda row: -row["perplexity"],
    "perplexity_of_texts": lambda row: -row["perplexity_of_texts"],
    "round_trip": lambda row: -row["round_trip"],
}
TRUTHS = {"validity": lambda row: row["validity"], "coverage": lambda row: -row["slot_tv"]["mean"]}
Spoil = Callable[[list[storyworld.Story], int, random.Random], str]  # stories, index of one -> its corrupted text


def contradicted(stories: list[storyworld.Story], i: int, rng: random.Random) -> str:
    """The feeling is of the other sentiment than the outcome."""
    story = stories[i]
    other = next(feelings for sentiment, feelings in FEELINGS.items() if sentiment != story.attributes["sentiment"])
    return tell(story.attributes, story.slots | {"feeling": rng.choice(other)})


def mixed(stories: list[storyworld.Story], i: int, rng: random.Random) -> str:
    """The second sentence is the next story's."""
    sentences, others = (re.split(r"(?<=\.) ", stories[j % len(stories)].text) for j in (i, i + 1))
    return " ".join([sentences[0], others[1], *sentences[2:]])


def word_left_out(stories: list[storyworld.Story], i: int, rng: random.Random) -> str:
    """A word somewhere in the text is missing."""
    words = stories[i].text.split()
    del words[rng.randrange(1, len(words))]
    return " ".join(words)


def one_topic(stories: list[storyworld.Story], i: int, rng: random.Random) -> str:
    """Another valid story, always about music."""
    return storyworld.sample(1, rng.randrange(10**9), topic="music")[0].text


def few(stories: list[storyworld.Story], i: int, rng: random.Random) -> str:
    """One of the same few valid stories, over and over."""
    return stories[rng.randrange(FEW)].text


SPOILS: dict[str, Spoil] = {
    "feeling against outcome": contradicted, "sentence of another story": mixed, "word left out": word_left_out,
    "one topic": one_topic, f"{FEW} stories over and over": few,
}


def rows_of(figures: Callable[[list[str]], dict], n: int, seed: int) -> list[dict]:
    """A row for n real stories, and one for every way and share of corrupting them."""
    stories = storyworld.sample(n, SEED + seed)
    rows = [{"spoilt": "nothing", "share": 0.0} | figures([story.text for story in stories])]
    print(row_line(rows[0]))
    for name, spoil in SPOILS.items():
        for share in SHARES:
            rng = random.Random(f"{seed}/{name}/{share}")
            texts = [spoil(stories, i, rng) if i < share * n else story.text for i, story in enumerate(stories)]
            rows.append({"spoilt": name, "share": share} | figures(texts))
            print(row_line(rows[-1]), flush=True)
    return rows


def figures_by(mauve: MauveJudge, fluency: FluencyJudge, n: int) -> Callable[[list[str]], dict]:
    """Scores of texts and the oracle's figures; MAUVE against n stories that no row is made of."""
    references = [story.text for story in storyworld.sample(n, SEED - 1)]

    def figures(texts: list[str]) -> dict:
        oracle, perplexity = judged(storyworld, texts), fluency.perplexity(texts)
        return {
            "n": len(texts), "validity": oracle["validity"], "slot_tv": oracle["slot_tv"],
            "mauve": mauve.mauve(texts, references),
            "perplexity": perplexity["tokens"], "perplexity_of_texts": perplexity["texts"],
        }

    return figures


def of_models(documents: list[Path], scorers: dict) -> list[dict]:
    """Rows of unsteered texts from documents. Raises UserError for one without the figures or of other scorers."""
    rows = []
    for path in documents:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.get("scorers") != scorers or "validity" not in document["unconditional"][0]:
            raise UserError(f"--documents {path}: must be of storyworld and of the same scorers, {scorers}; write it "
                            "again with `latdiff evaluate --mauve ... --fluency ...`")
        for row in document["unconditional"]:
            kept = {key: row[key] for key in ("scheduler", "steps", "keep", "sampler", "file") if key in row}
            found = {key: row[key] for key in ("n", "validity", "slot_tv", *SCORERS) if key in row}
            rows.append({"checkpoint": document["checkpoint"]} | kept | found)
    return rows


def agreement(rows: list[dict]) -> dict:
    """Spearman's rank correlation of every scorer with the oracle, over the rows that have it, three at least."""
    found = {}
    for scorer, score in SCORERS.items():
        scored = [row for row in rows if scorer in row]
        if len(scored) > 2:
            found[scorer] = {truth: float(spearmanr(list(map(score, scored)), list(map(right, scored))).statistic)
                             for truth, right in TRUTHS.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mauve", required=True, help="a causal language model or text encoder, folder or hub id")
    parser.add_argument("--fluency", required=True, help="a causal language model, folder or hub id")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--documents", type=Path, nargs="+", default=[], help="of `latdiff evaluate`")
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 (default 3)")
    options = parser.parse_args()
    require_packages()
    scorers = {"fluency": options.fluency, "mauve": options.mauve}
    models = of_models(options.documents, scorers)
    figures = figures_by(MauveJudge(options.mauve), FluencyJudge(options.fluency), options.num_samples)
    measured = averaged([{"rows": rows_of(figures, options.num_samples, seed)} for seed in range(options.seeds)])
    document = {"machine": machine(), "seeds": options.seeds, "scorers": scorers, **measured}
    document["agreement"] = agreement(measured["rows"])
    if len(models) > 2:
        document |= {"models": models, "agreement_of_models": agreement(models)}
    write_json(options.json, document)
    print(json.dumps({key: document[key] for key in document if key.startswith("agreement")}, indent=2))


if __name__ == "__main__":
    with plain_errors():
        main()
