"""Sampling: noise to latents under any diffusers scheduler and any guides, latents to text. No training code."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    LCMScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from diffusers.utils import BaseOutput, logging
from torch import Tensor

from latdiff.codecs.t5 import TextCodec, decoding
from latdiff.config import SCHEDULERS
from latdiff.diffusion.gaussian import GaussianDiffusion
from latdiff.diffusion.guidance import (
    ClassifierFree,
    Guide,
    stack,
    titles,
    warn_of_contradictions,
    warn_of_strain,
)
from latdiff.errors import UserError, first_line, nearest
from latdiff.mbr import Utility, most_agreed
from latdiff.models.autoencoder import LatentAutoencoder
from latdiff.models.backbone import load_backbone
from latdiff.models.conditions import Labels, Source
from latdiff.pipelines.defaults import DEFAULT_STRENGTH
from latdiff.schedule import add_noise

Told = tuple[Labels | Source | None, list[int]]  # every condition once, and which of them each text has


class CheckpointError(UserError):
    """A checkpoint that cannot be sampled from, in one sentence."""


@dataclass
class TextPipelineOutput(BaseOutput):
    """texts: list[str]; latents [B, L, D]; scores: see `scores`, e.g. {"tone=positive": [...]}.

    cut: list[bool], which of the texts reached the autoencoder's max_tokens before their end.
    """

    texts: list[str]
    latents: Tensor
    scores: dict[str, list[float]]
    cut: list[bool]


class LatentTextDiffusionPipeline(DiffusionPipeline):
    """Text from noise: denoise latents under guides, then let the frozen decoder write.

    Args:
        tokenizer, text_model: the frozen backbone.  autoencoder: LatentAutoencoder.
        denoiser: LatentDenoiser of the same codec.
        scheduler: any variance-preserving diffusers scheduler with prediction_type="sample".
        num_inference_steps, decoding: used when a call names none.

    Raises CheckpointError when weights are missing or the denoiser was trained on another codec's latents.
    """

    def __init__(
        self, tokenizer, text_model, autoencoder, denoiser, scheduler, num_inference_steps: int = 50,
        decoding: str = "greedy",
    ):
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer, text_model=text_model, autoencoder=autoencoder, denoiser=denoiser, scheduler=scheduler
        )
        self.register_to_config(num_inference_steps=num_inference_steps, decoding=decoding)
        for name, part in (("autoencoder", autoencoder), ("denoiser", denoiser)):
            _refuse_gaps(name, part)
        digest = self.codec.digest()
        if denoiser.config.codec_digest != digest:
            raise CheckpointError(
                f"the denoiser was trained on latents of codec {denoiser.config.codec_digest}, but tokenizer, text "
                f"model and autoencoder here are codec {digest}; take all parts from one checkpoint, or retrain it"
            )

    @classmethod
    def load_config(cls, *arguments, **settings):
        """As diffusers'. Pipelines saved by 0.1.0's first commits name files of latdiff, such as latdiff.autoencoder."""
        config = super().load_config(*arguments, **settings)
        named = config[0] if isinstance(config, tuple) else config
        for value in named.values():
            if isinstance(value, list) and str(value[0]).startswith("latdiff."):
                value[0] = "latdiff"
        return config

    @property
    def codec(self) -> TextCodec:
        """text <-> latents, for fitting heads and for looking at latents."""
        return TextCodec(self.tokenizer, self.text_model, self.autoencoder)

    @torch.no_grad()
    def __call__(
        self, num_samples: int | None = None, guides: list[Guide] = (), num_inference_steps: int | None = None,
        cond: str | list[str] | None = None, guidance_scale: float = 1.0, candidates: int = 1,
        utility: str | Utility = "bleu", keep: float = 1.0, generator: torch.Generator | None = None,
        latents: Tensor | None = None, batch_size: int = 256, callback_on_step_end: Callable | None = None,
        decode_options: str | dict | None = None,
    ) -> TextPipelineOutput:
        """Sample texts.

        Args:
            num_samples: how many; 1 unless `cond` is a list.  batch_size: how many at once; part of what a seed means.
            guides: from a head's `toward`, or any guide(denoise, alpha2) -> denoise. They stack, the first
                innermost; neighbouring guides of heads are added up, in any order.
            num_inference_steps: denoiser calls a text.
            cond: what a conditional denoiser is told: one class or source text for all samples, or a list with one for
                each. Without it the model is unconditional.
            guidance_scale: of classifier-free guidance towards `cond`, guidance.ClassifierFree; 1 is the model as it
                is, for one denoiser call a step in place of two.
            candidates, utility: draw so many texts for every sample and return the one that agrees best with the
                others (minimum Bayes risk, see mbr.most_agreed).
            keep: the share of what is drawn that is returned: those whose latents lie nearest to their own texts'
                (`codec.round_trip`). 0.9 draws a ninth more; on storyworld about half of the broken texts go, or more.
            generator: on the CPU; the same seed gives the same texts.
            latents: starting noise [num_samples * candidates, L, D] in place of a draw.
            callback_on_step_end: called as callback(pipe, step, timestep, {"latents": z}) after every
                step; what it returns under "latents" replaces z.
            decode_options: how the decoder writes: "greedy", "ld4lg" (beam search), or what `codec.write` takes,
                e.g. {"num_beams": 4}, on top of the checkpoint's own.

        Raises CheckpointError for a head made for another codec, a scheduler of the wrong kind or a `cond` that this
        denoiser cannot be told, UserError, a ValueError, for a number of samples or steps below one, more steps than
        the schedule has, a `keep` out of range or beside what names every sample, or unknown decode_options, and
        GuidanceError for a gradient that is not finite. Warns of guides that contradict each other, of latents steered
        off the data, and of texts that were cut.
        """
        steps, decode_options = self._check(guides, num_inference_steps), self._decode_options(decode_options)
        if candidates < 1:
            raise UserError(f"candidates is {candidates}, must be 1 or more")
        if num_samples is None:
            several = isinstance(cond, (list, tuple))
            num_samples = len(cond) if several else 1 if latents is None else len(latents) // candidates
        if num_samples < 1:
            raise UserError(f"num_samples is {num_samples}, must be 1 or more")
        drawn = num_samples if keep == 1 else _drawn(num_samples, keep, cond, candidates, latents)
        if latents is not None and len(latents) != num_samples * candidates:
            raise UserError(f"latents holds noise for {len(latents)} texts, must be for {num_samples * candidates}: "
                            "num_samples times candidates")
        if candidates > 1:
            most_agreed([], utility)  # refuses an unknown one before the first step
        if drawn > num_samples and isinstance(cond, (list, tuple)) and len(cond) == num_samples:
            cond = cond[0]
        told, guides = self._told(cond, drawn, candidates), _with_classifier_free(guides, guidance_scale, cond)
        if latents is None:
            latents = torch.randn(drawn * candidates, *self.codec.latent_shape, generator=generator)
        clean = [
            self._denoise(z, guides, steps, part, generator, callback_on_step_end)
            for z, part in self._chunks(latents, told, batch_size)
        ]
        out = self._output(torch.cat(clean), guides, decode_options)
        if drawn > num_samples:
            nearest_first = self.codec.round_trip(out.latents, out.texts).argsort(stable=True)
            return _some(out, sorted(nearest_first[:num_samples].tolist()))
        return out if candidates == 1 else _agreed(out, candidates, utility)

    @torch.no_grad()
    def edit(
        self, texts: list[str], guides: list[Guide] = (), strength: float = DEFAULT_STRENGTH,
        num_inference_steps: int | None = None, cond: str | list[str] | None = None, guidance_scale: float = 1.0,
        generator: torch.Generator | None = None, batch_size: int = 256, decode_options: str | dict | None = None,
    ) -> TextPipelineOutput:
        """Change texts towards the guides and keep the rest: encode, noise part of the way, denoise under guidance.

        Args:
            texts: N texts.
            strength: how far towards pure noise, above 0 and up to 1, where all but nothing is kept: the share
                of num_inference_steps that is run (SDEdit, Meng et al. 2022). The first estimate of x0 that
                self-conditioning sees is the text itself.
            The rest is as in a call.

        Raises what a call does, UserError for a strength out of range, and codec.TextError for texts that are
        empty or too long.
        """
        steps, decode_options = self._check(guides, num_inference_steps), self._decode_options(decode_options)
        if not 0 < strength <= 1:
            raise UserError(f"strength is {strength}, must be above 0 and at most 1")
        latents = self.codec.encode(list(texts))
        told, guides = self._told(cond, len(latents)), _with_classifier_free(guides, guidance_scale, cond)
        clean = [
            self._denoise(x0, guides, steps, part, generator, None, strength)
            for x0, part in self._chunks(latents, told, batch_size)
        ]
        return self._output(torch.cat(clean), guides, decode_options)

    @torch.no_grad()
    def interpolate(self, a: str, b: str, n: int = 5, decode_options: str | dict | None = None) -> TextPipelineOutput:
        """n texts from a to b, both included: along the great arc between their latents (Shoemake 1985).

        Raises UserError for n below 2 or unknown decode_options, and codec.TextError for texts that are empty or too
        long.
        """
        decode_options = self._decode_options(decode_options)
        if n < 2:
            raise UserError(f"n is {n}, must be 2 or more: the two texts themselves are counted")
        start, end = self.codec.encode([a, b])
        cosine = torch.nn.functional.cosine_similarity(start.flatten(), end.flatten(), dim=0)
        angle = cosine.clamp(-1, 1).acos().clamp(min=1e-4)
        share = torch.linspace(0, 1, n, device=start.device).view(-1, 1, 1)
        latents = (((1 - share) * angle).sin() * start + (share * angle).sin() * end) / angle.sin()
        return self._output(latents, [], decode_options)

    @torch.no_grad()
    def estimate(self, z: Tensor, alpha2: float) -> Tensor:
        """The denoiser's estimate of x0 [B, L, D] for z at the timestep whose signal variance is nearest to alpha2."""
        all_alpha2 = self.scheduler.alphas_cumprod
        t = (all_alpha2 - alpha2).abs().argmin().expand(len(z)).to(z.device)
        return GaussianDiffusion(self.denoiser, all_alpha2).denoise(z, t)

    def _output(self, latents: Tensor, guides, decode_options: dict) -> TextPipelineOutput:
        own = [guide for guide in guides if isinstance(guide, Guide)]
        warn_of_strain(latents, own)
        texts, cut = self.codec.write(latents, **decode_options)
        return TextPipelineOutput(texts=texts, latents=latents, scores=scores(latents, own), cut=cut)

    def _denoise(self, z, guides, steps, cond, generator, callback, strength: float | None = None) -> Tensor:
        """The sampling loop: [B, L, D] -> [B, L, D]; from pure noise, or with a strength from clean latents."""
        scheduler = self.scheduler
        alpha2 = scheduler.alphas_cumprod
        denoise = stack(GaussianDiffusion(self.denoiser, alpha2).denoise, alpha2, guides)
        scheduler.set_timesteps(steps, device=z.device)
        timesteps, x_prev = scheduler.timesteps, None
        if strength is not None:
            first = min(steps - 1, round(steps * (1 - strength)))
            timesteps, x_prev = timesteps[first:], z
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(first)
            noise = torch.randn(z.shape, generator=generator).to(z)
            z = add_noise(z, noise, alpha2.to(z)[timesteps[0].long()].expand(len(z)))
        extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
        for step, t in enumerate(self.progress_bar(timesteps)):
            x_prev = denoise(z, t.long().expand(len(z)), cond, x_prev)
            z = scheduler.step(x_prev, t, z, **extra).prev_sample
            if callback is not None:
                z = (callback(self, step, t, {"latents": z}) or {}).get("latents", z)
        return z

    def _told(self, cond: str | list[str] | None, n: int, times: int = 1) -> Told:
        """What the denoiser is told about n samples, each `times` in a row; raises as a call does."""
        if cond is None:
            return None, []
        config = self.denoiser.config
        if not config.classes and not config.source_dim:
            raise CheckpointError("this denoiser was trained without conditions; leave cond out and steer with guides")
        told = [str(one) for one in cond] if isinstance(cond, (list, tuple)) else [str(cond)] * n
        if len(told) != n:
            raise UserError(f"cond holds {len(told)} conditions for {n} samples; give one a sample, or a single one")
        once = {one: place for place, one in enumerate(dict.fromkeys(told))}  # every source is read and held once
        rows = [once[one] for one in told for _ in range(times)]
        unknown = sorted(set(once) - set(config.classes)) if config.classes else []
        if unknown:
            known = f"{', '.join(config.classes)}{nearest(unknown[0], config.classes)}"
            raise UserError(f"cond is {unknown[0]!r}, must be one of {known}")
        with torch.inference_mode(False):  # a guide may differentiate through the denoiser
            if config.source_dim:
                return self.codec.read(list(once)), rows
            return Labels.of(list(once), config.classes).to(self._execution_device), rows

    def _chunks(self, latents: Tensor, told: Told, size: int):
        """Pairs of latents and what is told about them, `size` at once."""
        cond, rows = told
        latents = latents.to(self._execution_device)
        for start in range(0, len(latents), size):
            with torch.inference_mode(False):
                part = None if cond is None else cond[rows[start : start + size]]
            yield latents[start : start + size], part

    def _decode_options(self, given: str | dict | None) -> dict:
        """Arguments of `codec.write`; a name is a preset. Unknown ones are refused before the first denoising step."""
        given = {"preset": given} if isinstance(given, str) else given or {}
        options = {"preset": self.config.decoding} | given
        decoding(**options)
        return options

    def _check(self, guides: list[Guide], num_inference_steps: int | None) -> int:
        """Everything that can be wrong before the first step; the number of steps."""
        steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        most = len(self.scheduler.alphas_cumprod) if hasattr(self.scheduler, "alphas_cumprod") else steps
        if not 1 <= steps <= most:
            raise UserError(f"num_inference_steps is {steps}, must be 1 to {most}, the steps of the noise schedule")
        self._check_scheduler()
        own = [guide for guide in guides if isinstance(guide, Guide)]
        check_guides(self.codec, own)
        warn_of_contradictions(own)
        return steps

    def _check_scheduler(self) -> None:
        config = self.scheduler.config
        if getattr(self.scheduler, "alphas_cumprod", None) is None or config.get("prediction_type") != "sample":
            raise CheckpointError(
                f"{type(self.scheduler).__name__} with prediction_type={config.get('prediction_type')!r} does not fit: "
                "take a variance-preserving scheduler with prediction_type='sample', for instance "
                "DDIMScheduler.from_config(pipe.scheduler.config)"
            )


