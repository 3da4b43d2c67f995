"""Measure how well heads steer real text, beside what a user would do instead, and write every figure as JSON.

    python benchmarks/attributes.py checkpoints/english --head sentiment --judge data/english/sentiment-judge.jsonl \\
        --cond review --prompt positive="Write one short positive sentence from a restaurant review." \\
        --writer smollm2-135m-instruct --fluency smollm2-135m-instruct --json docs/lab/results/english-sentiment.json

One head is steered to each of its labels; several, to each combination of theirs. The rows are real texts, samples
without a guide, samples steered at 1, 2 and 4 times the usual scale, the best of K samples by the same heads, and what
an instruct model writes when it is asked. A judge of another kind, fitted on texts that no head has seen, says whether
a text is right; half of its texts are the real ones in the table and are kept from it.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from latdiff.checkpoints import folder_of
from latdiff.codecs.protocol import Codec
from latdiff.data.corpus import load_labelled
from latdiff.diffusion.noise import streams
from latdiff.errors import UserError, plain_errors
from latdiff.evaluation import metrics
from latdiff.evaluation.generators import BestOf
from latdiff.evaluation.judges import FluencyJudge, LabelJudge, WellFormedJudge
from latdiff.evaluation.report import check_writable, machine, row_line, write_json
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.files import load_head
from latdiff.heads.inputs import HeadError
from latdiff.lm import causal_language_model, write
from latdiff.pipelines.files import load_for_commands

SHOWN = 50  # texts of each row that are kept, the first ones, to be read
LONGEST, TOP_P = 40, 0.9  # tokens that the instruct model writes at most, and the share it samples from


class Measured:
    """What is measured of a set of texts: one judge a head, and the fluency model if there is one."""

    def __init__(self, judges: dict[str, LabelJudge], fluency: FluencyJudge | None, wellformed: WellFormedJudge | None):
        self.judges, self.fluency, self.wellformed = judges, fluency, wellformed

    def row(self, who: dict, target: dict[str, str], make: Callable[[], list[str]]) -> dict:
        """Figures of the texts that `make` writes, with the seconds that each took.

        A text without a word is wrong, and not counted in the other figures.
        """
        began = time.monotonic()
        texts = make()
        seconds = time.monotonic() - began
        seconds += who.pop("seconds_before", 0.0) * len(texts)
        said = [text for text in texts if text.strip()] or ["."]
        hits = {name: [found == label and bool(text.strip()) for found, text in
                       zip(self.judges[name].predict(texts), texts, strict=True)] for name, label in target.items()}
        every = [all(row) for row in zip(*hits.values(), strict=True)]
        figures: dict[str, Any] = {
            "n": len(texts), "right": sum(every) / len(every), "distinct": metrics.distinct(texts),
            "distinct_2": metrics.distinct_ngrams(said, 2), "self_bleu": metrics.self_bleu(said[:200]),
            "words": metrics.mean_words(said), "empty": len(texts) - sum(bool(text.strip()) for text in texts),
        }
        if len(target) > 1:
            figures["right_of_each"] = {name: sum(row) / len(row) for name, row in hits.items()}
        if self.wellformed:
            figures["well_formed"] = self.wellformed.share(texts)
        if self.fluency:
            figures["perplexity"] = self.fluency.perplexity(said)["tokens"]
        return who | {"target": target} | figures | {"seconds_a_text": seconds / len(texts), "texts": texts[:SHOWN]}


def prompted(path: str, prompt: str, n: int, seed: int, top_p: float) -> list[str]:
    """What an instruct model writes when it is asked, up to the end of its first line."""
    tokenizer, model, _ = causal_language_model(path)
    if not tokenizer.chat_template:
        raise UserError(f"--writer is {path!r}, which has no chat template to ask it by; take an instruct model")
    asked = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)
    ids = list(asked["input_ids"] if hasattr(asked, "keys") else asked)
    written: list[list[int]] = []
    own = streams(torch.Generator().manual_seed(seed), n)
    for start in range(0, n, 64):
        part = own[start : start + 64]
        written += write(model, [ids] * len(part), part, LONGEST, top_p)
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    return [next(iter(text.strip().splitlines()), "").strip(' "') for text in texts]


def targets_of(heads: list[AttributeHead]) -> list[dict[str, str]]:
    """Every combination of the heads' labels."""
    names = [head.name for head in heads]
    every = itertools.product(*(map(str, head.classes_) for head in heads))
    return [dict(zip(names, labels, strict=True)) for labels in every]


def attribute_head(folder: Path) -> AttributeHead:
    """A head of labels; raises HeadError for one of numbers."""
    head = load_head(folder)
    if not isinstance(head, AttributeHead):
        raise HeadError(f"head {head.name!r} is of numbers, which no judge here can judge; name a head of labels")
    return head


