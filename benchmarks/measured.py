"""What is measured of a set of texts: whether they are right, by judges with texts of their own, and how they read."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.starts import check_unseen, joined
from latdiff.data.corpus import load_labelled
from latdiff.data.splits import Split
from latdiff.data.tokens import tokenize
from latdiff.evaluation import metrics
from latdiff.evaluation.judges import FluencyJudge, LabelJudge, MauveJudge, SeenTexts, WellFormedJudge
from latdiff.heads.attribute import AttributeHead
from latdiff.lm import token_losses

SHOWN = 50  # texts of each row that are kept, the first ones, to be read


class Measured:
    """What is measured of a set of texts: one judge a head, and judges of fluency and of likeness if there are any."""

    def __init__(
        self, judges: dict[str, LabelJudge], fluency: FluencyJudge | None, wellformed: WellFormedJudge | None,
        mauve: MauveJudge | None = None,
    ):
        self.judges, self.fluency, self.wellformed, self.mauve = judges, fluency, wellformed, mauve

    def row(
        self, who: dict, target: dict[str, str], make: Callable[[], list[str]], starts: Sequence[str] = (),
        others: Sequence[str] = (),
    ) -> dict:
        """Figures of the texts that `make` writes, with the seconds that each took.

        A text without a word is wrong and not well-formed, and not counted in the other figures, such as the shares of
        labels that each judge sees (`judged`). Where texts go on from starts, the first ones, one each, fluency is that
        of start and text together; all else is of the text alone. MAUVE counts texts without a word, and depends on
        how many texts there are: only rows with as many as there are `others`, real ones, have it.
        """
        began = time.monotonic()
        texts = make()
        seconds = time.monotonic() - began
        seconds += who.pop("seconds_before", 0.0) * len(texts)
        starts = list(starts)[: len(texts)] or [""] * len(texts)
        said = [text for text in texts if text.strip()] or ["."]
        found = {name: list(map(str, self.judges[name].predict(texts))) for name in target}
        hits = {name: [one == label and bool(text.strip()) for one, text in zip(found[name], texts, strict=True)]
                for name, label in target.items()}
        every = [all(row) for row in zip(*hits.values(), strict=True)]
        figures: dict[str, Any] = {
            "n": len(texts), "right": sum(every) / len(every), "distinct": metrics.distinct(said),
            "distinct_2": metrics.distinct_ngrams(said, 2),
            **({"self_bleu": metrics.self_bleu(said[:200])} if len(said) > 1 else {}),
            "words": metrics.mean_words(said), "empty": len(texts) - sum(bool(text.strip()) for text in texts),
        }
        if len(target) > 1:
            figures["right_of_each"] = {name: sum(row) / len(row) for name, row in hits.items()}
        figures["judged"] = {name: _shares(row, texts) for name, row in found.items()}
        if self.mauve and len(texts) == len(others):
            figures["mauve"] = self.mauve.mauve(texts, list(others))
        figures |= self._fluency(texts, starts)
        return who | {"target": target} | figures | {"seconds_a_text": seconds / len(texts), "texts": texts[:SHOWN]}

    def _fluency(self, texts: list[str], starts: Sequence[str]) -> dict[str, float]:
        """Of every start with its text; beside it the perplexity of the text given its start."""
        whole = [joined(start, text) for start, text in zip(starts, texts, strict=True)]
        figures = {"well_formed": self.wellformed.share(whole)} if self.wellformed else {}
        if self.fluency:
            said = [text for text in whole if text] or ["."]
            figures["perplexity"] = self.fluency.perplexity(said)["tokens"]
            given = [start for start, text in zip(starts, whole, strict=True) if text]
            if any(given):
                figures["perplexity_of_continuation"] = self._of_continuations(given, said)
        return figures

    def _of_continuations(self, starts: list[str], whole: list[str]) -> float:
        """exp of the mean nats of the tokens behind the starts, over all tokens."""
        judge = self.fluency
        assert judge
        marks = {judge.start, judge.tokenizer.eos_token_id}  # which some tokenizers write around a text
        begun = [[one for one in row if one not in marks] for row in tokenize(judge.tokenizer, starts)]
        (of_all, tokens), (of_starts, before) = judge.losses(whole), token_losses(judge.model, judge.start, begun)
        count = (tokens.sum() - before.sum()).item()
        return math.exp((of_all.sum() - of_starts.sum()).item() / count) if count > 0 else math.nan


def _shares(labels: list[str], texts: list[str]) -> dict[str, float]:
    """The share of each label among those of texts with a word."""
    counts = Counter(label for label, text in zip(labels, texts, strict=True) if text.strip())
    return {label: count / counts.total() for label, count in sorted(counts.items())}


def judge_and_real(
    head: AttributeHead, source: str, kept_from: Sequence[Split] = (), fudged: Sequence[str] = ()
) -> tuple[LabelJudge, dict[str, list[str]]]:
    """A judge of half of the labelled texts, and the other half by label. Raises UserError where the head saw one.

    Args:
        head: whose labels are judged.
        source: the labelled texts.
        kept_from: texts that are measured, which the judge is not fitted on.
        fudged: texts that a rival was fitted on, likewise.
    """
    texts, labels = load_labelled(source)
    check_unseen([head], texts, source)
    real: dict[str, list[str]] = {}
    for text, label in zip(texts[1::2], labels[1::2], strict=True):
        real.setdefault(label, []).append(text)
    others = SeenTexts("rivals", [], [*(start.text for start in kept_from), *fudged])
    return LabelJudge.apart_from([head, others], texts[::2], labels[::2]), real
