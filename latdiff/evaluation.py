"""A checkpoint measured: reconstruction, unconditional samples, steered samples, all in one JSON document.

On storyworld the oracle judges, never the head that guided. On other text, where there is no oracle, a classifier
of another kind, fitted on other texts, does; where none was given, a steered sample counts as a success when the
label's own words stand in the text, the measure of Diffusion-LM's semantic-content task (Li et al. 2022, section 5).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latdiff import metrics, storyworld
from latdiff.backbone import decoder_logits
from latdiff.codec import TextCodec
from latdiff.config import MODES, Recipe
from latdiff.data import Corpus
from latdiff.guidance import Guide
from latdiff.heads import AttributeHead
from latdiff.judges import CrowdJudge, FluencyJudge, LabelJudge
from latdiff.pipeline import LatentTextDiffusionPipeline, make_scheduler
from latdiff.tokens import IGNORED, labels_of, pad, tokenize

NOISE_LEVELS = (0.25, 0.5, 1.0)
CANDIDATES = 5  # of which the best is taken, beside a single one


def reconstruction(codec: TextCodec, texts: list[str], seed: int = 0, preset: str = "greedy") -> dict:
    """Token accuracy (teacher-forced) and exact match of unseen texts, clean and with latent noise of sd 0.25 to 1.

    Texts longer than the autoencoder reads are counted under `too_long` and left out.
    """
    limit = codec.autoencoder.config.max_tokens
    ids = tokenize(codec.tokenizer, texts)
    fitting = [text for text, row in zip(texts, ids, strict=True) if len(row) <= limit]
    latents = codec.encode(fitting)
    generator = torch.Generator().manual_seed(seed)
    under_noise = {}
    for sd in NOISE_LEVELS:
        eps = torch.randn(latents.shape, generator=generator).to(latents)
        under_noise[str(sd)] = metrics.exact_match(codec.decode(latents + sd * eps, preset=preset), fitting)
    return {
        "n": len(fitting),
        "too_long": len(texts) - len(fitting),
        "token_accuracy": token_accuracy(codec, latents, [row for row in ids if len(row) <= limit]),
        "exact_match": metrics.exact_match(codec.decode(latents, preset=preset), fitting),
        "decoding": preset,
        "under_noise": under_noise,
    }


@torch.no_grad()
def token_accuracy(codec: TextCodec, latents: Tensor, ids: list[list[int]]) -> float:
    """Share of tokens that the decoder ranks first given the right ones before, for latents [B, L, D]."""
    right = total = 0
    for start in range(0, len(ids), 256):
        chunk, rows = latents[start : start + 256], ids[start : start + 256]
        labels = labels_of(*pad(rows, codec.tokenizer.pad_token_id)).to(chunk.device)
        guessed = decoder_logits(codec.text_model, codec.autoencoder.reconstruct(chunk), labels).argmax(-1)
        right += int(((guessed == labels) & (labels != IGNORED)).sum())
        total += int((labels != IGNORED).sum())
    return right / total


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
        """What was written for the sources, one text each: BLEU and SARI, beside those of the sources as they are."""
        rows = zip(self.sources, texts, (one[0] for one in self.references), strict=True)
        return {
            "n": len(texts), "references": sum(map(len, self.references)) / len(texts),
            "bleu": metrics.bleu(texts, self.references), "sari": metrics.sari(texts, self.sources, self.references),
            "bleu_of_sources": metrics.bleu(texts, [[source] for source in self.sources]),
            "sources_as_they_are": metrics.bleu(self.sources, self.references),
            "sari_of_sources": metrics.sari(self.sources, self.sources, self.references),
            "unchanged": metrics.exact_match(texts, self.sources),
            "samples": [list(row) for row in itertools.islice(rows, 10)],
        }  # fmt: skip


class Evaluation:
    """Measures one pipeline on one corpus; every method returns rows of figures.

    Args:
        pipe, recipe, corpus: the checkpoint and what it was trained on.
        num_samples: texts a figure; shared among the labels of a head.
        seed: every sampling run starts from its own generator with this seed.
        judges: by the name of the head whose success each one judges; none judges where the oracle can.
        fluency: a language model, whose perplexity then stands in every row.
    """

    def __init__(
        self, pipe: LatentTextDiffusionPipeline, recipe: Recipe, corpus: Corpus, num_samples: int, seed: int,
        judges: dict[str, LabelJudge] | None = None, fluency: FluencyJudge | None = None,
        crowds: CrowdJudge | None = None,
    ):  # fmt: skip
        self.pipe, self.recipe, self.corpus = pipe, recipe, corpus
        self.num_samples, self.seed = num_samples, seed
        self.judges, self.fluency, self.crowds = judges or {}, fluency, crowds
        self.training = set(corpus.train)
        self.has_oracle = recipe.data.source == "storyworld"

    def everything(
        self, heads: list[AttributeHead], samplers: list[tuple[str, int]], scale: float | None = None,
        sweep: list[float] | None = None, guidance_scales: Sequence[float] = (1.0, 2.0),
    ) -> dict:  # fmt: skip
        """The document: reconstruction, unsteered samples of each sampler, told ones, steered ones, and pairs of heads.

        `sweep`, if given, adds control against fluency at these scales, or, where it is empty, at those around usual.
        """
        unseen = self.corpus.valid[: self.num_samples]
        found: dict = {"reconstruction": reconstruction(self.pipe.codec, unseen, self.seed, self.pipe.config.decoding)}
        if self.fluency is not None:
            found["fluency"] = {"model": self.fluency.path, "n": len(unseen)} | self.fluency.perplexity(unseen)
        if self.crowds is not None:
            found["mauve"] = {"model": self.crowds.path, "n": min(len(unseen), len(self.corpus.train)),
                              "training_texts": self.crowds.mauve(self.corpus.train, unseen)}  # fmt: skip
        if self.judges:
            found["judges"] = {name: judge.describe() for name, judge in self.judges.items()}
        found["unconditional"] = [self.unconditional(name, steps) for name, steps in samplers]
        if self.corpus.classes:
            found["by_class"] = [row for weight in guidance_scales for row in self.by_class(weight)]
        elif self.corpus.valid_conditions:
            found["by_source"] = [self.by_source(weight, k) for weight in guidance_scales for k in (1, CANDIDATES)]
        found["guided"] = [row for head in heads for row in self.guided(head, scale)]
        if sweep is not None:
            found["sweep"] = [row for head in heads for row in self.sweep_modes(head, sweep)]
        pairs = itertools.combinations(heads, 2)
        return found | {"composed": [row for pair in pairs for row in self.composed(list(pair), scale)]}

    def unconditional(self, scheduler: str, steps: int) -> dict:
        """One row: quality, coverage and memorisation of unsteered samples under one scheduler."""
        own = self.pipe.scheduler
        self.pipe.scheduler = make_scheduler(scheduler, own.config.trained_betas)
        began = time.monotonic()
        texts = self._sample(self.num_samples, [], steps)
        seconds = round(time.monotonic() - began, 1)
        self.pipe.scheduler = own
        row = {"scheduler": scheduler, "steps": steps, "n": len(texts)}
        if self.has_oracle:
            row |= _judged(texts)
        if self.crowds is not None:
            row["mauve"] = self.crowds.mauve(texts, self.corpus.valid)
        return row | self._fluency(texts) | {
            "distinct": metrics.distinct(texts),
            "memorised": metrics.memorised(texts, self.training),
            "four_gram_memorisation": metrics.four_gram_memorisation(texts, self.training),
            "diversity": metrics.diversity(texts),
            "mean_words": metrics.mean_words(texts),
            "seconds": seconds,
            "samples": texts[:20],
        }

    def guided(self, head: AttributeHead, scale: float | None = None, mode: str = "x0") -> list[dict]:
        """A row for every label of a head; scale None is the head's usual one."""
        share = max(1, self.num_samples // len(head.labels))
        rows = []
        for label in head.labels:
            guide = head.toward(label, scale, mode)
            row = {"attribute": head.name, "target": label, "scale": guide.scale, "mode": guide.mode}
            rows.append(row | self._steered({head.name: label}, [guide], share))
        return rows

    def sweep(self, head: AttributeHead, mode: str, scales: list[float]) -> list[dict]:
        """Control against fluency: a row for every scale, the means over the head's labels."""
        rows = []
        for scale in scales:
            of_labels = self.guided(head, scale, mode)
            row = {"attribute": head.name, "mode": mode, "scale": scale, "n": sum(row["n"] for row in of_labels)}
            row |= {"success": metrics.mean_of(of_labels, "success"), "worst": min(row["success"] for row in of_labels),
                    "distinct": metrics.mean_of(of_labels, "distinct")}  # fmt: skip
            if "validity" in of_labels[0]:
                row["validity"] = metrics.mean_of(of_labels, "validity")
                floors = [row["slot_tv"]["mean"] / row["slot_tv"]["floor"] for row in of_labels]
                row["slot_tv_floors"] = sum(floors) / len(floors)
            if "perplexity" in of_labels[0]:
                row["perplexity"] = metrics.mean_of(of_labels, "perplexity")
            rows.append(row)
        return rows

    def sweep_modes(self, head: AttributeHead, scales: Sequence[float]) -> list[dict]:
        """`sweep` in every mode that the head can be read in; without scales, a quarter to four times the usual one."""
        modes = [mode for mode in MODES if mode != "noisy" or head.noise_aware]
        around = {mode: [head.usual_scale(mode) * times for times in (0.25, 0.5, 1, 2, 4)] for mode in modes}
        return [row for mode in modes for row in self.sweep(head, mode, scales or around[mode])]

    def edited(self, head: AttributeHead, strength: float, scale: float | None = None, mode: str = "x0") -> dict:
        """Stories of the oracle's world, each with its label changed to the next one of the head.

        `kept` is the mean share of a story's slots that are the same afterwards; of a changed sentiment, all
        but outcome and feeling, which have to change with it.
        """
        bound = {"sentiment": ("outcome", "feeling")}.get(head.name, ())
        share, rows = max(1, self.num_samples // len(head.labels)), []
        for index, label in enumerate(head.labels):
            guide = head.toward(head.labels[(index + 1) % len(head.labels)], scale, mode)
            stories = storyworld.sample(share, self.seed + 1000, **{head.name: label})
            generator = torch.Generator().manual_seed(self.seed)
            texts = self.pipe.edit([s.text for s in stories], [guide], strength, generator=generator).texts
            rows += [_edited(before, text, guide, bound) for before, text in zip(stories, texts, strict=True)]
        means = {key: sum(row[key] for row in rows) / len(rows) for key in ("success", "validity", "kept")}
        return {"attribute": head.name, "strength": strength, "scale": guide.scale, "mode": guide.mode,
                "n": len(rows), **means, "samples": [[row["before"], row["after"]] for row in rows[:5]]}  # fmt: skip

    def composed(self, heads: list[AttributeHead], scale: float | None = None, mode: str = "x0") -> list[dict]:
        """A row for every combination of one label from each of the heads."""
        combinations = list(itertools.product(*(head.labels for head in heads)))
        share = max(1, self.num_samples // len(combinations))
        rows = []
        for labels in combinations:
            guides = [head.toward(label, scale, mode) for head, label in zip(heads, labels, strict=True)]
            targets = {head.name: label for head, label in zip(heads, labels, strict=True)}
            row = {"targets": targets, "scale": guides[0].scale, "mode": guides[0].mode}
            rows.append(row | self._steered(targets, guides, share))
        return rows

    def by_class(self, guidance_scale: float) -> list[dict]:
        """A row for every class that the denoiser can be told."""
        share, name, rows = max(1, self.num_samples // len(self.corpus.classes)), self.recipe.data.condition_column, []
        for label in self.corpus.classes:
            texts = self._sample(share, [], None, cond=label, guidance_scale=guidance_scale)
            row = {"attribute": name, "target": label, "guidance_scale": guidance_scale}
            rows.append(row | self._success(texts, {name: label}))
        return rows

    def by_source(self, guidance_scale: float, candidates: int) -> dict:
        """One row: what is written for unseen sources, held against the texts that belong to them."""
        pairs = Pairs.of(self.corpus, self.pipe.codec.fits, self.num_samples)
        told = {"cond": pairs.sources, "guidance_scale": guidance_scale, "candidates": candidates}
        texts = self._sample(len(pairs.sources), [], None, **told)
        row = {"guidance_scale": guidance_scale, "candidates": candidates}
        return row | pairs.figures(texts) | self._fluency(texts)

    def _steered(self, targets: dict[str, str], guides: list[Guide], n: int) -> dict:
        return self._success(self._sample(n, guides, None), targets)

    def _success(self, texts: list[str], targets: dict[str, str]) -> dict:
        hits, judge = self._hits(texts, targets)
        row = {"n": len(texts), "success": sum(hits) / len(texts), "judge": judge}
        row |= _judged(texts, **targets) if judge == "oracle" else {}
        return row | self._fluency(texts) | {"distinct": metrics.distinct(texts), "samples": texts[:10]}

    def _hits(self, texts: list[str], targets: dict[str, str]) -> tuple[list[bool], str]:
        """Whether each text has all the labels, and who says so."""
        if self.has_oracle and all(label in storyworld.ATTRIBUTES.get(name, ()) for name, label in targets.items()):
            read = [storyworld.read(text).attributes for text in texts]
            return [all(found.get(k) == v for k, v in targets.items()) for found in read], "oracle"
        if targets.keys() <= self.judges.keys():
            judges = {name: self.judges[name] for name in targets}
            found = zip(*(judge.predict(texts) for judge in judges.values()), strict=True)
            said = "; ".join(f"{name}: {judge.describe()}" for name, judge in judges.items())
            return [labels == tuple(targets.values()) for labels in found], said
        hits = [all(metrics.holds(text, label) for label in targets.values()) for text in texts]
        return hits, "the label's words stand in the text"

    def _fluency(self, texts: list[str]) -> dict[str, float]:
        if self.fluency is None:
            return {}
        measured = self.fluency.perplexity(texts)
        return {"perplexity": measured["tokens"], "perplexity_of_texts": measured["texts"]}

    def _sample(self, n: int, guides: list[Guide], steps: int | None, **told) -> list[str]:
        generator = torch.Generator().manual_seed(self.seed)
        return self.pipe(num_samples=n, guides=guides, num_inference_steps=steps, generator=generator, **told).texts


def _edited(before: storyworld.Story, after: str, guide: Guide, bound: tuple[str, ...]) -> dict:
    reading = storyworld.read(after)
    slots = [name for name in before.slots if name not in bound]
    return {
        "before": before.text, "after": after, "validity": reading.valid,
        "success": reading.attributes.get(guide.head.name) == guide.head.describe(guide.target),
        "kept": sum(reading.slots.get(name) == before.slots[name] for name in slots) / len(slots),
    }  # fmt: skip


def _judged(texts: list[str], **attributes: str) -> dict:
    """The oracle's figures; coverage against the corpus given the attributes."""
    compared = storyworld.compare(texts, **attributes).as_dict()
    tv = compared["slot_tv"]
    return {
        "validity": compared["valid"],
        "errors": compared["errors"],
        "slot_tv": {"mean": tv["mean"], "floor": tv["floor"]},
    }