def check_guides(codec: TextCodec, guides: list[Guide]) -> None:
    """Raise CheckpointError for a head that was fitted on the latents of another codec."""
    digest = codec.digest() if guides else ""
    for guide in guides:
        if guide.head.codec_digest not in (digest, None):
            raise CheckpointError(
                f"head {guide.head.name!r} was fitted on latents of codec {guide.head.codec_digest}, but this "
                f"pipeline's codec is {digest}; fit it again with `latdiff fit-head`"
            )


def _with_classifier_free(guides: list, scale: float, cond) -> list:
    if scale != 1 and cond is None:
        raise UserError(f"guidance_scale is {scale:g}, but there is no cond to guide towards; give one or leave it")
    return [*guides] if scale == 1 else [ClassifierFree(scale), *guides]


def _agreed(out: TextPipelineOutput, candidates: int, utility: str | Utility) -> TextPipelineOutput:
    """Of every `candidates` texts in a row the one that agrees best with the others."""
    groups = [out.texts[i : i + candidates] for i in range(0, len(out.texts), candidates)]
    return _some(out, [candidates * i + best for i, best in enumerate(most_agreed(groups, utility))])


def _drawn(num_samples: int, keep: float, cond, candidates: int, latents: Tensor | None) -> int:
    """How many texts to draw, of which so large a share makes num_samples. Raises UserError as a call does."""
    if not 0 < keep <= 1:
        raise UserError(f"keep is {keep}, must be above 0 and at most 1")
    named = {"candidates": candidates > 1, "latents": latents is not None,
             "a cond for each sample": isinstance(cond, (list, tuple)) and len(set(cond)) > 1}
    if any(named.values()):
        raise UserError(f"keep is {keep:g}, which drops some of the samples, and does not go with "
                        f"{' and '.join(k for k, v in named.items() if v)}; leave one of them out")
    return math.ceil(num_samples / keep - 1e-9)  # 7 / 0.7 is a little more than 10


