"""Every figure of texts that somebody wrote, whoever it was, held against one corpus.

On storyworld the oracle judges, never the head that guided. On other text, where there is no oracle, a classifier
of another kind, fitted on other texts, does; where none was given, a text counts as a success when the label's own
words stand in it, the measure of Diffusion-LM's semantic-content task (Li et al. 2022, section 5).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from latdiff.config import Recipe
from latdiff.data.corpus import Corpus
from latdiff.evaluation import metrics
from latdiff.evaluation.judges import FluencyJudge, LabelJudge, MauveJudge, SimilarityJudge
from latdiff.evaluation.report import BY_WORDS
from latdiff.worlds import Oracle, world

SELF_BLEU_TEXTS = 100


@dataclass(frozen=True)
class Pairs:
    """Unseen source texts, each once, and for each all the texts that belong to it."""

    sources: list[str]
    references: list[list[str]]

    @classmethod
    def of(cls, corpus: Corpus, fits: Callable[[list[str]], list[bool]], most: int) -> Pairs:
        """At most so many of a text-conditional corpus' unseen sources, of those that fit the model."""
        found: dict[str, list[str]] = {}
        for source, text in zip(corpus.valid_conditions, corpus.valid, strict=True):
            found.setdefault(source, []).append(text)
        sources = list(itertools.compress(found, fits(list(found))))[:most]
        return cls(sources, [found[source] for source in sources])

    def figures(self, texts: list[str]) -> dict:
        """What was written for the sources, one text each: BLEU, ROUGE and SARI, beside those of the sources."""
        rows = zip(self.sources, texts, (one[0] for one in self.references), strict=True)
        return {
            "n": len(texts), "references": sum(map(len, self.references)) / len(texts),
            "bleu": metrics.bleu(texts, self.references), "sari": metrics.sari(texts, self.sources, self.references),
            "rouge": metrics.rouge(texts, self.references),
            "bleu_of_sources": metrics.bleu(texts, [[source] for source in self.sources]),
            "sources_as_they_are": metrics.bleu(self.sources, self.references),
            "sari_of_sources": metrics.sari(self.sources, self.sources, self.references),
            "unchanged": metrics.exact_match(texts, self.sources),
            "samples": [list(row) for row in itertools.islice(rows, 10)],
        }


