"""The pipeline that stops, thinks and writes on: a language model whose texts are planned in latents."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from transformers import AutoModelForCausalLM

from latdiff.checkpoints import CheckpointError
from latdiff.data.tokens import SENTENCE_END, plain_ids
from latdiff.diffusion.guidance import ClassifierFree, Guide, stack, warn_of_contradictions, warn_of_strain
from latdiff.diffusion.noise import Seeds, fork, streams
from latdiff.diffusion.sampling import check_scheduler, sample
from latdiff.diffusion.star import Thinking
from latdiff.errors import UserError, check_number, check_whole
from latdiff.lm import LanguageModelError, Past, context, load_pretrained, read, write
from latdiff.models.saved import refuse_gaps
from latdiff.models.star import begun
from latdiff.pipelines.base import CodecPipeline, codec_parts
from latdiff.pipelines.call import conditions_of, guides_of
from latdiff.pipelines.output import TextPipelineOutput, check_guides, scores
from latdiff.schedule import add_noise, log_snr


@dataclass
class StarPipelineOutput(TextPipelineOutput):
    """What a call returns: `texts`, `latents`, `scores` and `cut` as of any pipeline, and what was written.

    Attributes:
        latents: the plan that each text was begun with, [B, L, D]; 0 where it did not think.
        continuations: the texts without what they go on from.
    """

    continuations: list[str]


@dataclass(frozen=True)
class _Call:
    """What a call has settled before it reads."""

    guides: list
    steps: int
    guidance_scale: float
    thoughts: int
    sentences: int | None
    renoise: float
    top_p: float
    max_new_tokens: int

    @property
    def heads(self) -> list[Guide]:
        """The guides that are of heads."""
        return [guide for guide in self.guides if isinstance(guide, Guide)]


class StarPipeline(CodecPipeline):
    """Text that goes on from its first words: read them, think of a plan of the whole, write on.

    After STAR-LDM (Lovelace et al. 2025).

    Args:
        language_model: a causal language model of transformers, trained with the planner.
        language_tokenizer: its.
        planner: a StarPlanner.
        scheduler: any scheduler of diffusers with a variance-preserving noise schedule and prediction_type="sample".
        tokenizer: of a TextCodec, which is saved part by part.
        text_model: its frozen encoder-decoder.
        autoencoder: its LatentAutoencoder.
        codec: any `Codec` whose latents are plans, in place of the three parts.
        num_inference_steps: used when a call names none.
        top_p: likewise.

    Raises:
        CheckpointError: When weights are missing or the planner was trained on another codec's latents.
        UserError: For a language model that has no end-of-text token.
    """

    def __init__(
        self, language_model, language_tokenizer, planner, scheduler, tokenizer=None, text_model=None, autoencoder=None,
        codec=None, num_inference_steps: int = 20, top_p: float = 0.9,
    ):
        super().__init__()
        if language_tokenizer.eos_token_id is None:
            raise LanguageModelError("the language model has no end-of-text token, so that no text would end; set its "
                                     "tokenizer's eos_token, or take another")
        language_model.generation_config.eos_token_id = language_tokenizer.eos_token_id
        self.register_modules(language_model=language_model, language_tokenizer=language_tokenizer, planner=planner,
                              scheduler=scheduler, **codec_parts(tokenizer, text_model, autoencoder, codec))
        self.register_to_config(num_inference_steps=num_inference_steps, top_p=top_p)
        refuse_gaps("planner", planner)
        self._check_codec(planner.config.codec_digest, "planner")

    @classmethod
    def parts_of(cls, folder: Path) -> dict:
        """As of any pipeline, and the language model with its tokenizer."""
        place = folder / "language_model"
        tokenizer, model = load_pretrained(
            AutoModelForCausalLM, place, lambda reason: CheckpointError(f"{place} {reason}"),
            folder / "language_tokenizer",
        )
        return super().parts_of(folder) | {"language_model": model, "language_tokenizer": tokenizer}

    @torch.no_grad()
    def __call__(
        self, cond: str | Sequence[str] | None = None, num_samples: int = 1,
        guides: Callable | Sequence[Callable] | None = None, num_inference_steps: int | None = None,
        guidance_scale: float = 1.0, thoughts: int = 1, sentences: int | None = None, renoise: float = 0.05,
        top_p: float | None = None, max_new_tokens: int | None = None, generator: Seeds = None, first: int = 0,
        batch_size: int = 64, return_dict: bool = True,
    ) -> StarPipelineOutput | tuple:
        """Go on from the first words of texts.

        Args:
            cond: the first words, or a list of them; there is no text without.
            num_samples: how many texts for each.
            guides: steer the plan, from a head's `toward`, or any guide(denoise) -> denoise.
            num_inference_steps: of a thought (default: the checkpoint's); 0 writes on without a plan.
            guidance_scale: how far the plan follows the words, beyond what it would be without them; 1 is the model
                itself, 0 a plan that knows nothing of them.
            thoughts: think of so many plans and follow the one that the guides find likeliest.
            sentences: think anew after so many sentences (default: follow one plan to the end).
            renoise: share of noise in the plan that is read, as a variance.
            top_p: 1 is ancestral sampling; less, nucleus sampling (default: the checkpoint's).
            max_new_tokens: at most; nor does a text outgrow the language model's context.
            generator: on any device: text i follows from its seed and i alone. Or a list, one for each text.
            first: the place of the first text, as of any pipeline.
            batch_size: how many texts at once, times the thoughts.
            return_dict: False for a tuple of what the output holds.

        Returns:
            StarPipelineOutput, or a tuple.

        Raises:
            UserError: For first words that are empty or too long, numbers out of range, a head made for another codec,
                or a scheduler that would mis-sample; all before the first step. GuidanceError, one of its kind, comes
                for a gradient that is not finite.
        """
        run = self._prepare(guides, num_inference_steps, guidance_scale, thoughts, sentences, renoise, top_p,
                            max_new_tokens)
        num_samples = check_whole("num_samples", num_samples)
        batch_size = check_whole("batch_size", batch_size)
        words = () if cond is None else conditions_of(cond)
        given = [one for one in ([words] if isinstance(words, str) else words) for _ in range(num_samples)]
        ids, own = self.ids(given), streams(generator, len(given), first)
        written: list[list[int]] = []
        plans: list[Tensor] = []
        cut: list[bool] = []
        with torch.inference_mode(False), torch.no_grad():  # a guide may differentiate through what is read
            for start in range(0, len(given), batch_size):
                part = slice(start, start + batch_size)
                more, planned, broken = self._write(run, ids[part], own[part])
                written, plans, cut = written + more, [*plans, planned], cut + broken
            latents = torch.cat(plans)
        warn_of_strain(latents, run.heads)
        texts = [self._text(*row) for row in zip(given, ids, written, strict=True)]
        out = StarPipelineOutput(
            texts=texts, latents=latents, scores=scores(latents, run.heads, batch_size), cut=cut,
            continuations=[text[len(lead) :].strip() for text, lead in zip(texts, given, strict=True)],
        )
        self.maybe_free_model_hooks()
        return out if return_dict else (out.texts, out.latents, out.scores, out.cut, out.continuations)

    def ids(self, cond: Sequence[str]) -> list[list[int]]:
        """What the language model reads of first words.

        Raises:
            UserError: For words that are empty, or too long to leave room for a plan and a token behind them.
        """
        if not cond:
            raise UserError("there is no cond, or it is an empty list; give first words to go on from")
        for place, one in enumerate(cond):
            if not isinstance(one, str) or not one.strip():
                raise UserError(f"cond {place} of {len(cond)} is {one!r}, must be the first words of a text")
        words = plain_ids(self.language_tokenizer, cond, add_special_tokens=False, truncation=False)
        found = begun(self.language_model, self.language_tokenizer, words)
        for place, row in enumerate(found):
            if len(row) > self._most_before:
                raise UserError(f"cond {place} of {len(cond)} has {len(row)} tokens, must have at most "
                                f"{self._most_before}, which leave room for a plan and a token behind them; give its "
                                "end alone")
        return found

    @property
    def _most_before(self) -> int:
        """Tokens, beginning-of-text included, behind which there is room for a plan and a token."""
        return context(self.language_model) - self.planner.config.num_prompts - 1

    def prompts(
        self, plans: Tensor | None, generators: Sequence[torch.Generator], renoise: float = 0.05
    ) -> Tensor:
        """Soft prompts [B, K, H] of plans.

        Args:
            plans: clean latents [B, L, D]; None for those that stand for no plan.
            generators: one for each row, of the noise.
            renoise: its share, as a variance.
        """
        shape, device = (len(generators), *self.codec.latent_shape), self.planner.device
        if plans is None:
            nothing = torch.full((len(generators),), -torch.inf, device=device)
            return self.planner.prompts(torch.zeros(shape, device=device), nothing)
        signal = torch.full((len(generators),), 1 - renoise, device=device)
        noise = randn_tensor(shape, generator=list(generators)).to(device)
        return self.planner.prompts(add_noise(plans.to(device), noise, signal), log_snr(signal))

    def _write(
        self, run: _Call, ids: list[list[int]], own: list[torch.Generator]
    ) -> tuple[list[list[int]], Tensor, list[bool]]:
        """What is written behind each of B rows, the first plan of each [B, L, D], and whether it was cut."""
        end = self.language_tokenizer.eos_token_id
        written: list[list[int]] = [[] for _ in ids]
        first, cut, rows = torch.empty(0), [False] * len(ids), list(range(len(ids)))
        until = None if run.sentences is None else self._pauses(run.sentences)
        times = itertools.count()
        while rows:
            before, draws = [ids[row] + written[row] for row in rows], [own[row] for row in rows]
            past = read(self.language_model, before)
            plans, prompts = self._think(run, past, fork(draws, f"time {next(times)}"))
            first = first if len(first) else plans
            left = [run.max_new_tokens - len(written[row]) for row in rows]
            found = write(self.language_model, before, draws, max(left), run.top_p, prompts=prompts, past=past,
                          until=until)
            going = []
            for row, most, more in zip(rows, left, found, strict=True):
                paused = until is not None and until(more) and more[-1] != end
                more = more[: min(most, len(more) - paused)]  # what follows a pause is written with the next plan
                written[row] += more
                cut[row] = end not in more
                if paused and len(more) < most and len(ids[row]) + len(written[row]) <= self._most_before:
                    going.append(row)
            rows = going
        return written, first, cut

    def _think(self, run: _Call, past: Past, own: list[torch.Generator]) -> tuple[Tensor, Tensor]:
        """A plan [B, L, D] of each of B texts that has begun, and the soft prompts [B, K, H] that say it."""
        count, shape, device = len(own), self.codec.latent_shape, self._execution_device
        if run.steps == 0:
            return torch.zeros(count, *shape, device=device), self.prompts(None, own)
        rows = [row for row in range(count) for _ in range(run.thoughts)]
        draws = [one for stream in own for k in range(run.thoughts) for one in fork([stream], f"thought {k}")]
        thinking = Thinking(self.language_model, self.planner, past.rows(rows) if run.thoughts > 1 else past,
                            run.guidance_scale)
        noise = randn_tensor((len(rows), *shape), generator=draws).to(device)
        plans = sample(stack(thinking, run.guides, draws), self.scheduler, noise, run.steps, generator=draws,
                       progress=self.progress_bar)
        if run.thoughts > 1:
            likely = torch.tensor(list(scores(plans, run.heads).values())).prod(0).view(count, run.thoughts)
            kept = [run.thoughts * row + best for row, best in enumerate(likely.argmax(1).tolist())]
            plans, draws = plans[kept], [draws[row] for row in kept]
        return plans, self.prompts(plans, draws, run.renoise)

    def _pauses(self, sentences: int) -> Callable[[list[int]], bool]:
        """Whether a row has written so many sentences and a token behind them, which may be end-of-text."""
        return lambda ids: sum(one in self._sentence_ends for one in ids[:-1]) >= sentences

    @cached_property
    def _sentence_ends(self) -> set[int]:
        """Ids of tokens that end a sentence."""
        pieces = self.language_tokenizer.batch_decode([[one] for one in range(len(self.language_tokenizer))])
        return {one for one, piece in enumerate(pieces) if SENTENCE_END.search(piece.rstrip() + " ")}

    def _text(self, first: str, before: list[int], written: list[int]) -> str:
        """The first words as they were given, and what was written behind them."""
        alone, whole = self.language_tokenizer.batch_decode([before, before + written], skip_special_tokens=True)
        return first + whole[len(alone) :].rstrip()

    def _prepare(
        self, guides, num_inference_steps, guidance_scale, thoughts, sentences, renoise, top_p, max_new_tokens
    ) -> _Call:
        """Everything that can be wrong of a call's settings."""
        guides = [] if guides is None else guides_of(guides)
        steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        top_p = self.config.top_p if top_p is None else top_p
        most = context(self.language_model) if max_new_tokens is None else max_new_tokens
        steps = check_whole("num_inference_steps", steps, least=0)
        for name, value in (("thoughts", thoughts), ("sentences", sentences), ("max_new_tokens", most)):
            if value is not None:
                check_whole(name, value)
        renoise = check_number("renoise", renoise)
        if not 0 <= renoise < 1:
            raise UserError(f"renoise is {renoise}, must be at least 0 and below 1")
        top_p, guidance_scale = check_number("top_p", top_p, above=0, most=1), ClassifierFree(guidance_scale).scale
        run = _Call(guides, steps, guidance_scale, thoughts, sentences, renoise, top_p, most)
        if thoughts > 1 and not run.heads:
            raise UserError(f"thoughts is {thoughts}, but there is no head among the guides to choose a plan by; give "
                            "one, or leave thoughts out")
        if guides and not steps:
            raise UserError("num_inference_steps is 0, which leaves guides no plan to steer; leave them out, or take "
                            "some steps")
        if steps:
            check_scheduler(self.scheduler, steps)
        check_guides(self.codec, run.heads)
        warn_of_contradictions(run.heads)
        return run
