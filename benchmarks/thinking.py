"""Measure on storyworld whether thinking helps a language model to write on, and write every figure as JSON.

    python benchmarks/thinking.py checkpoints/star-storyworld --json thinking.json

Unseen stories are cut at random places. How likely is what comes next, in nats, with the plan that is encoded from the
story, with plans that the model thinks of, with none? Beside it stands what the grammar knows, exactly: on average no
plan of the model's own can get below that, only one that is encoded from the answer. And are the stories valid that it
writes on, with a plan and without one, by the same weights?
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from latdiff import storyworld
from latdiff.config import load_recipe
from latdiff.data.corpus import load_corpus
from latdiff.data.splits import Split, split_ids, split_texts
from latdiff.diffusion.noise import streams
from latdiff.diffusion.star import continuation_nats
from latdiff.errors import UserError, plain_errors
from latdiff.evaluation.report import machine, row_line, write_json
from latdiff.lm import context, write
from latdiff.pipelines.files import load_for_commands
from latdiff.pipelines.star import StarPipeline

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--num-samples", type=int, default=500, help="stories, each cut once (default 500)")
    parser.add_argument("--seed", type=int, default=2, help="of the cuts and the noise (default 2)")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 50], help="of a thought")
    parser.add_argument("--top-p", type=float, help="of what is written, 1 for ancestral sampling (default: its own)")
    options = parser.parse_args()
    if options.num_samples < 2:
        raise UserError(f"--num-samples is {options.num_samples}, must be 2 or more, for a standard error")
    pipe = load_for_commands(options.checkpoint, quiet=True, kind=StarPipeline)
    if options.top_p is not None:
        pipe.register_to_config(top_p=options.top_p)
    splits = readable(pipe, unseen(options.checkpoint, options.num_samples, options.seed))
    began = time.monotonic()
    document: dict = {
        "checkpoint": options.checkpoint.name, "seed": options.seed, "machine": machine("float32"), "n": len(splits),
        "top_p": pipe.config.top_p, "scheduler": type(pipe.scheduler).__name__, "nats": [], "writing": [],
    }

    def note(section: str, row: dict) -> None:
        document[section].append(row)
        document["seconds"] = round(time.monotonic() - began, 1)
        write_json(options.json, document)
        print(section, row_line(row), flush=True)

    floors = [grammar_nats(one) for one in splits]
    note("nats", {"plan": "the grammar's own"} | spread(floors))
    encoded = pipe.codec.encode([one.text for one in splits]).cpu()
    for name, prompts in (("encoded from the story", plans_read(pipe, encoded, options.seed)),
                          ("none", plans_read(pipe, None, options.seed)), ("no place for one", lambda rows: None)):
        note("nats", {"plan": name} | compared(nats(pipe, splits, prompts), floors))
    note("writing", {"plan": "no place for one"} | alone(pipe, splits, options.seed))
    for steps in (0, *options.steps):
        row, plans = thinking(pipe, splits, steps, options.seed)
        note("writing", {"plan": f"{steps} steps" if steps else "none"} | row)
        if steps:
            found = nats(pipe, splits, plans_read(pipe, plans, options.seed))
            note("nats", {"plan": f"{steps} steps"} | compared(found, floors))


def unseen(checkpoint: Path, count: int, seed: int) -> list[Split]:
    """Stories that the checkpoint was not trained on, each cut at one place."""
    recipe = load_recipe(str(checkpoint / "recipe.yaml"), saved=True)
    if recipe.data.source != "storyworld":
        raise UserError(f"{checkpoint} was trained on {recipe.data.source}, must be on storyworld, whose grammar is "
                        "known; take another checkpoint")
    return split_texts(load_corpus(recipe.data, recipe.seed).valid[:count], 1, seed)


def readable(pipe: StarPipeline, splits: list[Split]) -> list[Split]:
    """Those that the codec and the language model can read."""
    ids, fits = split_ids(pipe.language_tokenizer, splits), pipe.codec.fits([one.text for one in splits])
    most = context(pipe.language_model) - pipe.planner.config.num_prompts
    return [one for one, pair, fit in zip(splits, ids, fits, strict=True)
            if pair and fit and len(pair[0]) + len(pair[1]) <= most]


def grammar_nats(split: Split) -> float:
    """Exact negative log-probability of the second part of a story, given the first."""
    return storyworld.prefix_log_prob(f"{split.before} ") - storyworld.log_prob(f"{split.before} {split.behind}")


def plans_read(pipe: StarPipeline, plans: Tensor | None, seed: int) -> Callable[[slice], Tensor]:
    """Soft prompts of some rows of plans, or of no plan, each with noise of its own."""

    def prompts(rows: slice) -> Tensor:
        own = streams(torch.Generator().manual_seed(seed), rows.stop)[rows]
        return pipe.prompts(None if plans is None else plans[rows], own)

    return prompts


@torch.no_grad()
def nats(pipe: StarPipeline, splits: Sequence[Split], prompts: Callable[[slice], Tensor | None]) -> list[float]:
    """Of the second part of each story, behind its first part and a plan."""
    before = pipe.ids([one.before for one in splits])
    behind = [pair[1] for pair in split_ids(pipe.language_tokenizer, splits) if pair]
    found: list[float] = []
    for start in range(0, len(splits), BATCH):
        rows = slice(start, min(start + BATCH, len(splits)))
        found += continuation_nats(pipe.language_model, prompts(rows), before[rows], behind[rows]).tolist()
    return found


def spread(values: list[float]) -> dict:
    """Mean and standard error."""
    return {"nats": statistics.fmean(values), "error": statistics.stdev(values) / len(values) ** 0.5}


def compared(values: list[float], floors: list[float]) -> dict:
    """Nats of a model, and how many more than the grammar's own, of the same stories."""
    excess = spread([value - floor for value, floor in zip(values, floors, strict=True)])
    return spread(values) | {"excess": excess["nats"], "excess_error": excess["error"]}


