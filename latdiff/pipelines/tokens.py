"""The pipeline that writes texts by diffusion of their tokens: masked, in blocks, or uniform."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from latdiff.checkpoints import CheckpointError
from latdiff.codecs.protocol import TextError, as_texts
from latdiff.diffusion.noise import Seeds, streams
from latdiff.discrete.processes import Blocks, Masked, Process, Uniform
from latdiff.errors import UserError, check_number, check_whole, nearest
from latdiff.lm import load_pretrained
from latdiff.models.backbone import fast_attention
from latdiff.models.token_model import mask_id_of
from latdiff.nats import Nats
from latdiff.versions import record_versions

WORD = "a"  # in place of a blank, to see which tokens a mark behind it has
BLANK = "____"  # stands for what `infill` writes
PROCESSES = ("masked", "block", "uniform")


@dataclass
class TokenPipelineOutput(BaseOutput):
    """What a call returns.

    Attributes:
        texts: B strings.
        sequences: their tokens [B, L], filled up behind their end.
        calls: how often the network read each, [B].
    """

    texts: list[str]
    sequences: Tensor
    calls: Tensor


class TokenDiffusionPipeline(DiffusionPipeline):
    """Texts from masks or noise, all L tokens of each at once or block by block.

    Args:
        tokenizer: of transformers, with an end-of-text token, which also fills a text up.
        model: a `latdiff.models.token_model`.
        process: masked, block or uniform.
        length: L, the tokens of a text with its end.
        block_size: of block diffusion, which must divide `length`.
        num_inference_steps: used when a call names none.
        top_p: likewise.

    Raises:
        CheckpointError: For a tokenizer that the model does not fit, or another process.
    """

    _optional_components: ClassVar[list[str]] = []
    __module__ = "latdiff"

    def __init__(self, tokenizer, model: LlamaForCausalLM, process: str = "masked", length: int = 80,
                 block_size: int = 4, num_inference_steps: int = 64, top_p: float = 1.0):
        super().__init__()
        if tokenizer.eos_token_id is None or len(tokenizer) != mask_id_of(model):
            raise CheckpointError(f"the tokenizer has {len(tokenizer):,} tokens, but the model is of "
                                  f"{mask_id_of(model):,} and a mask; take both from one checkpoint")
        if process not in PROCESSES:
            raise CheckpointError(f"process is {process!r}, must be one of {', '.join(PROCESSES)}"
                                  f"{nearest(str(process), PROCESSES)}")
        self.register_modules(tokenizer=tokenizer, model=model)
        self.register_to_config(process=process, length=length, block_size=block_size,
                                num_inference_steps=num_inference_steps, top_p=top_p)

    @classmethod
    def parts_of(cls, folder: Path) -> dict:
        """Tokenizer and model of a saved pipeline, which `open_checkpoint` loads apart, to refuse missing weights."""
        tokenizer, model = load_pretrained(
            AutoModelForCausalLM, folder / "model", lambda reason: CheckpointError(f"{folder / 'model'} {reason}"),
            folder / "tokenizer")
        return {"tokenizer": tokenizer, "model": fast_attention(model)}

    def save_pretrained(self, save_directory, *arguments, **settings) -> None:
        """As diffusers', with the versions of the libraries."""
        super().save_pretrained(save_directory, *arguments, **settings)
        record_versions(Path(save_directory))

    @property
    def process(self) -> Process:
        """What noise does to tokens."""
        made = {"masked": Masked, "uniform": Uniform,
                "block": lambda: Blocks(self.config.block_size, self.tokenizer.eos_token_id)}
        return made[self.config.process]()

    @torch.no_grad()
    def __call__(
        self, num_samples: int = 1, num_inference_steps: int | None = None, order: str | None = None,
        top_p: float | None = None, generator: Seeds = None, batch_size: int = 256, return_dict: bool = True,
    ) -> TokenPipelineOutput | tuple:
        """Write texts.

        Args:
            num_samples: B.
            num_inference_steps: of the sampler; the more, the fewer tokens are written without regard to each other.
            order: in which tokens are written, one of `processes.ORDERS` (default: the process's own).
            top_p: less than 1 draws from the nucleus (default: the pipeline's).
            generator: torch's, or a list with one for each text; text i does not depend on how many there are.
            batch_size: how many texts at once.
            return_dict: False returns a tuple.

        Returns:
            The texts.

        Raises:
            UserError: For what is out of range, or an order that the process does not have.

        Examples:
            >>> from latdiff import open_checkpoint
            >>> pipe = open_checkpoint("checkpoints/masked")
            >>> len(pipe(num_samples=2, num_inference_steps=8).texts)
            2
        """
        num_samples = check_whole("num_samples", num_samples)
        masks = torch.full((num_samples, self.config.length), mask_id_of(self.model))
        out = self._write(masks, num_inference_steps, order, top_p, streams(generator, num_samples), batch_size)
        return out if return_dict else out.to_tuple()

    @torch.no_grad()
    def infill(
        self, text: str, blank_tokens: int | Sequence[int], num_samples: int = 1,
        num_inference_steps: int | None = None, top_p: float | None = None, generator: Seeds = None,
        batch_size: int = 256,
    ) -> TokenPipelineOutput:
        """Write what is missing of a text, such as "On a rainy day, ____ . My aunt laughed".

        Args:
            text: with ____ for what is missing, once or more.
            blank_tokens: how many tokens each blank has, or a number for each.
            num_samples: B.
            num_inference_steps: of the sampler.
            top_p: less than 1 draws from the nucleus.
            generator: torch's, or a list with one for each text.
            batch_size: how many texts at once.

        Returns:
            B texts, in which what was given is as it was.

        Raises:
            UserError: For a text without a blank, a number of tokens that is none, a text that is too long, and a
                process that cannot fill in.
        """
        if not self.process.fills:
            raise UserError(f"{self.config.process} diffusion does not write between tokens that are given; take a "
                            "checkpoint of masked diffusion")
        num_samples = check_whole("num_samples", num_samples)
        ids = torch.tensor(self._with_masks(text, blank_tokens)).expand(num_samples, -1)
        return self._write(ids, num_inference_steps, None, top_p, streams(generator, num_samples), batch_size)

    def _with_masks(self, text: str, blank_tokens: int | Sequence[int]) -> list[int]:
        """Ids [L] of a text, masks in place of its blanks."""
        (text,) = as_texts(text)
        parts = text.split(BLANK)
        if len(parts) < 2:
            raise UserError(f"the text has no blank; put {BLANK} where words are to be written")
        counts = [blank_tokens] * (len(parts) - 1) if isinstance(blank_tokens, int) else list(blank_tokens)
        if len(counts) != len(parts) - 1:
            raise UserError(f"blank_tokens has {len(counts)} numbers for {len(parts) - 1} blanks; give one for each")
        ids = self._ids(parts[0])
        for count, part in zip(counts, parts[1:], strict=True):
            ids += [mask_id_of(self.model)] * check_whole("blank_tokens", count) + self._ids_behind(part)
        return self._filled_up([ids])[0]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text.strip(), add_special_tokens=False).input_ids if text.strip() else []

    def _ids_behind(self, part: str) -> list[int]:
        """Ids of what stands behind a blank; a mark belongs to the word before it, with or without a space."""
        mark = re.match(r"\s*[.,;:!?'’]", part)
        if not mark:
            return self._ids(part)
        first = self._ids(WORD)
        return self._ids(WORD + part.lstrip())[len(first) :]

    def _filled_up(self, rows: Sequence[list[int]]) -> list[list[int]]:
        """Rows of ids with their end, filled up to L with it. Raises TextError for one that is too long."""
        length, end = self.config.length, self.tokenizer.eos_token_id
        for index, row in enumerate(rows):
            if len(row) >= length:
                raise TextError(f"text {index} of {len(rows)} has {len(row)} tokens, must have fewer than {length}; "
                                "shorten it")
        return [row + [end] * (length - len(row)) for row in rows]

    @torch.no_grad()
    def log_prob(self, texts: Iterable[str], draws: int = 128, generator: Seeds = None, batch_size: int = 256) -> Nats:
        """How likely N texts are at least, each as its tokens and L - T ends behind them.

        Args:
            texts: N of them.
            draws: of noise for each text, where the bound is an estimate; its error falls with their square root, or
                faster.
            generator: torch's, or a list with one for each text.
            batch_size: how many texts at once.

        Returns:
            Nats [N]; NaN for a text that is too long, or has pieces that the tokenizer does not know.

        Raises:
            TextError: For a text that is missing or empty.
        """
        rows = list(map(self._ids, as_texts(texts)))
        read = torch.tensor([len(row) < self.config.length and self.tokenizer.unk_token_id not in row for row in rows])
        ids = torch.tensor(self._filled_up(list(itertools.compress(rows, read))), device=self.model.device)
        own = list(itertools.compress(streams(generator, len(rows)), read))
        batch_size = check_whole("batch_size", batch_size)
        found = [self.process.bound(self.model, ids[at : at + batch_size], own[at : at + batch_size], draws)
                 for at in range(0, len(ids), batch_size)]
        values, errors = torch.full((2, len(rows)), torch.nan, dtype=torch.float64)
        values[read] = -torch.cat([one.nats.cpu().double() for one in found] or [values[:0]])
        errors[read] = torch.cat([one.error.cpu().double() for one in found] or [errors[:0]])
        exact = self.process.exact
        return Nats(values, "exact" if exact else "bound", None if exact else errors)

    def _write(self, ids: Tensor, steps: int | None, order: str | None, top_p: float | None,
               own: Sequence[torch.Generator], batch_size: int) -> TokenPipelineOutput:
        steps = check_whole("num_inference_steps", self.config.num_inference_steps if steps is None else steps)
        top_p = check_number("top_p", self.config.top_p if top_p is None else top_p, above=0, most=1)
        batch_size, words = check_whole("batch_size", batch_size), {} if order is None else {"order": order}
        parts = []
        for at in self.progress_bar(range(0, len(ids), batch_size)):
            some = slice(at, at + batch_size)
            parts.append(self.process.write(self.model, ids[some].to(self.model.device), steps, own[some], top_p,
                                            **words))
        sequences = torch.cat([part.ids for part in parts]).cpu()
        texts = self.tokenizer.batch_decode(self._until_end(sequences), skip_special_tokens=True)
        return TokenPipelineOutput(texts, sequences, torch.cat([part.calls for part in parts]).cpu())

    def _until_end(self, sequences: Tensor) -> list[list[int]]:
        end = self.tokenizer.eos_token_id
        return [row[: row.index(end)] if end in row else row for row in sequences.tolist()]
