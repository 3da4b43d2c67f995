"""The README's shares and perplexities stand in files of docs/lab/results, to the digits that it gives."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
RESULTS = ROOT / "docs" / "lab" / "results"


def document(name):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def unsteered(name, scheduler, steps=25):
    (row,) = (row for row in document(name)["unconditional"] if (row["scheduler"], row["steps"]) == (scheduler, steps))
    return row["validity"], row["slot_tv"]["mean"], row["slot_tv"]["floor"], row["distinct"]


def written(name):
    (row,) = document(name)["unconditional"]
    return row["validity"], row["slot_tv"]["mean"], row["slot_tv"]["floor"]


def mean(rows, *keys):
    rows = list(rows)
    return [sum(row[key] * row["n"] for row in rows) / sum(row["n"] for row in rows) for key in keys]


def steered(name, section, attribute=None):
    rows = [row for row in document(name)[section] if attribute in (None, row.get("attribute"))]
    return mean(rows, "success", "validity")


def edited():
    (row,) = (row for row in document("guidance")["editing"]
              if (row["mode"], row["scale"], row["strength"]) == ("x0", 18, 0.65))
    return row["success"], row["validity"], row["kept"]


def reconstructed(name):
    measured = document(name)["reconstruction"]
    return measured["exact_match"], measured["under_noise"]["0.5"], measured["under_noise"]["1.0"]


def three_heads():
    rows = document("guidance")["three heads"]
    return [row[key] for key in ("success", "validity") for row in rows]


# what stands before the figures in the README, up to where they end -> the figures, in their order
CLAIMS = {
    r"\| reconstruction of unseen stories, exact .*? under 1\.0": lambda: reconstructed("storyworld"),
    r"\| unsteered \(DDPM.*?: valid .*?; in the training set 0 \|": lambda: unsteered("storyworld", "ddpm"),
    r"\| unsteered \(`tcd`\): valid .*?: more": lambda: unsteered("storyworld", "tcd")[:3],
    r"\| unsteered \(full re-noising\): valid .*?: most": lambda: unsteered("storyworld", "renoise")[:3],
    r"over five noise seeds its unsteered texts are .*? \(25 calls": lambda: unsteered("storyworld-full", "ddpm")[:3],
    r"by both heads at once both are right .*? LD4LG's": lambda: steered("storyworld-full", "composed"),
    r"LD4LG's settings on the same stories: .*?; trained again": lambda: unsteered("ld4lg-storyworld", "ddpm", 250)[:3],
    r"trained again with another seed, they are valid .*?\. A": lambda: [
        unsteered("ld4lg-storyworld-1", "ddpm", 250)[0], unsteered("storyworld-full-1", "ddpm")[0]
    ],
    r"by 22 steps of `unipc` is then valid .*?, about": lambda: unsteered("storyworld-full-keep", "unipc", 22)[:3],
    r"two heads of E2E, below, meet .*? at better": lambda: [
        sum(row["success"] for row in rows) / len(rows)
        for rows in (document(name)["composed"] for name in ("e2e-keep", "e2e"))
    ],
    r"A language model of the same size: .*?, and from": lambda: written("storyworld-rival"),
    r"trained on a GPU, .*?: still a little": lambda: written("storyworld-rival-gpu-0.98"),
    r"take the best of 8 of its texts, both are right .*? of the time": lambda: mean(
        (row for row in document("storyworld-rival")["reranked"] if len(row["targets"]) == 2), "success"
    ),
    r"\| steered by sentiment, head from 400 stories: right .*? \| \|": lambda: steered(
        "storyworld", "guided", "sentiment"
    ),
    r"\| steered by topic, head from 400 stories: right .*? \| \|": lambda: steered(
        "storyworld", "guided", "topic"
    ),
    r"\| both heads at once, all 16 pairs: both right .*? \| \|": lambda: steered("storyworld", "composed"),
    r"\| three heads at once: all right .*?; two": three_heads,
    r"\| sentiment of a story flipped by `edit`: right .*? of the other": edited,
    r"all have it \(1,000 of 1,000\), .*? are valid": lambda: mean(
        (row for row in document("storyworld-topic")["by_class"] if row["guidance_scale"] == 1), "validity"
    ),
    r"at a perplexity of .*?, and Diffusion": lambda: [
        document("e2e-control")["unsteered"]["perplexity"], document("e2e")["unseen"]["perplexity"]
    ],
    r"is met .*? of the time": lambda: [document("e2e-control")["content"]["success"]],
    r"Length in words takes more: .*? where the heads": lambda: [
        document("e2e-control")["length"]["success"], document("e2e-length-best-25")["length"]["success"]
    ],
    r"conditioned on its class with guidance: right .*? of the time": lambda: mean(
        (row for row in document("agnews")["by_class"] if row["guidance_scale"] == 4), "success"
    ),
    r"with little sense \(MAUVE .*?\)": lambda: [
        document("rocstories")["unconditional"][0]["mauve"], document("rocstories")["unseen"]["mauve"]
    ],
    r"steering towards a sentiment is right .*? of the time": lambda: mean(document("yelp")["guided"], "success"),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_of_the_readme_is_in_the_results(claim):
    (said,) = re.findall(claim, README)
    shares, others = re.findall(r"(?<!\w)1?\.\d{3}(?!\d)", said), re.findall(r"(?<!\w)\d+\.\d(?!\d)", said)
    measured = [f"{value:.3f}".lstrip("0") if shares else f"{value:.1f}" for value in CLAIMS[claim]()]
    assert (shares or others) == measured