class Scorer:
    """Scores texts against a recipe's corpus.

    Args:
        recipe, corpus: what the texts should be like.
        judges: by the name of the attribute whose success each one judges; none judges where the oracle can.
        fluency: a language model, whose perplexity then stands in every row.
        mauve: a model by whose states MAUVE then compares unsteered texts with unseen ones.
        similarity: an encoder by whose states BERTScore then compares what is written for a source with its references.
    """

    def __init__(
        self, recipe: Recipe, corpus: Corpus, judges: dict[str, LabelJudge] | None = None,
        fluency: FluencyJudge | None = None, mauve: MauveJudge | None = None,
        similarity: SimilarityJudge | None = None,
    ):
        self.recipe, self.corpus = recipe, corpus
        self.judges, self.fluency, self.mauve, self.similarity = judges or {}, fluency, mauve, similarity
        self.training = set(corpus.train)
        self.oracle = world(recipe.data.source)

    @cached_property
    def _four_grams(self) -> set[tuple[str, ...]]:
        return {gram for text in self.training for gram in metrics.ngrams(text, 4)}

    def scorers(self) -> dict:
        """Which models and judges the figures come from."""
        found = {name: judge.path for name, judge in (("fluency", self.fluency), ("mauve", self.mauve)) if judge}
        if self.similarity is not None:
            found["bert_score"] = f"{self.similarity.path}, layer {self.similarity.layer}"
        return found | ({"judges": {name: judge.describe() for name, judge in self.judges.items()}}
                        if self.judges else {})

    def unseen(self, n: int) -> dict:
        """The figures of n unseen texts themselves, and of training texts held against them: what to hope for."""
        texts = self.corpus.valid[:n]
        return self._figures(texts) | self._likeness(self.corpus.train[:n], texts)

    def unsteered(self, texts: list[str]) -> dict:
        """Quality, likeness to the corpus, variety and memorisation of texts that were asked for nothing."""
        return self._figures(texts) | self._likeness(texts, self.corpus.valid)

    def steered(self, texts: list[str], targets: dict[str, str]) -> dict:
        """Success of texts that were asked to have labels, by the name of the attribute, and what it cost."""
        hits, judge = self._hits(texts, targets)
        row = {"n": len(texts), "success": sum(hits) / len(texts), "judge": judge}
        row |= judged(self.oracle, texts, **targets) if self.oracle is not None and judge == "oracle" else {}
        return row | self.fluency_of(texts) | {"distinct": metrics.distinct(texts)}

    def written_for(self, pairs: Pairs, texts: list[str]) -> dict:
        """Figures of what was written for the sources of pairs, one text each."""
        near = {} if self.similarity is None else {"bert_score": self.similarity.f1(texts, pairs.references)}
        return pairs.figures(texts) | near | self.fluency_of(texts)

    def fluency_of(self, texts: list[str]) -> dict[str, float]:
        """Both averages of perplexity; nothing without a language model, or without a token."""
        if self.fluency is None:
            return {}
        measured = self.fluency.perplexity(texts)
        if math.isnan(measured["tokens"]):  # no text has a token
            return {}
        return {"perplexity": measured["tokens"], "perplexity_of_texts": measured["texts"]}

    def _figures(self, texts: list[str]) -> dict:
        return {"n": len(texts)} | (judged(self.oracle, texts) if self.oracle else {}) | self.fluency_of(texts) | {
            "distinct": metrics.distinct(texts),
            "memorised": metrics.memorised(texts, self.training),
            "four_gram_memorisation": metrics.four_gram_memorisation(texts, self._four_grams),
            "diversity": metrics.diversity(texts),
            "distinct_ngrams": {str(n): metrics.distinct_ngrams(texts, n) for n in range(1, 5)},
            "mean_words": metrics.mean_words(texts),
            "word_histogram": metrics.word_histogram(texts),
        } | ({"self_bleu": metrics.self_bleu(texts[:SELF_BLEU_TEXTS])} if len(texts) > 1 else {})

    def _likeness(self, texts: list[str], references: list[str]) -> dict:
        """Figures of texts held against as many references."""
        found = {"brier": metrics.brier(texts, references[: len(texts)])} if len(texts) > 1 else {}
        return found | ({} if self.mauve is None else {"mauve": self.mauve.mauve(texts, references)})

    def _hits(self, texts: list[str], targets: dict[str, str]) -> tuple[list[bool], str]:
        """Whether each text has all the labels, and who says so."""
        if self.oracle and all(label in self.oracle.attributes.get(name, ()) for name, label in targets.items()):
            read = [self.oracle.read(text).attributes for text in texts]
            return [all(found.get(k) == v for k, v in targets.items()) for found in read], "oracle"
        if targets.keys() <= self.judges.keys():
            judges = {name: self.judges[name] for name in targets}
            found = zip(*(judge.predict(texts) for judge in judges.values()), strict=True)
            said = "; ".join(f"{name}: {judge.describe()}" for name, judge in judges.items())
            return [labels == tuple(targets.values()) for labels in found], said
        hits = [all(metrics.holds(text, label) for label in targets.values()) for text in texts]
        return hits, BY_WORDS


def judged(oracle: Oracle, texts: list[str], **attributes: str) -> dict:
    """An oracle's figures; coverage against the corpus given the attributes.

    `coherence` is of all texts, and of the valid ones 1: the oracle calls no other text valid.
    """
    compared = oracle.compare(texts, **attributes).as_dict()
    tv = compared["slot_tv"]
    return {
        "validity": compared["valid"],
        "errors": compared["errors"],
        "slot_tv": {"mean": tv["mean"], "floor": tv["floor"]},
        "coherence": compared["coherence"]["mean"],
        "independence": compared["independence"],
    }
