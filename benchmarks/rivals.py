"""What a user would do instead of steering: ask an instruct model, choose the best of several, train with labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from benchmarks.fudge import Fudge
from latdiff.codecs.protocol import Codec
from latdiff.data.tokens import tokenize
from latdiff.diffusion.noise import streams
from latdiff.errors import UserError
from latdiff.evaluation.generators import BestOf, LanguageModelGenerator
from latdiff.lm import causal_language_model, class_prefix, write

LONGEST, TOP_P, BATCH = 40, 0.9, 64  # tokens that a language model writes at most, and the share it samples from


class Writer:
    """A causal language model as it came. Text i of a seed is the same however many are asked for.

    What it writes ends with its first line.
    """

    def __init__(self, path: str):
        """Raises LanguageModelError where there is none."""
        self.path = path
        self.tokenizer, self.model, self.start = causal_language_model(path)

    def begun(self, prompt: str | None, start: str = "") -> list[int]:
        """Ids that it goes on from: what it is asked, if anything, and the first words of its answer.

        In what it is asked, {prefix} stands for those words. Raises UserError where it cannot be asked.
        """
        words = self.tokenizer(start, add_special_tokens=False).input_ids if start else []
        if prompt is None:
            return words or [self.start]
        if not self.tokenizer.chat_template:
            raise UserError(f"--writer is {self.path!r}, which has no chat template to ask it by; take an instruct "
                            "model")
        said = [{"role": "user", "content": prompt.replace("{prefix}", start)}]
        asked = self.tokenizer.apply_chat_template(said, add_generation_prompt=True)
        return [*(asked["input_ids"] if hasattr(asked, "keys") else asked), *words]

    def goes_on(self, prompt: str | None, starts: Sequence[str], seed: int) -> list[str]:
        """A text for each start, '' for none; the start is not part of it."""
        ids, own = [self.begun(prompt, start) for start in starts], _streams(seed, len(starts))
        return self.texts(_in_batches(lambda some: write(self.model, ids[some], own[some], LONGEST, TOP_P), len(ids)))

    def steered(
        self, fudge: Fudge, target: dict[str, str], times: float, prompt: str | None, starts: Sequence[str], seed: int
    ) -> list[str]:
        """The same by FUDGE, towards a label of each attribute."""
        ids = [self.begun(prompt, start) for start in starts]
        return self.texts(fudge.write(ids, _streams(seed, len(ids)), target, LONGEST, times, TOP_P))

    def texts(self, ids: list[list[int]]) -> list[str]:
        """The first line of each, without quotation marks around it."""
        written = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [next(iter(text.strip().splitlines()), "").strip(' "') for text in written]


class ClassModel:
    """A language model of ours that read the class of every text before it (`latdiff train-ar`)."""

    def __init__(self, path: str, wanted: Sequence[str]):
        """Raises UserError where it does not know a class that is wanted."""
        self.lm = LanguageModelGenerator(path, TOP_P)
        unknown = sorted(set(wanted) - set(self.lm.classes))
        if unknown:
            known = ", ".join(self.lm.classes) or "nothing"
            raise UserError(f"--class-lm is {path!r}, which is conditioned on {known}, but the targets are "
                            f"{', '.join(wanted)}; train one on texts with these classes: latdiff train-ar with "
                            "data.condition=label")

    def goes_on(self, label: str, starts: Sequence[str], seed: int) -> list[str]:
        """A text of the class for each start, '' for none; the start is not part of it."""
        tokenizer, begin = self.lm.tokenizer, self.lm.start
        head = [begin, *class_prefix(tokenizer, label, begin)]
        words = [[one for one in row if one != tokenizer.eos_token_id] if start else []
                 for row, start in zip(tokenize(tokenizer, list(starts)), starts, strict=True)]
        own = _streams(seed, len(words))
        written = _in_batches(lambda some: write(
            self.lm.model, [head + row for row in words[some]], own[some], LONGEST, TOP_P), len(words))
        return [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]


def best_of(codec: Codec, texts: list[str], largest: int, k: int, guides: list) -> list[str]:
    """Of the first k of every `largest` texts in a row the one that is likeliest by the guides."""
    groups = range(0, len(texts), largest)
    return BestOf([text for group in groups for text in texts[group : group + k]], codec, k).toward(guides)


def read_prompts(given: Sequence[str]) -> dict[str, str]:
    """LABEL=TEXT -> {label: text}; raises UserError for what is not that."""
    for words in given:
        label, _, text = words.partition("=")
        if not (label and text):
            raise UserError(f"--prompt is {words!r}, must be LABEL=TEXT, e.g. positive='Write a happy sentence.'")
    return dict(words.split("=", 1) for words in given)


def _streams(seed: int, count: int) -> list[torch.Generator]:
    return streams(torch.Generator().manual_seed(seed), count)


def _in_batches(make: Callable[[slice], list], count: int) -> list:
    return [row for first in range(0, count, BATCH) for row in make(slice(first, first + BATCH))]

