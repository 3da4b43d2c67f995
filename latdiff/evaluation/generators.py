"""Who writes texts? A pipeline, a language model, a file: each a `Generator`, all measured with the same figures."""

from __future__ import annotations

import contextlib
import itertools
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from latdiff.codecs.protocol import Codec
from latdiff.data.corpus import load_texts
from latdiff.data.tokens import tokenize
from latdiff.diffusion.guidance import Guide
from latdiff.diffusion.noise import streams
from latdiff.diffusion.sampling import make_scheduler
from latdiff.errors import UserError
from latdiff.evaluation.judges import LONGEST
from latdiff.lm import causal_language_model, class_prefix, context, ends_of, token_losses, write
from latdiff.nats import Nats
from latdiff.pipelines.output import check_guides, scores


class Generator(Protocol):
    """Anything that writes texts; a new one inherits `measured`.

    Attributes:
        settings: what stands beside its figures, such as a sampler's name and steps.
        classes: those that it was trained to be conditioned on; none for most.
    """

    settings: dict
    classes: Sequence[str] = ()

    @abstractmethod
    def generate(self, prompts: Sequence[str] | None, n: int, seed: int) -> list[str]:
        """n texts; the same seed gives the same ones.

        Args:
            prompts: a class or a source text for each, or None for unconditional texts.
            n: how many; with prompts, as many as they are.
            seed: of the noise.

        Raises:
            UserError: For prompts that it cannot be conditioned on.
            ValueError: For another number of prompts than n.
        """

    def measured(self, n: int, seed: int) -> tuple[list[str], dict]:
        """n unconditional texts, and what can be said of how they were written: `seconds`, `texts_per_second`."""
        began = time.monotonic()
        return self.generate(None, n, seed), _pace(n, began)

    def log_prob(self, texts: Sequence[str], seed: int = 0) -> Nats | None:
        """How likely texts are to the model, asked for nothing and whatever samples from it; None where none can say.

        Args:
            texts: B of them.
            seed: of a bound that is estimated by sampling; the same seed gives the same estimates.
        """
        return None


def _check_number(prompts: Sequence[str] | None, n: int) -> None:
    if prompts is not None and len(prompts) != n:
        raise ValueError(f"{n} texts were asked for, but there are {len(prompts)} prompts; give one for each")


def _pace(n: int, began: float) -> dict:
    seconds = time.monotonic() - began
    return {"seconds": round(seconds, 1), "texts_per_second": n / seconds}


class PipelineGenerator(Generator):
    """A pipeline under one sampler, one set of guides, one scale of classifier-free guidance.

    Args:
        pipe: of any kind: called with num_samples or cond, and a generator, it returns an object with `texts`.
        scheduler: a name of `make_scheduler` (default: the pipeline's own).
        steps: of it (default: the pipeline's own).
        settings: other arguments of a call, such as guides, keep, guidance_scale, candidates.
    """

    def __init__(self, pipe, scheduler: str | None = None, steps: int | None = None, **settings):
        self.pipe, self.scheduler = pipe, scheduler
        self._call = settings | ({} if steps is None else {"num_inference_steps": steps})
        self.settings = {"scheduler": scheduler, "steps": steps} if scheduler else {}
        self.settings |= {"keep": settings["keep"]} if settings.get("keep", 1) < 1 else {}
        self.classes = list(getattr(pipe, "classes", ()))

    def generate(self, prompts: Sequence[str] | None, n: int, seed: int) -> list[str]:
        return self._write(prompts, n, seed).texts

    def measured(self, n: int, seed: int) -> tuple[list[str], dict]:
        """As `Generator.measured`, with the mean `round_trip` where the output has latents of the pipeline's codec.

        `calls` is how often the network read a text in the mean, where the output says so.
        """
        began = time.monotonic()
        out = self._write(None, n, seed)
        pace = _pace(n, began)
        codec = getattr(self.pipe, "codec", None)
        if codec is not None and getattr(out, "latents", None) is not None:
            distances = codec.round_trip(out.latents, out.texts)
            read = distances.isfinite()
            pace |= {"round_trip": distances[read].mean().item()} if read.any() else {}
        calls = getattr(out, "calls", None)
        return out.texts, pace | ({} if calls is None else {"calls": calls.double().mean().item()})

    def log_prob(self, texts: Sequence[str], seed: int = 0) -> Nats | None:
        """What the pipeline's own `log_prob(texts, generator)` says, where its class has one."""
        own = getattr(self.pipe, "log_prob", None)
        return None if own is None else own(list(texts), generator=torch.Generator().manual_seed(seed))

    def _write(self, prompts: Sequence[str] | None, n: int, seed: int):
        _check_number(prompts, n)
        asked = {"num_samples": n} if prompts is None else {"cond": list(prompts)}
        with self._own_scheduler():
            return self.pipe(**asked, **self._call, generator=torch.Generator().manual_seed(seed))

    @contextlib.contextmanager
    def _own_scheduler(self) -> Iterator[None]:
        """The scheduler that was asked for in the pipeline's place of its own."""
        if self.scheduler is None:
            yield
            return
        before = self.pipe.scheduler
        self.pipe.scheduler = make_scheduler(self.scheduler, before.config.trained_betas)
        try:
            yield
        finally:
            self.pipe.scheduler = before


