"""A checkpoint measured: reconstruction, unsteered samples, told ones, steered ones, all in one JSON document.

Who writes is a `generators.Generator`, who scores a `scoring.Scorer`; here they are brought together, row by row.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from latdiff import storyworld
from latdiff.codecs.t5 import TextCodec
from latdiff.data.tokens import IGNORED, labels_of, pad, tokenize
from latdiff.diffusion.gaussian import GaussianDiffusion
from latdiff.diffusion.guidance import Guide
from latdiff.diffusion.modes import MODES
from latdiff.evaluation import metrics
from latdiff.evaluation.generators import BestOf, Generator, PipelineGenerator, TextsGenerator
from latdiff.evaluation.scoring import Pairs, Scorer
from latdiff.heads.attribute import AttributeHead
from latdiff.models.backbone import decoder_logits
from latdiff.pipelines.latent import LatentTextDiffusionPipeline
from latdiff.schedule import add_noise

NOISE_LEVELS = (0.25, 0.5, 1.0)
DENOISING_TIMES = tuple(number / 20 for number in range(2, 20))  # of the noise schedule
CANDIDATES = 5  # of which the best is taken, beside a single one


def reconstruction(
    codec: TextCodec, texts: list[str], seed: int = 0, preset: str = "greedy", bleu: bool = False
) -> dict:
    """Token accuracy (teacher-forced) and exact match of unseen texts, clean and with latent noise of sd 0.25 to 1.

    With `bleu`, which needs the extra `eval`, BLEU against the texts as well. Texts longer than the autoencoder reads
    are counted under `too_long` and left out.
    """
    limit = codec.autoencoder.config.max_tokens
    ids = tokenize(codec.tokenizer, texts)
    fitting = [text for text, row in zip(texts, ids, strict=True) if len(row) <= limit]
    latents = codec.encode(fitting)
    generator = torch.Generator().manual_seed(seed)
    written = {}
    for sd in NOISE_LEVELS:
        eps = torch.randn(latents.shape, generator=generator).to(latents)
        written[str(sd)] = codec.decode(latents + sd * eps, preset=preset)
    clean = codec.decode(latents, preset=preset)
    found = {
        "n": len(fitting),
        "too_long": len(texts) - len(fitting),
        "token_accuracy": token_accuracy(codec, latents, [row for row in ids if len(row) <= limit]),
        "exact_match": metrics.exact_match(clean, fitting),
        "decoding": preset,
        "under_noise": {sd: metrics.exact_match(noisy, fitting) for sd, noisy in written.items()},
    }
    if bleu:
        references = [[text] for text in fitting]
        found["bleu"] = metrics.bleu(clean, references)
        found["bleu_under_noise"] = {sd: metrics.bleu(noisy, references) for sd, noisy in written.items()}
    return found


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


@torch.no_grad()
def denoising(pipe: LatentTextDiffusionPipeline, texts: list[str], seed: int = 0) -> dict:
    """The denoiser's mean squared error on latents of unseen texts, at times from .1 to .95 of the noise schedule.

    1 is to know nothing, for latents are whitened. Where it falls from that towards 0 is decided what a text says, and
    there training should look (`diffusion.times`). Estimates are told an earlier one, as in sampling, and no condition.
    Returns lists of equal length, times, sigma and errors, and n, the texts; those longer than the autoencoder reads
    are left out. Raises codec.TextError where none is left.
    """
    codec, alpha2 = pipe.codec, pipe.scheduler.alphas_cumprod
    x0 = codec.encode(list(itertools.compress(texts, codec.fits(texts))))
    diffusion, generator = GaussianDiffusion(pipe.denoiser), torch.Generator().manual_seed(seed)
    sigma, errors = [], []
    for share in DENOISING_TIMES:
        signal = alpha2[round(share * len(alpha2)) - 1].expand(len(x0))
        z = add_noise(x0, torch.randn(x0.shape, generator=generator).to(x0), signal.to(x0))
        estimates = [
            diffusion.denoise(rows, at, None, diffusion.denoise(rows, at))
            for rows, at in zip(z.split(256), signal.split(256), strict=True)
        ]
        sigma.append((1 - signal[0]).sqrt().item())
        errors.append((torch.cat(estimates) - x0).square().mean().item())
    return {"n": len(x0), "times": list(DENOISING_TIMES), "sigma": sigma, "errors": errors}


def unsteered(generator: Generator, scorer: Scorer, n: int, seed: int) -> dict:
    """One row: quality, coverage and memorisation of n texts that nothing was asked of, and how fast they came."""
    began = time.monotonic()
    ours = generator.write(None, n, seed) if isinstance(generator, PipelineGenerator) else None
    texts = generator.generate(None, n, seed) if ours is None else ours.texts
    seconds = time.monotonic() - began
    row = generator.settings | scorer.unsteered(texts) | {"samples": texts[:20]}
    if ours is not None:
        distances = generator.pipe.codec.round_trip(ours.latents, texts)
        read = distances.isfinite()
        row |= {"round_trip": distances[read].mean().item()} if read.any() else {}
    if isinstance(generator, TextsGenerator):  # which only read them
        return row
    return row | {"seconds": round(seconds, 1), "texts_per_second": n / seconds}


def by_class(generator: Generator, scorer: Scorer, n: int, seed: int) -> list[dict]:
    """A row for every class of the corpus that a generator can be told, which share n texts, one each at least."""
    name, classes = scorer.recipe.data.condition_column, scorer.corpus.classes
    share, rows = max(1, n // len(classes)), []
    for label in classes:
        texts = generator.generate([label] * share, share, seed)
        row = {"attribute": name, "target": label} | generator.settings | scorer.steered(texts, {name: label})
        rows.append(row | {"samples": texts[:10]})
    return rows


def reranked(
    generator: Generator, scorer: Scorer, n: int, seed: int, codec: TextCodec, sets: list[list[AttributeHead]], k: int
) -> list[dict]:
    """A row for every combination of one label from each head of a set; those of a set share n texts, the best of k.

    All choose among the same texts, written and read once, as steered ones start from the same noise.
    """
    combinations = [list(itertools.product(*(map(str, head.classes_) for head in heads))) for heads in sets]
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
    ) -> dict:
        """The document: unsteered samples of each sampler, told ones, steered ones, and pairs of heads.

        `sweep`, if given, adds control against fluency at these scales, or, where it is empty, at those around usual.
        """
        corpus = self.scorer.corpus
        found: dict = {"unconditional": [self.unconditional(name, steps) for name, steps in samplers]}
        if corpus.classes:
            found["by_class"] = [row for weight in guidance_scales for row in self.by_class(weight)]
        elif corpus.valid_conditions:
            found["by_source"] = [self.by_source(weight, k) for weight in guidance_scales for k in (1, CANDIDATES)]
        found["guided"] = [row for head in heads for row in self.guided(head, scale)]
        if sweep is not None:
            found["sweep"] = [row for head in heads for row in self.sweep_modes(head, sweep)]
        pairs = itertools.combinations(heads, 2)
        return found | {"composed": [row for pair in pairs for row in self.composed(list(pair), scale)]}

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

    def sweep(self, head: AttributeHead, mode: str, scales: list[float]) -> list[dict]:
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
        """Stories of the oracle's world, each with its label changed to the next one of the head.

        `kept` is the mean share of a story's slots that are the same afterwards; of a changed sentiment, all
        but outcome and feeling, which have to change with it.
        """
        bound = {"sentiment": ("outcome", "feeling")}.get(head.name, ())
        labels, rows = list(map(str, head.classes_)), []
        share = max(1, self.num_samples // len(labels))
        for index, label in enumerate(labels):
            guide = head.toward(labels[(index + 1) % len(labels)], scale, mode)
            stories = storyworld.sample(share, self.seed + 1000, **{head.name: label})
            generator = torch.Generator().manual_seed(self.seed)
            texts = self.pipe.edit([s.text for s in stories], [guide], strength, generator=generator).texts
            rows += [_edited(before, text, guide, bound) for before, text in zip(stories, texts, strict=True)]
        means = {key: sum(row[key] for row in rows) / len(rows) for key in ("success", "validity", "kept")}
        return {"attribute": head.name, "strength": strength, "scale": guide.scale, "mode": guide.mode,
                "n": len(rows), **means, "samples": [[row["before"], row["after"]] for row in rows[:5]]}

    def composed(self, heads: list[AttributeHead], scale: float | None = None, mode: str = "x0") -> list[dict]:
        """A row for every combination of one label from each of the heads."""
        combinations = list(itertools.product(*(map(str, head.classes_) for head in heads)))
        share = max(1, self.num_samples // len(combinations))
        rows = []
        for labels in combinations:
            guides = [head.toward(label, scale, mode) for head, label in zip(heads, labels, strict=True)]
            targets = {head.name: label for head, label in zip(heads, labels, strict=True)}
            row = {"targets": targets, "scale": guides[0].scale, "mode": guides[0].mode}
            rows.append(row | self._steered(targets, guides, share))
        return rows

    def by_class(self, guidance_scale: float) -> list[dict]:
        """A row for every class that the denoiser can be told, at this scale of classifier-free guidance."""
        generator = PipelineGenerator(self.pipe, keep=self.keep, guidance_scale=guidance_scale)
        rows = by_class(generator, self.scorer, self.num_samples, self.seed)
        return [row | {"guidance_scale": guidance_scale} for row in rows]

    def by_source(self, guidance_scale: float, candidates: int) -> dict:
        """One row: what is written for unseen sources, held against the texts that belong to them."""
        pairs = Pairs.of(self.scorer.corpus, self.pipe.codec.fits, self.num_samples)
        told = {"guidance_scale": guidance_scale, "candidates": candidates}
        texts = PipelineGenerator(self.pipe, **told).generate(pairs.sources, len(pairs.sources), self.seed)
        return told | self.scorer.written_for(pairs, texts)

    def _steered(self, targets: dict[str, str], guides: list[Guide], n: int) -> dict:
        texts = PipelineGenerator(self.pipe, guides=guides, keep=self.keep).generate(None, n, self.seed)
        return self.scorer.steered(texts, targets) | {"samples": texts[:10]}


def _edited(before: storyworld.Story, after: str, guide: Guide, bound: tuple[str, ...]) -> dict:
    reading = storyworld.read(after)
    slots = [name for name in before.slots if name not in bound]
    return {
        "before": before.text, "after": after, "validity": reading.valid,
        "success": reading.attributes.get(guide.head.name) == guide.head.describe(guide.target),
        "kept": sum(reading.slots.get(name) == before.slots[name] for name in slots) / len(slots),
    }