def _some(out: TextPipelineOutput, rows: list[int]) -> TextPipelineOutput:
    """Some of the texts, with all that belongs to them."""
    texts, cut = ([values[i] for i in rows] for values in (out.texts, out.cut))
    scores = {title: [values[i] for i in rows] for title, values in out.scores.items()}
    return TextPipelineOutput(texts=texts, latents=out.latents[rows], scores=scores, cut=cut)


def make_scheduler(name: str, trained_betas: list[float]):
    """A diffusers scheduler by its short name, fed with x0. Raises CheckpointError for a name not in SCHEDULERS."""
    if name not in SCHEDULERS:
        raise CheckpointError(f"no scheduler {name!r}, only {', '.join(SCHEDULERS)}{nearest(name, SCHEDULERS)}")
    common = {
        "num_train_timesteps": len(trained_betas), "trained_betas": trained_betas, "prediction_type": "sample",
        "timestep_spacing": "trailing",
    }
    multistep = {"final_sigmas_type": "zero", "lower_order_final": True}
    of_consistency = {
        "clip_sample": False, "set_alpha_to_one": True, "original_inference_steps": len(trained_betas)
    }
    return {
        "ddpm": lambda: DDPMScheduler(**common, clip_sample=False, variance_type="fixed_small"),
        "ddim": lambda: DDIMScheduler(**common, clip_sample=False, set_alpha_to_one=True),
        "dpm++": lambda: DPMSolverMultistepScheduler(**common, **multistep),
        "sde-dpm++": lambda: DPMSolverMultistepScheduler(**common, **multistep, algorithm_type="sde-dpmsolver++"),
        "unipc": lambda: UniPCMultistepScheduler(**common),
        # Between ddim and full re-noising: down to 0.7 of the next time, and by noise back up to it
        "tcd": lambda: TCDScheduler(**common, **of_consistency),
        # z <- alpha x0 + sigma eps at every step: full re-noising, which diffusers ships as LCM's scheduler
        "renoise": lambda: LCMScheduler(**common, **of_consistency),
    }[name]()