class LanguageModelGenerator(Generator):
    """A causal language model, from a folder (recipes/train_ar.py writes one) or the hub, sampled from token by token.

    Args:
        top_p: 1 is ancestral sampling; less, nucleus sampling (Holtzman et al. 2020).

    Text i of a seed is the same however many are asked for.

    A class that it is conditioned on is read before the text: beginning-of-text, the class, beginning-of-text again, as
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
        _check_number(prompts, n)
        unknown = sorted(set(prompts or []) - set(self.classes))
        if unknown:
            raise UserError(f"this language model is conditioned on {', '.join(self.classes) or 'nothing'}, and cannot "
                            f"be on {unknown[0]!r}; ask for unconditional texts, or for a class that it knows")
        known = {label: [self.start, *class_prefix(self.tokenizer, label, self.start)] for label in set(prompts or [])}
        ids = [[self.start]] * n if prompts is None else [known[label] for label in prompts]
        own, written = streams(torch.Generator().manual_seed(seed), n), []
        for begin in range(0, n, self.BATCH):
            some = slice(begin, begin + self.BATCH)
            written += write(self.model, ids[some], own[some], LONGEST, self._top_p)
        return self.tokenizer.batch_decode(written, skip_special_tokens=True)

    def log_prob(self, texts: Sequence[str], seed: int = 0) -> Nats | None:
        """Exact: the sum over the tokens of each text and its end, by the tokenizer's own tokenisation of it.

        The model could spell the same text by other tokens, or end it by another of its ends; they are left out, so
        that the text itself is at least as likely. A text with pieces that the tokenizer does not know, or longer than
        what the model reads or `generate` writes, is NaN. None for a model that ends no text.
        """
        ends, end = ends_of(self.model), self.tokenizer.eos_token_id
        if not ends:
            return None
        end = end if end in ends else min(ends)
        longest, scored = min(LONGEST, context(self.model) - 1), []
        for row in tokenize(self.tokenizer, list(texts)):
            row = row[1:] if row[:1] == [self.start] else row  # some tokenizers write the beginning themselves
            row = row if row[-1:] == [end] else [*row, end]
            scored.append(row if len(row) <= longest and self.tokenizer.unk_token_id not in row[:-1] else [])
        nats, counts = token_losses(self.model, self.start, scored)
        return Nats(-nats.where(counts > 0, torch.nan), "exact")


class BestOf:
    """Of every k texts in a row the one that heads find likeliest, from its latents when it is read again.

    The cheapest control of a generator that cannot be steered, with the heads that would guide ours. The texts are
    encoded once, whatever they are chosen for.
    """

    def __init__(self, texts: list[str], codec: Codec, k: int):
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


class TextsGenerator(Generator):
    """Texts that somebody else wrote, in a file: seed k takes the k-th n of them."""

    def __init__(self, source: str, text_column: str = "text"):
        """Raises DataError for a file without texts."""
        self.source, self.texts = source, load_texts(source, text_column)
        self.settings, self.classes = {"file": Path(source).name}, []

    def generate(self, prompts: Sequence[str] | None, n: int, seed: int) -> list[str]:
        if prompts is not None:
            raise UserError(f"{self.source} holds texts that are written already; they cannot be conditioned on "
                            f"{prompts[0]!r}")
        found = self.texts[seed * n : (seed + 1) * n]
        if len(found) < n:
            raise UserError(
                f"{self.source} holds {len(self.texts):,} texts, and seed {seed} takes those from {seed * n + 1:,} to "
                f"{(seed + 1) * n:,}; set --num-samples and --seeds so that there are enough"
            )
        return found

    def measured(self, n: int, seed: int) -> tuple[list[str], dict]:
        """n of the texts; nothing is known of how they were written."""
        return self.generate(None, n, seed), {}
