"""The pipeline that samples texts, edits them, and writes what lies between two. No training code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from latdiff.checkpoints import CheckpointError
from latdiff.codecs.protocol import Decoded, as_latents, as_texts
from latdiff.diffusion.gaussian import GaussianDiffusion
from latdiff.diffusion.guidance import ClassifierFree, Guide, stack, warn_of_contradictions, warn_of_strain
from latdiff.diffusion.noise import Seeds, streams
from latdiff.diffusion.sampling import check_scheduler, first_step, noised, sample
from latdiff.errors import UserError, check_number, check_whole, nearest, shown
from latdiff.heads.variety import warn_of_likeness
from latdiff.mbr import Utility, most_agreed
from latdiff.models.conditions import Condition, Labels
from latdiff.models.saved import refuse_gaps
from latdiff.pipelines.base import CodecPipeline, codec_parts
from latdiff.pipelines.call import (
    CALLBACK_TENSORS,
    Call,
    conditions_of,
    drawn_of,
    guides_of,
    latents_of,
    tensors_of,
)
from latdiff.pipelines.defaults import BATCH_SIZE, DEFAULT_STRENGTH, LEAST_KEEP
from latdiff.pipelines.output import TextPipelineOutput, check_finite, check_guides, chosen, scores
from latdiff.precision import compute_dtype

OUTPUTS = ("text", "latent")


class LatentTextDiffusionPipeline(CodecPipeline):
    """Text from noise: denoise latents under guides, then let the frozen decoder write.

    Args:
        denoiser: of the codec's latents, e.g. a LatentDenoiser.
        scheduler: any scheduler of diffusers with a variance-preserving noise schedule and prediction_type="sample".
        tokenizer: of a TextCodec, which is saved part by part.
        text_model: its frozen encoder-decoder.
        autoencoder: its LatentAutoencoder.
        codec: any `Codec`, in place of the three parts.
        num_inference_steps: used when a call names none.
        decoding: a preset of the codec, likewise (default: its first).
        dtype: to denoise in: "auto" is bfloat16 where the processor multiplies in it.

    Raises:
        CheckpointError: When weights are missing or the denoiser was trained on another codec's latents.
    """

    _callback_tensor_inputs = CALLBACK_TENSORS
    model_cpu_offload_seq = "denoiser->autoencoder->text_model"

    def __init__(
        self, denoiser, scheduler, tokenizer=None, text_model=None, autoencoder=None, codec=None,
        num_inference_steps: int = 50, decoding: str = "", dtype: str = "auto",
    ):
        super().__init__()
        parts = codec_parts(tokenizer, text_model, autoencoder, codec)
        autoencoder = parts["autoencoder"]
        self.register_modules(denoiser=denoiser, scheduler=scheduler, **parts)
        self.register_to_config(num_inference_steps=num_inference_steps, decoding=decoding, dtype=dtype)
        for name, part in (("autoencoder", autoencoder), ("denoiser", denoiser)):
            if part is not None:
                refuse_gaps(name, part)
        known = denoiser.config.codec_digest
        if autoencoder is not None and not autoencoder.config.codec_digest:
            # from before a digest was stored; that of weights in half precision cannot be computed any more
            autoencoder.register_to_config(
                codec_digest=self.codec.digest if autoencoder.dtype == torch.float32 else known
            )
        self._check_codec(known, "denoiser")

    @property
    def decoding(self) -> str | None:
        """The codec's preset where a call names none; None of a codec without presets."""
        return self.config.decoding or next(iter(self.codec.presets), None)

    @property
    def classes(self) -> list[str]:
        """Those that the denoiser can be conditioned on; none where it is conditioned on source texts or nothing."""
        return self.denoiser.config.classes or []

    @torch.no_grad()
    def __call__(
        self, cond: str | Sequence[str] | None = None, num_samples: int | None = None,
        guides: Callable | Sequence[Callable] | None = None, num_inference_steps: int | None = None,
        guidance_scale: float = 1.0, candidates: int = 1, utility: str | Utility = "bleu", keep: float = 1.0,
        generator: Seeds = None, first: int = 0, latents: Tensor | None = None, batch_size: int = BATCH_SIZE,
        decode_options: str | dict | None = None, dtype: str | torch.dtype | None = None, output_type: str = "text",
        return_dict: bool = True, callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> TextPipelineOutput | tuple:
        """Sample texts.

        Args:
            cond: what a conditional denoiser is conditioned on: a class or a source text, or a list of them. Without it
                the model is unconditional.
            num_samples: how many texts, of each condition where there is a list of them (default 1).
            guides: one or several, from a head's `toward`, or any guide(denoise) -> denoise. They stack, the first
                innermost; neighbouring guides of heads are added up, in any order.
            num_inference_steps: steps of the scheduler (default: the checkpoint's).
            guidance_scale: of classifier-free guidance towards `cond` (guidance.ClassifierFree); 1 is the model itself.
            candidates: draw so many texts for every sample and return the one that agrees best with the others (minimum
                Bayes risk, mbr.most_agreed).
            utility: what agreement is measured by.
            keep: the share of what is drawn that is returned, at least 0.01: those whose latents lie nearest to their
                own texts' (`codec.round_trip`). 0.9 draws a ninth more; on storyworld about half of the broken texts
                go, or more.
            generator: on any device: text i follows from its seed and i alone. Or a list, one for each text.
            first: the place of the first text: text i is text first + i of a call for more. So a call may be made in
                parts, elsewhere or later (docs/guidance.md).
            latents: starting noise [num_samples * candidates, L, D] in place of a draw, a tensor or an array.
            batch_size: how many texts at once are denoised, decoded and scored.
            decode_options: how the decoder writes: "greedy", "ld4lg" (beam search), or what `codec.generate` takes,
                e.g. {"num_beams": 4}, on top of the checkpoint's own.
            dtype: to denoise in, "float32", "bfloat16" or "auto" (default: the checkpoint's).
            output_type: "text", or "latent" to leave out decoding.
            return_dict: False for a tuple of what the output holds.
            callback_on_step_end: called as callback(pipe, step, timestep, tensors) after every step, steps counted
                through all batches; what it returns under "latents" takes the place of z.
            callback_on_step_end_tensor_inputs: which tensors it gets, of "latents" and "x0", the latest estimate.

        Returns:
            TextPipelineOutput, or a tuple.

        Raises:
            UserError: For numbers out of range, a `cond` that this denoiser cannot take, a head made for another codec,
                a scheduler that would mis-sample, noise of another shape, or unknown options; all before the first
                step. Later it comes for latents that a guide or a callback has made NaN or infinite, and
                GuidanceError, one of its kind, for a gradient that is not finite.

        Examples:
            >>> from latdiff import load_head, open_checkpoint
            >>> pipe = open_checkpoint("storyworld")
            >>> head = load_head("storyworld/heads/sentiment")
            >>> out = pipe(num_samples=2, guides=head.toward("positive"), generator=torch.Generator().manual_seed(0))
            >>> len(out.texts), list(out.scores)
            (2, ['sentiment=positive'])
        """
        candidates = check_whole("candidates", candidates)
        cond = conditions_of(cond)
        conditions = cond if isinstance(cond, list) else None
        several = conditions is not None
        latents = None if latents is None else as_latents(latents, self.codec.latent_shape)
        if num_samples is None:
            num_samples = 1 if latents is None or several else len(latents) // candidates
        num_samples = check_whole("num_samples", num_samples)
        first = check_whole("first", first, least=0)
        keep = check_number("keep", keep, LEAST_KEEP, 1)
        if output_type == "latent" and (keep < 1 or candidates > 1):
            raise UserError("output_type is 'latent', but keep and candidates choose among texts; leave them out, or "
                            "take output_type='text'")
        if first and keep < 1:
            raise UserError(f"first is {first}, but keep is {keep:g}, which chooses among all that one call draws; "
                            "leave one of them out")
        if candidates > 1:
            most_agreed([], utility)  # refuses an unknown one before the first step
        asked = num_samples * (1 if conditions is None else len(conditions))
        drawn = drawn_of(asked, keep, cond, candidates, latents)
        if drawn > asked and conditions is not None:
            cond, several = conditions[0], False
        samples = (num_samples if several else drawn) * candidates
        run = self._prepare(
            guides, num_inference_steps, cond, samples, guidance_scale, generator, batch_size, decode_options, dtype,
            output_type, callback_on_step_end, callback_on_step_end_tensor_inputs, first * candidates,
        )
        shape = (drawn * candidates, *self.codec.latent_shape)
        if latents is None:
            latents = randn_tensor(shape, generator=run.streams)
        elif latents.shape != shape:
            raise UserError(f"latents is of shape {list(latents.shape)}, must be {list(shape)}: num_samples times "
                            "candidates, L, D")
        out = self._output(self._denoise(latents, run), run)
        if drawn > asked:
            nearest_first = self.codec.round_trip(out.latents, out.texts, run.batch_size).argsort(stable=True)
            out = chosen(out, sorted(nearest_first[:asked].tolist()))
        elif candidates > 1:
            groups = [out.texts[i : i + candidates] for i in range(0, len(out.texts), candidates)]
            out = chosen(out, [candidates * i + best for i, best in enumerate(most_agreed(groups, utility))])
        if run.sources is None:  # texts of one source are alike by right
            warn_of_likeness(out.texts, [guide.head for guide in run.guides if isinstance(guide, Guide)])
        return out if return_dict else (out.texts, out.latents, out.scores, out.cut)

    @torch.no_grad()
    def edit(
        self, texts: str | Iterable[str], guides: Callable | Sequence[Callable] | None = None,
        strength: float = DEFAULT_STRENGTH, num_inference_steps: int | None = None,
        cond: str | Sequence[str] | None = None, guidance_scale: float = 1.0, generator: Seeds = None,
        batch_size: int = 256, decode_options: str | dict | None = None, dtype: str | torch.dtype | None = None,
        output_type: str = "text", return_dict: bool = True, callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> TextPipelineOutput | tuple:
        """Change texts towards the guides and keep the rest: encode, noise part of the way, denoise under guidance.

        The rest of the arguments is as in a call.

        Args:
            texts: N texts, or one.
            guides: as in a call.
            strength: how far towards pure noise, above 0 and up to 1, where almost nothing is kept: the share of
                num_inference_steps that is run (SDEdit, Meng et al. 2022). The first estimate of x0 that
                self-conditioning sees is the text itself.

        Raises:
            UserError: What a call does, a strength out of range, and TextError for texts that are empty or too long.

        Examples:
            >>> from latdiff import load_head, open_checkpoint
            >>> pipe = open_checkpoint("storyworld")
            >>> head = load_head("storyworld/heads/sentiment")
            >>> text = "On a wet Thursday, I go to the field with my aunt."
            >>> len(pipe.edit(text, head.toward("positive"), strength=0.6).texts)
            1
        """
        strength = check_number("strength", strength, above=0, most=1)
        texts, cond = as_texts(texts), conditions_of(cond)
        if isinstance(cond, list) and len(cond) != len(texts):
            raise UserError(f"cond holds {len(cond)} conditions for {len(texts)} texts; give one for each, or one for "
                            "all")
        run = self._prepare(
            guides, num_inference_steps, cond, 1 if isinstance(cond, list) else len(texts), guidance_scale,
            generator, batch_size, decode_options, dtype, output_type, callback_on_step_end,
            callback_on_step_end_tensor_inputs,
        )
        begin = first_step(self.scheduler, run.steps, strength)
        out = self._output(self._denoise(self.codec.encode(texts, run.batch_size), run, begin), run)
        return out if return_dict else (out.texts, out.latents, out.scores, out.cut)

    @torch.no_grad()
    def interpolate(
        self, a: str, b: str, n: int = 5, decode_options: str | dict | None = None, batch_size: int = 256,
    ) -> TextPipelineOutput:
        """Texts from a to b, both included: along the great arc between their latents (Shoemake 1985).

        Args:
            a: where it starts.
            b: where it ends.
            n: how many texts, the two themselves counted.
            decode_options: as in a call.
            batch_size: how many texts at once.

        Raises:
            UserError: For n below 2 or unknown decode_options, and TextError for texts that are empty or too long.

        Examples:
            >>> from latdiff import open_checkpoint
            >>> pipe = open_checkpoint("storyworld")
            >>> len(pipe.interpolate("We met at the lake.", "I bake a cake.", n=5).texts)
            5
        """
        decode_options = self._decode_options(decode_options)
        n = check_whole("n", n, least=2)  # the two texts themselves are counted
        start, end = self.codec.encode([a, b])
        cosine = torch.nn.functional.cosine_similarity(start.flatten(), end.flatten(), dim=0)
        angle = cosine.clamp(-1, 1).acos().clamp(min=1e-4)
        share = torch.linspace(0, 1, n, device=start.device).view(-1, 1, 1)
        latents = (((1 - share) * angle).sin() * start + (share * angle).sin() * end) / angle.sin()
        texts, cut = self.codec.generate(latents, batch_size=batch_size, **decode_options)
        return TextPipelineOutput(texts=texts, latents=latents, scores={}, cut=cut)

    @torch.no_grad()
    def estimate(self, z: Tensor, alpha2: float, dtype: str | torch.dtype | None = None) -> Tensor:
        """The denoiser's estimate of x0 [B, L, D] for z [B, L, D] at signal variance alpha2."""
        z = z.to(self._execution_device)
        return self._diffusion(dtype).denoise(z, torch.full((len(z),), alpha2))

    def _denoise(self, latents: Tensor, run: Call, begin: int | None = None) -> Tensor:
        """Noise [B, L, D] to clean latents, batch after batch; clean latents by way of noise, with a first step."""
        diffusion, clean, device = self._diffusion(run.dtype), [], self._execution_device
        for part, (z, cond, generators) in enumerate(run.chunks(latents)):
            z = z.to(device, torch.float32)
            x_prev, noise = None, None
            if begin is not None:
                x_prev, noise = z, randn_tensor(z.shape, generator=generators, device=z.device)
                z = noised(self.scheduler, z, noise, run.steps, begin)
            clean.append(sample(
                stack(diffusion.denoise, run.guides, generators), self.scheduler, z, run.steps, cond, generators,
                self._callback(run, part), begin or 0, x_prev, self.progress_bar,
            ))
        return torch.cat(clean)

    def _callback(self, run: Call, part: int) -> Callable | None:
        function = run.callback
        if function is None:
            return None

        def callback(step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict | None:
            wanted = {name: tensors[name] for name in run.tensors}
            returned = function(self, part * len(self.scheduler.timesteps) + step, timestep, wanted)
            return {"latents": latents_of(returned, tensors["latents"])}

        return callback

    def _output(self, latents: Tensor, run: Call) -> TextPipelineOutput:
        check_finite(latents)
        own = [guide for guide in run.guides if isinstance(guide, Guide)]
        warn_of_strain(latents, own)
        decoded = Decoded([], [])
        if run.output_type == "text":
            decoded = self.codec.generate(latents, run.sources, run.batch_size, run.streams, **run.decode_options)
        found = scores(latents, own, run.batch_size)
        self.maybe_free_model_hooks()
        return TextPipelineOutput(texts=decoded.texts, latents=latents, scores=found, cut=decoded.cut)

    def _prepare(
        self, guides, num_inference_steps, cond, samples: int, guidance_scale, generator, batch_size, decode_options,
        dtype, output_type, callback, tensors, first: int = 0,
    ) -> Call:
        """Everything that can be wrong before the first step; `samples` are of each condition."""
        guides = [] if guides is None else guides_of(guides)
        steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        most = getattr(self.scheduler.config, "num_train_timesteps", steps)
        steps = check_whole("num_inference_steps", steps)
        batch_size = check_whole("batch_size", batch_size)
        if steps > most:
            raise UserError(f"num_inference_steps is {steps}, must be 1 to {most}, the steps of the noise schedule")
        if output_type not in OUTPUTS:
            raise UserError(f"output_type is {output_type!r}, must be one of {', '.join(OUTPUTS)}")
        tensors = tensors_of(callback, tensors)
        check_scheduler(self.scheduler, steps)
        own = [guide for guide in guides if isinstance(guide, Guide)]
        check_guides(self.codec, own)
        warn_of_contradictions(own)
        options = self._decode_options(decode_options)
        free = ClassifierFree(guidance_scale)
        if free.scale != 1:
            if cond is None:
                raise UserError(f"guidance_scale is {free.scale:g}, but there is no cond to guide towards; give "
                                "one")
            guides = [free, *guides]
        condition, rows, sources = self._conditions(cond, samples)
        count = len(rows) or samples
        dtype = compute_dtype(self.config.dtype if dtype is None else dtype, self._execution_device.type)
        return Call(steps, guides, options, condition, rows, sources, streams(generator, count, first), batch_size,
                    dtype, callback, tensors, output_type)

    def _conditions(
        self, cond: Any, samples: int
    ) -> tuple[Condition | None, list[int], list[str] | None]:
        """Every condition once, which of them each sample has, those of one in a row, and each sample's source text."""
        if cond is None:
            return None, [], None
        config = self.denoiser.config
        if not config.classes and not config.source_dim:
            raise CheckpointError("this denoiser was trained without conditions; leave cond out and steer with guides")
        given = [str(one) for one in cond] if isinstance(cond, list) else [str(cond)]
        once = {one: place for place, one in enumerate(dict.fromkeys(given))}  # a source is encoded and held once
        unknown = sorted(set(once) - set(config.classes)) if config.classes else []
        if unknown:
            known = f"{', '.join(config.classes)}{nearest(unknown[0], config.classes)}"
            raise UserError(f"cond is {unknown[0]!r}, must be one of {known}")
        rows = [once[one] for one in given for _ in range(samples)]
        with torch.inference_mode(False):
            if config.source_dim:
                return self.codec.encode_condition(list(once)), rows, [one for one in given for _ in range(samples)]
            return Labels.of(list(once), config.classes).to(self._execution_device), rows, None

    def _decode_options(self, given: str | dict | None) -> dict:
        """Arguments of `codec.generate`; a name is a preset. Unknown ones are refused before the first step."""
        given = {"preset": given} if isinstance(given, str) else {} if given is None else given
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise UserError(f"decode_options is {shown(given)}, must be a name, such as 'greedy', or a dict of what "
                            "codec.generate takes, such as {'num_beams': 4}")
        options = ({"preset": self.decoding} if self.codec.presets else {}) | dict(given)
        self.codec.check_options(**options)
        return options

    def _diffusion(self, dtype: str | torch.dtype | None) -> GaussianDiffusion:
        return GaussianDiffusion(self.denoiser, dtype=self.config.dtype if dtype is None else dtype)
