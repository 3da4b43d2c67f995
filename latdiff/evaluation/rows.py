"""A checkpoint measured: reconstruction, unconditional, conditional and steered samples, all in one JSON document.

A `generators.Generator` writes, a `scoring.Scorer` scores; here they are brought together, row by row.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from latdiff.codecs.protocol import Codec
from latdiff.diffusion.gaussian import GaussianDiffusion
from latdiff.diffusion.guidance import Guide
from latdiff.diffusion.modes import MODES
from latdiff.errors import UserError, check_whole
from latdiff.evaluation import metrics
from latdiff.evaluation.generators import BestOf, Generator, PipelineGenerator
from latdiff.evaluation.scoring import Pairs, Scorer
from latdiff.heads.attribute import AttributeHead
from latdiff.pipelines.latent import LatentTextDiffusionPipeline
from latdiff.schedule import add_noise
from latdiff.worlds import Oracle, SampledText

NOISE_LEVELS = (0.25, 0.5, 1.0)
DENOISING_TIMES = tuple(number / 20 for number in range(2, 20))  # of the noise schedule
MOST_COMBINATIONS = 100  # of labels, that are measured of two heads; two of a hundred labels have 10,000
CANDIDATES = 5  # of which the best is taken, beside a single one
Sections = dict[str, list[Callable[[], dict | list[dict]]]]  # of a document: what measures a row or some, by itself


def reconstruction(
    codec: Codec, texts: list[str], seed: int = 0, preset: str | None = None, bleu: bool = False
) -> dict:
    """What comes back of unseen texts, from clean latents and from latents with noise of sd 0.25 to 1.

    Args:
        codec: any.
        texts: N of them; those that the codec cannot read are counted under `too_long` and left out.
        seed: of the noise.
        preset: of the codec's (default: its first).
        bleu: BLEU against the texts as well, which needs the extra `eval`.

    Returns:
        Exact match, and token accuracy (teacher-forced) of a codec that decodes token by token.
    """
    fitting = list(itertools.compress(texts, codec.fits(texts)))
    options: dict[str, Any] = {"preset": preset or codec.presets[0]} if codec.presets else {}
    latents = codec.encode(fitting)
    accuracy = codec.token_accuracy(latents, fitting)
    found: dict[str, Any] = {"n": len(fitting), "too_long": len(texts) - len(fitting)}
    found |= {} if accuracy is None else {"token_accuracy": accuracy}
    found |= {"decoding": options.get("preset")}
    return found | coming_back(partial(codec.decode, **options), latents, fitting, seed, bleu)


def coming_back(
    read: Callable[[Tensor], list[str]], latents: Tensor, texts: list[str], seed: int = 0, bleu: bool = False
) -> dict[str, Any]:
    """How many of B texts come back of their latents, clean ones and ones with noise of sd 0.25 to 1.

    Args:
        read: latents [B, L, D] to B texts.
        latents: of the texts, [B, L, D].
        texts: B of them.
        seed: of the noise.
        bleu: BLEU against the texts as well, which needs the extra `eval`.
    """
    generator, written = torch.Generator().manual_seed(seed), {}
    for sd in NOISE_LEVELS:
        eps = torch.randn(latents.shape, generator=generator).to(latents)
        written[str(sd)] = read(latents + sd * eps)
    clean = read(latents)
    found: dict[str, Any] = {
        "exact_match": metrics.exact_match(clean, texts),
        "under_noise": {sd: metrics.exact_match(noisy, texts) for sd, noisy in written.items()},
    }
    if bleu:
        references = [[text] for text in texts]
        found["bleu"] = metrics.bleu(clean, references)
        found["bleu_under_noise"] = {sd: metrics.bleu(noisy, references) for sd, noisy in written.items()}
    return found


@torch.no_grad()
def denoising(pipe: LatentTextDiffusionPipeline, texts: list[str], seed: int = 0, batch_size: int = 256) -> dict:
    """The denoiser's mean squared error on latents of unseen texts, at times from .1 to .95 of the noise schedule.

    An error of 1 is that of no knowledge, for latents are whitened. Where it falls from there towards 0, what a text
    says is decided, and there training should look (`diffusion.times`). As in sampling, an estimate is conditioned on
    an earlier one; it has no other condition.

    Args:
        pipe: whose denoiser is measured, in the pipeline's own dtype.
        texts: unseen ones; those that the codec cannot read are left out.
        seed: of the noise.
        batch_size: latents estimated at once.

    Returns:
        Lists of equal length, `times`, `sigma` and `errors`, and `n`, the texts.

    Raises:
        TextError: Where no text is left.
    """
    codec, alpha2, batch_size = pipe.codec, pipe.scheduler.alphas_cumprod, check_whole("batch_size", batch_size)
    x0 = codec.encode(list(itertools.compress(texts, codec.fits(texts))))
    diffusion = GaussianDiffusion(pipe.denoiser, dtype=pipe.config.dtype)
    generator = torch.Generator().manual_seed(seed)
    sigma, errors = [], []
    for share in DENOISING_TIMES:
        signal = alpha2[round(share * len(alpha2)) - 1].expand(len(x0))
        z = add_noise(x0, torch.randn(x0.shape, generator=generator).to(x0), signal.to(x0))
        estimates = [
            diffusion.denoise(rows, at, None, diffusion.denoise(rows, at))
            for rows, at in zip(z.split(batch_size), signal.split(batch_size), strict=True)
        ]
        sigma.append((1 - signal[0]).sqrt().item())
        errors.append((torch.cat(estimates) - x0).square().mean().item())
    return {"n": len(x0), "times": list(DENOISING_TIMES), "sigma": sigma, "errors": errors}


def unsteered(generator: Generator, scorer: Scorer, n: int, seed: int) -> dict:
    """One row: quality, coverage and memorisation of n unconditional texts, and how fast they were written."""
    texts, figures = generator.measured(n, seed)
    return generator.settings | scorer.unsteered(texts) | {"samples": texts[:20]} | figures


def by_class(generator: Generator, scorer: Scorer, n: int, seed: int) -> list[dict]:
    """A row for every class of the corpus, by a generator that knows them; they share n texts, one each at least."""
    name, classes = scorer.recipe.data.condition_column, scorer.corpus.classes
    share, rows = max(1, n // len(classes)), []
    for label in classes:
        texts = generator.generate([label] * share, share, seed)
        row = {"attribute": name, "target": label} | generator.settings | scorer.steered(texts, {name: label})
        rows.append(row | {"samples": texts[:10]})
    return rows


def label_combinations(heads: list[AttributeHead], seed: int) -> list[tuple[str, ...]]:
    """All combinations of one label from each head; where they are too many, some, drawn at random."""
    found = list(itertools.product(*(map(str, head.classes_) for head in heads)))
    many = len(found) > MOST_COMBINATIONS
    return random.Random(f"{seed}/labels").sample(found, MOST_COMBINATIONS) if many else found


def reranked(
    generator: Generator, scorer: Scorer, n: int, seed: int, codec: Codec, sets: list[list[AttributeHead]], k: int
) -> list[dict]:
    """A row for each of the `label_combinations` of a set of heads; those of a set share n texts, the best of k.

    All choose among the same texts, written and read once, as steered ones start from the same noise.
    """
    combinations = [label_combinations(heads, seed) for heads in sets]
    shares = [max(1, n // len(labels)) for labels in combinations]
    written, rows = BestOf(generator.generate(None, max(shares) * k, seed), codec, k), []
    for heads, of_set, share in zip(sets, combinations, shares, strict=True):
        for labels in of_set:
            texts = written.toward([head.toward(label) for head, label in zip(heads, labels, strict=True)])[:share]
            targets = {head.name: label for head, label in zip(heads, labels, strict=True)}
            row = {"targets": targets} | generator.settings | {"best_of": k}
            rows.append(row | scorer.steered(texts, targets) | {"samples": texts[:10]})
    return rows


class Evaluation:
    """Measures one pipeline on one corpus; every method returns rows of figures.

    Args:
        pipe: the checkpoint.  scorer: of the corpus that it was trained on.
        num_samples: texts a figure; shared among the labels of a head.
        seed: every sampling run starts from its own generator with this seed.
        keep: of all texts but those that are written for a source, as of a call of the pipeline.
    """

    def __init__(
        self, pipe: LatentTextDiffusionPipeline, scorer: Scorer, num_samples: int, seed: int, keep: float = 1.0
    ):
        self.pipe, self.scorer, self.num_samples, self.seed, self.keep = pipe, scorer, num_samples, seed, keep

    def everything(
        self, heads: list[AttributeHead], samplers: list[tuple[str, int]], scale: float | None = None,
        sweep: list[float] | None = None, guidance_scales: Sequence[float] = (1.0, 2.0),
    ) -> Sections:
        """The document: unconditional samples of each sampler, conditional and steered ones, and pairs of heads.

        `sweep`, if given, adds control against fluency at these scales, or, where it is empty, at those around usual.
        """
        corpus = self.scorer.corpus
        found: Sections = {"unconditional": [partial(self.unconditional, *sampler) for sampler in samplers]}
        if corpus.classes:
            found["by_class"] = [partial(self.by_class, weight) for weight in guidance_scales]
        elif corpus.valid_conditions:
            found["by_source"] = [partial(self.by_source, weight, k) for weight in guidance_scales
                                  for k in (1, CANDIDATES)]
        found["guided"] = [partial(self.guided, head, scale) for head in heads]
        if sweep is not None:
            found["sweep"] = [partial(self.sweep_modes, head, sweep) for head in heads]
        pairs = itertools.combinations(heads, 2)
        return found | {"composed": [partial(self.composed, list(pair), scale) for pair in pairs]}

    def unconditional(self, scheduler: str, steps: int) -> dict:
        """`unsteered` under one scheduler."""
        generator = PipelineGenerator(self.pipe, scheduler, steps, keep=self.keep)
        return unsteered(generator, self.scorer, self.num_samples, self.seed)

    def guided(self, head: AttributeHead, scale: float | None = None, mode: str = "x0") -> list[dict]:
        """A row for every label of a head; scale None is the head's usual one."""
        labels, rows = list(map(str, head.classes_)), []
        share = max(1, self.num_samples // len(labels))
        for label in labels:
            guide = head.toward(label, scale, mode)
            row = {"attribute": head.name, "target": label, "scale": guide.scale, "mode": guide.mode}
            rows.append(row | self._steered({head.name: label}, [guide], share))
        return rows

    def sweep(self, head: AttributeHead, mode: str, scales: Sequence[float]) -> list[dict]:
        """Control against fluency: a row for every scale, the means over the head's labels."""
        rows = []
        for scale in scales:
            of_labels = self.guided(head, scale, mode)
            row = {"attribute": head.name, "mode": mode, "scale": scale, "n": sum(row["n"] for row in of_labels)}
            row |= {"success": metrics.mean_of(of_labels, "success"), "worst": min(row["success"] for row in of_labels),
                    "distinct": metrics.mean_of(of_labels, "distinct")}
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
        """Texts of the oracle's world, each with its label changed to the next one of the head.

        `kept` is the mean share of a text's slots that are the same afterwards, but for those that have to change with
        the attribute (`Oracle.bound`).

        Raises:
            UserError: For a corpus without an oracle.
        """
        if (oracle := self.scorer.oracle) is None:
            raise UserError(f"{self.scorer.recipe.data.source} has no oracle, which says what an edit kept")
        labels, rows = list(map(str, head.classes_)), []
        share = max(1, self.num_samples // len(labels))
        for index, label in enumerate(labels):
            guide = head.toward(labels[(index + 1) % len(labels)], scale, mode)
            drawn = oracle.sample(share, self.seed + 1000, **{head.name: label})
            generator = torch.Generator().manual_seed(self.seed)
            texts = self.pipe.edit([one.text for one in drawn], [guide], strength, generator=generator).texts
            rows += [_edited(oracle, before, text, guide) for before, text in zip(drawn, texts, strict=True)]
        means = {key: sum(row[key] for row in rows) / len(rows) for key in ("success", "validity", "kept")}
        return {"attribute": head.name, "strength": strength, "scale": guide.scale, "mode": guide.mode,
                "n": len(rows), **means, "samples": [[row["before"], row["after"]] for row in rows[:5]]}

    def composed(self, heads: list[AttributeHead], scale: float | None = None, mode: str = "x0") -> list[dict]:
        """A row for every one of `label_combinations`."""
        combinations = label_combinations(heads, self.seed)
        share = max(1, self.num_samples // len(combinations))
        rows = []
        for labels in combinations:
            guides = [head.toward(label, scale, mode) for head, label in zip(heads, labels, strict=True)]
            targets = {head.name: label for head, label in zip(heads, labels, strict=True)}
            row = {"targets": targets, "scale": guides[0].scale, "mode": guides[0].mode}
            rows.append(row | self._steered(targets, guides, share))
        return rows

    def by_class(self, guidance_scale: float) -> list[dict]:
        """A row for every class that the denoiser knows, at this scale of classifier-free guidance."""
        generator = PipelineGenerator(self.pipe, keep=self.keep, guidance_scale=guidance_scale)
        rows = by_class(generator, self.scorer, self.num_samples, self.seed)
        return [row | {"guidance_scale": guidance_scale} for row in rows]

    def by_source(self, guidance_scale: float, candidates: int) -> dict:
        """One row: what is written for unseen sources, held against the texts that belong to them."""
        pairs = Pairs.of(self.scorer.corpus, self.pipe.codec.fits, self.num_samples)
        settings: dict[str, Any] = {"guidance_scale": guidance_scale, "candidates": candidates}
        texts = PipelineGenerator(self.pipe, **settings).generate(pairs.sources, len(pairs.sources), self.seed)
        return settings | self.scorer.written_for(pairs, texts)

    def _steered(self, targets: dict[str, str], guides: list[Guide], n: int) -> dict:
        texts = PipelineGenerator(self.pipe, guides=guides, keep=self.keep).generate(None, n, self.seed)
        return self.scorer.steered(texts, targets) | {"samples": texts[:10]}


def _edited(oracle: Oracle, before: SampledText, after: str, guide: Guide) -> dict:
    reading, bound = oracle.read(after), oracle.bound.get(guide.head.name, ())
    slots = [name for name in before.slots if name not in bound]
    return {
        "before": before.text, "after": after, "validity": reading.valid,
        "success": reading.attributes.get(guide.head.name) == guide.head.describe(guide.target),
        "kept": sum(reading.slots.get(name) == before.slots[name] for name in slots) / len(slots),
    }