def load_codec(folder: str | Path) -> TextCodec:
    """The codec of a checkpoint folder. Raises CheckpointError when parts are missing or cut short."""
    folder = Path(folder)
    missing = [part for part in ("tokenizer", "text_model", "autoencoder") if not (folder / part).is_dir()]
    if missing:
        raise CheckpointError(f"{folder} holds no {' and no '.join(missing)}; train them with `make train-ae`")
    tokenizer, text_model = load_backbone(str(folder / "text_model"), tokenizer=str(folder / "tokenizer"))
    try:
        autoencoder = LatentAutoencoder.from_pretrained(folder / "autoencoder", local_files_only=True)
    except Exception as error:  # diffusers, safetensors and json each raise kinds of their own
        raise CheckpointError(f"{folder / 'autoencoder'} is cut short or damaged: {first_line(error)}") from error
    _refuse_gaps(folder / "autoencoder", autoencoder)
    return TextCodec(tokenizer, text_model, autoencoder.requires_grad_(False).eval())


def load_pipeline(folder: str | Path) -> LatentTextDiffusionPipeline:
    """`from_pretrained` in plain words: what is missing or damaged comes as a CheckpointError, in a sentence."""
    folder = Path(folder)
    index = folder / "model_index.json"
    if not index.exists():
        beside = sorted(p.parent.name for p in folder.parent.glob("*/model_index.json"))
        raise CheckpointError(
            f"{folder} holds no finished pipeline (no model_index.json); finished ones beside it: "
            f"{', '.join(beside) or 'none'}. Train one with `make train-diffusion`."
        )
    try:
        parts = [k for k, v in json.loads(index.read_text(encoding="utf-8")).items() if isinstance(v, list)]
        missing = [part for part in parts if not (folder / part).is_dir()]
        if missing:
            raise CheckpointError(f"{folder} is incomplete: {', '.join(missing)} missing; copy the whole folder again")
        return LatentTextDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # diffusers, transformers, safetensors and json each raise kinds of their own
        raise CheckpointError(f"{folder} is cut short or damaged: {first_line(error)}") from error


def load_for_commands(folder: str | Path, quiet: bool = False) -> LatentTextDiffusionPipeline:
    """`load_pipeline`, on the GPU where there is one, with bars that go away, or none."""
    logging.disable_progress_bar()
    pipe = load_pipeline(folder)
    pipe.set_progress_bar_config(disable=quiet, leave=False)
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def _refuse_gaps(name, part) -> None:
    # diffusers only warns of weights that a file lacks, and leaves them on the meta device
    gaps = [key for key, value in part.state_dict().items() if value.is_meta]
    if gaps:
        raise CheckpointError(f"{name} lacks {len(gaps)} of its weights, the first is {gaps[0]}; copy it again")


def scores(latents: Tensor, guides: list[Guide]) -> dict[str, list[float]]:
    """Per guide, such as "tone=positive", exp of the head's own log p(target) for latents [B, L, D], B numbers.

    That is a probability for a label; with weights the weighted sum, and for a number 1 where it is met.
    """
    with torch.inference_mode(False), torch.enable_grad():  # a CallableHead insists on a function with a gradient
        at = latents.clone().requires_grad_()
        named = zip(titles(guides), guides, strict=True)
        return {title: guide.log_prob(at).detach().exp().tolist() for title, guide in named}
