"""Who writes texts? Our pipeline, a language model, a file: each behind one `generate(prompts, n, seed)`.

Whatever has that method can be measured by `evaluation`, so that a rival is held to the same figures.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from latdiff.codecs.t5 import TextCodec
from latdiff.data.corpus import load_texts
from latdiff.diffusion.guidance import Guide
from latdiff.diffusion.noise import streams
from latdiff.diffusion.sampling import make_scheduler
from latdiff.errors import UserError
from latdiff.evaluation.judges import LONGEST
from latdiff.lm import causal_language_model, class_prefix, write
from latdiff.pipelines.latent import LatentTextDiffusionPipeline
from latdiff.pipelines.output import TextPipelineOutput, check_guides, scores


class Generator(Protocol):
    """Anything that writes texts.

    Attributes:
        settings: what stands beside its figures, such as a sampler's name and steps.
        classes: that it was trained to be told; none for most.
    """

    settings: dict
    classes: list[str]

    def generate(self, prompts: Sequence[str] | None, n: int, seed: int) -> list[str]:
        """n texts, told `prompts`, a class or a source text for each, or nothing; the same seed gives the same texts.

        Raises UserError for prompts that it cannot be told.
        """
        ...


class PipelineGenerator:
    """Our own: a pipeline under one sampler, one set of guides, one scale of classifier-free guidance."""

    def __init__(
        self, pipe: LatentTextDiffusionPipeline, scheduler: str | None = None, steps: int | None = None,
        guides: Sequence[Guide] = (), keep: float = 1.0, **told,
    ):
        """scheduler, steps: None for the pipeline's own.  keep, guidance_scale, candidates: as of a call of it."""
        self.pipe, self.scheduler, self.steps, self.keep = pipe, scheduler, steps, keep
        self.guides, self.told = list(guides), told
        self.settings = {"scheduler": scheduler, "steps": steps} if scheduler else {}
        self.settings |= {"keep": keep} if keep < 1 else {}
        self.classes = pipe.denoiser.config.classes or []

    def generate(self, prompts: Sequence[str] | None, n: int, seed: int) -> list[str]:
        return self.write(prompts, n, seed).texts

    def write(self, prompts: Sequence[str] | None, n: int, seed: int) -> TextPipelineOutput:
        """As `generate`, and the latents [n, L, D] that the texts were written from."""
        own = self.pipe.scheduler
        if self.scheduler:
            self.pipe.scheduler = make_scheduler(self.scheduler, own.config.trained_betas)
        told = {"num_samples": n} if prompts is None else {"cond": list(prompts), **self.told}
        try:
            return self.pipe(guides=self.guides, num_inference_steps=self.steps, keep=self.keep,
                             generator=torch.Generator().manual_seed(seed), **told)
        finally:
            self.pipe.scheduler = own


class LanguageModelGenerator:
    """A causal language model, from a folder (recipes/train_ar.py writes one) or the hub, sampled from token by token.

    Args:
        top_p: 1 is ancestral sampling; less, nucleus sampling (Holtzman et al. 2020).

    Text i of a seed is the same however many are asked for.

    A class that the model knows is read before the text: beginning-of-text, the class, beginning-of-text again, as
    recipes/train_ar.py writes them (`lm.class_prefix`).
    """

    BATCH = 256

    def __init__(self, path: str | Path, top_p: float = 1.0):
        """Raises LanguageModelError where there is no causal language model."""
        if not 0 < top_p <= 1:
            raise UserError(f"top_p is {top_p}, must be above 0 and at most 1")
        self.tokenizer, self.model, self.start = causal_language_model(str(path))
        self.settings = {"sampler": "ancestral" if top_p == 1 else f"nucleus {top_p:g}"}
        self.classes = getattr(self.model.config, "classes", [])
        self._top_p = top_p

    def generate(self, prompts: Sequence[str] | None, n: int, seed: int) -> list[str]:
        unknown = sorted(set(prompts or []) - set(self.classes))
        if unknown:
            raise UserError(f"this language model was told {', '.join(self.classes) or 'nothing'}, not {unknown[0]!r}")
        prefixes = {told: [self.start, *class_prefix(self.tokenizer, told, self.start)] for told in set(prompts or [])}
        ids = [[self.start]] * n if prompts is None else [prefixes[told] for told in prompts]
        own, written = streams(torch.Generator().manual_seed(seed), n), []
        for begin in range(0, n, self.BATCH):
            some = slice(begin, begin + self.BATCH)
            written += write(self.model, ids[some], own[some], LONGEST, self._top_p)
        return self.tokenizer.batch_decode(written, skip_special_tokens=True)


class BestOf:
    """Of every k texts in a row the one that heads like best, by its latents when it is read again.

    The cheapest control of a writer that cannot be steered, if the heads that would guide ours keep the score. The
    texts are read once, whatever they are chosen by.
    """

    def __init__(self, texts: list[str], codec: TextCodec, k: int):
        """texts: a multiple of k."""
        self.texts, self.codec, self.k = texts, codec, k
        self._fit = torch.tensor(codec.fits(texts))
        self._latents = codec.encode(list(itertools.compress(texts, self._fit))) if self._fit.any() else None

    def toward(self, guides: Sequence[Guide]) -> list[str]:
        """The likeliest ones, by the product of the guides' probabilities, one for every k.

        Raises CheckpointError for a head of another codec.
        """
        guides = list(guides)
        check_guides(self.codec, guides)
        return self.by(lambda latents: torch.tensor(list(scores(latents, guides).values())).prod(0))

    def by(self, score: Callable[[Tensor], Tensor]) -> list[str]:
        """Those with the largest score, one for every k.  score: latents [N, L, D] -> [N]."""
        found = torch.full((len(self.texts),), -torch.inf)  # what cannot be read is taken last
        if self._latents is not None:
            found[self._fit] = score(self._latents).to(found)
        best = found.view(-1, self.k).argmax(1).tolist()
        return [self.texts[group * self.k + place] for group, place in enumerate(best)]


class TextsGenerator:
    """Texts that somebody else wrote, in a file: seed k takes the k-th n of them."""

    def __init__(self, source: str, text_column: str = "text"):
        """Raises DataError for a file without texts."""
        self.source, self.texts = source, load_texts(source, text_column)
        self.settings, self.classes = {"file": Path(source).name}, []

    def generate(self, prompts: Sequence[str] | None, n: int, seed: int) -> list[str]:
        if prompts is not None:
            raise UserError(f"{self.source} holds texts that are written already; they cannot be told anything")
        found = self.texts[seed * n : (seed + 1) * n]
        if len(found) < n:
            raise UserError(
                f"{self.source} holds {len(self.texts):,} texts, and seed {seed} takes those from {seed * n + 1:,} to "
                f"{(seed + 1) * n:,}; set --num-samples and --seeds so that there are enough"
            )
        return found