def judge_and_real(head: AttributeHead, source: str) -> tuple[LabelJudge, dict[str, list[str]]]:
    """A judge of half of the labelled texts, and the other half by label. Raises UserError where the head saw one."""
    texts, labels = load_labelled(source)
    seen = sum(head.saw(texts))
    if seen:
        raise UserError(f"head {head.name!r} was fitted on {seen} of the texts of {source}; give others")
    real: dict[str, list[str]] = {}
    for text, label in zip(texts[1::2], labels[1::2], strict=True):
        real.setdefault(label, []).append(text)
    return LabelJudge.apart_from([head], texts[::2], labels[::2]), real


def main() -> None:
    options = _options()
    check_writable(options.json)
    prompts = dict(words.split("=", 1) for words in options.prompt if "=" in words)
    folder = folder_of(options.checkpoint)
    pipe = load_for_commands(folder, quiet=True)
    heads = [attribute_head(folder / "heads" / name) for name in options.head]
    if len(options.judge) != len(heads):
        raise UserError(f"{len(options.judge)} --judge for {len(heads)} --head; give one for each, in the same order")
    judged = {head.name: judge_and_real(head, source) for head, source in zip(heads, options.judge, strict=True)}
    fluency = FluencyJudge(options.fluency) if options.fluency else None
    wellformed = WellFormedJudge(options.wellformed) if options.wellformed else None
    measured = Measured({name: judge for name, (judge, _) in judged.items()}, fluency, wellformed)
    document = {
        "checkpoint": folder.name, "seed": options.seed, "cond": options.cond,
        "machine": machine(pipe.config.dtype), "steps": pipe.config.num_inference_steps, "fluency": options.fluency,
        "wellformed": options.wellformed,
        "decoding": options.decode or pipe.decoding, "heads": {head.name: head.report for head in heads},
        "judges": {name: judge.describe() for name, (judge, _) in judged.items()}, "rows": [],
    }

    def note(who: dict, target: dict[str, str], make: Callable[[], list[str]]) -> None:
        document["rows"].append(measured.row(who, target, make))
        write_json(options.json, document)
        print(row_line({key: value for key, value in document["rows"][-1].items() if key != "texts"}), flush=True)

    def draw(n: int, guides=(), seed: int = options.seed) -> list[str]:
        return pipe(options.cond, n, guides=list(guides), generator=torch.Generator().manual_seed(seed),
                    decode_options=options.decode, batch_size=64).texts

    began = time.monotonic()
    pool = draw(max(options.best_of, default=0) * options.best, seed=options.seed + 1) if options.best_of else []
    each = (time.monotonic() - began) / max(1, len(pool))
    for target in targets_of(heads):
        if len(heads) == 1:
            ((name, label),) = target.items()
            note({"who": "real texts"}, target, partial(list, judged[name][1][label][: options.num_samples]))
        note({"who": "unsteered"}, target, partial(draw, options.num_samples))
        for times in options.times:
            guides = [head.toward(target[head.name], times * head.usual_scale("x0")) for head in heads]
            note({"who": "steered", "times": times}, target, partial(draw, options.num_samples, guides))
        for k in options.best_of:
            guides = [head.toward(target[head.name]) for head in heads]
            choose = partial(best_of, pipe.codec, pool[: k * options.best], k, guides)
            note({"who": f"best of {k}", "seconds_before": k * each}, target, choose)
        prompt = prompts.get("+".join(target.values()))
        if prompt:
            ask = partial(prompted, options.writer, prompt, options.num_samples, options.seed, TOP_P)
            note({"who": "prompted", "prompt": prompt}, target, ask)


def best_of(codec: Codec, texts: list[str], k: int, guides: list) -> list[str]:
    """Of every k texts in a row the likeliest by the guides."""
    return BestOf(texts, codec, k).toward(guides)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--head", action="append", required=True, help="of the checkpoint; repeat to steer by several")
    parser.add_argument("--judge", action="append", required=True, metavar="FILE", help="labelled texts, for each head")
    parser.add_argument("--cond", help="class that the texts are conditioned on")
    parser.add_argument("--decode", help="how texts are written (default: the checkpoint's)")
    parser.add_argument("--num-samples", type=int, default=200, help="texts of each row (default 200)")
    parser.add_argument("--times", type=float, nargs="*", default=[1.0, 2.0, 4.0], help="of the usual scale")
    parser.add_argument("--best-of", type=int, nargs="*", default=[8, 25], metavar="K")
    parser.add_argument("--best", type=int, default=40, help="texts of each row of best of K (default 40)")
    parser.add_argument("--prompt", action="append", default=[], metavar="LABEL=TEXT",
                        help="what an instruct model is asked for; LABEL+LABEL with several heads")
    parser.add_argument("--writer", default="smollm2-135m-instruct", help="the instruct model that is asked")
    parser.add_argument("--fluency", help="a language model for perplexity")
    parser.add_argument("--wellformed", help="folder of a judge that recipes/train_wellformed.py wrote")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    with plain_errors():
        main()