def thinking(pipe: StarPipeline, splits: Sequence[Split], steps: int, seed: int) -> tuple[dict, Tensor]:
    """Stories that are written on with thoughts of so many steps, and the plans [N, L, D]."""
    began = time.monotonic()
    out = pipe([one.before for one in splits], num_inference_steps=steps, batch_size=BATCH,
               generator=torch.Generator().manual_seed(seed))
    row = {"seconds": time.monotonic() - began} | judged(out.texts)
    if steps:
        planned = pipe.codec.decode(out.latents)
        agree = [text for text, one in zip(planned, splits, strict=True) if text.startswith(f"{one.before} ")]
        row |= {"agreeing_plans": len(agree) / len(splits),
                "valid_plans": sum(storyworld.read(text).valid for text in agree) / len(splits)}
    return row, out.latents


def alone(pipe: StarPipeline, splits: Sequence[Split], seed: int) -> dict:
    """Stories that the language model writes on by itself, its weights the same."""
    before, began, texts = pipe.ids([one.before for one in splits]), time.monotonic(), []
    own = streams(torch.Generator().manual_seed(seed), len(splits))
    for start in range(0, len(splits), BATCH):
        rows = slice(start, start + BATCH)
        written = write(pipe.language_model, before[rows], own[rows], context(pipe.language_model), pipe.config.top_p)
        whole = [first + more for first, more in zip(before[rows], written, strict=True)]
        texts += pipe.language_tokenizer.batch_decode(whole, skip_special_tokens=True)
    return {"seconds": time.monotonic() - began} | judged(texts)


def judged(texts: list[str]) -> dict:
    """Share of valid stories, by the oracle, and the first of the texts."""
    return {"valid": sum(storyworld.read(text).valid for text in texts) / len(texts), "samples": texts[:5]}


if __name__ == "__main__":
    with plain_errors():
        main()
