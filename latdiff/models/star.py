"""What a language model thinks with: soft prompts made from a noisy plan, and the plan estimated from what it read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from torch import Tensor, nn

from latdiff.data.tokens import IGNORED
from latdiff.models.layers import AdaptiveBlock, LogSnrEmbedding, Norm
from latdiff.models.levels import LIMIT
from latdiff.models.saved import SavedModel


class Modulated(nn.Module):
    """Blocks under the noise level: [B, K, W] and its embedding [B, W] -> [B, K, W]; they begin as the identity."""

    def __init__(self, width: int, depth: int, heads: int):
        super().__init__()
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(AdaptiveBlock(width, heads) for _ in range(depth))
        self.norm = Norm(width)
        nn.init.zeros_(self.modulation[1].weight)
        nn.init.zeros_(self.modulation[1].bias)

    def forward(self, x: Tensor, at: Tensor) -> Tensor:
        modulation = rearrange(self.modulation(at), "b (six w) -> b six w", six=6)
        for block in self.blocks:
            x = block(x, modulation)
        return self.norm(x)


class PromptGenerator(nn.Module):
    """A noisy plan [B, L, D], scaled by its signal, and its level [B, W] -> soft prompts [B, K, H]."""

    def __init__(self, latent_size: int, num_prompts: int, prompt_dim: int, width: int, depth: int, heads: int):
        super().__init__()
        self.num_prompts = num_prompts
        self.latents_in = nn.Linear(latent_size, num_prompts * width)
        self.trunk = Modulated(width, depth, heads)
        self.out = nn.Linear(width, prompt_dim)

    def forward(self, plan: Tensor, at: Tensor) -> Tensor:
        x = rearrange(self.latents_in(plan.flatten(1)), "b (k w) -> b k w", k=self.num_prompts)
        return self.out(self.trunk(x, at))


class ScoreHead(nn.Module):
    """Soft prompts [B, K, H], hidden states there [B, K, H] and the level [B, W] -> v [B, L, D]; at first 0."""

    def __init__(self, latent_shape: tuple[int, int], num_prompts: int, prompt_dim: int, width: int, depth: int,
                 heads: int):
        super().__init__()
        self.latent_shape = latent_shape
        self.features_in = nn.Linear(2 * prompt_dim, width)
        self.positions = nn.Parameter(torch.randn(num_prompts, width) * 0.5)
        self.trunk = Modulated(width, depth, heads)
        self.out = nn.Linear(num_prompts * width, latent_shape[0] * latent_shape[1])
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, prompts: Tensor, hidden: Tensor, at: Tensor) -> Tensor:
        x = self.features_in(torch.cat([prompts, hidden], -1)) + self.positions
        return self.out(self.trunk(x, at).flatten(1)).unflatten(1, self.latent_shape)


class StarPlanner(SavedModel):
    """The two networks around a language model that stops, thinks and writes on (STAR-LDM, Lovelace et al. 2025).

    The plan of a text, in latents of a codec, is denoised between two of its tokens. At every step the language model
    reads the plan as K soft prompts behind the text so far, and its hidden states there say what the text makes of it.

    The plan comes in as alpha z, the best estimate for standard Gaussian latents: at pure noise nothing of it is left,
    and the soft prompts are the same whatever the noise is.

    Args:
        num_latents: L.
        latent_dim: D.
        prompt_dim: H, the width of the language model.
        num_prompts: K.
        width: of both networks.
        depth: blocks in each.
        heads: must divide width.
        codec_digest: of the codec whose latents are plans; a pipeline refuses any other.
    """

    __module__ = "latdiff"  # what a saved pipeline names: no file

    @register_to_config
    def __init__(
        self, num_latents: int, latent_dim: int, prompt_dim: int, num_prompts: int = 8, width: int = 256,
        depth: int = 2, heads: int = 4, codec_digest: str = "",
    ):
        super().__init__()
        self.time = LogSnrEmbedding(width)
        self.generator = PromptGenerator(num_latents * latent_dim, num_prompts, prompt_dim, width, depth, heads)
        self.head = ScoreHead((num_latents, latent_dim), num_prompts, prompt_dim, width, depth, heads)
        self.nothing = nn.Parameter(torch.zeros(num_prompts, prompt_dim))  # in place of what the text says

    @torch.no_grad()
    def begin_at(self, scale: float) -> None:
        """Before training: soft prompts as large as a language model's embeddings, of standard deviation `scale`."""
        self.generator.out.weight.mul_(3**0.5 * scale)
        self.generator.out.bias.zero_()

    def prompts(self, z: Tensor, log_snr: Tensor) -> Tensor:
        """Soft prompts of a noisy plan.

        Args:
            z: alpha x0 + sigma eps, [B, L, D].
            log_snr: [B]; -inf where there is no plan, and z is not read.

        Returns:
            [B, K, H].
        """
        alpha = log_snr.sigmoid().sqrt().view(-1, 1, 1)
        return self.generator((alpha * z).to(self.nothing.dtype), self._level(log_snr))

    def estimate(self, prompts: Tensor, hidden: Tensor | None, log_snr: Tensor) -> Tensor:
        """v of the noisy plan that the prompts were made of.

        Args:
            prompts: [B, K, H].
            hidden: the language model's last hidden states at the prompts [B, K, H]; None for the estimate that knows
                nothing of the text, which takes no call of the language model.
            log_snr: [B].

        Returns:
            [B, L, D], in float32.
        """
        hidden = self.nothing.expand(len(prompts), -1, -1) if hidden is None else hidden
        return self.head(prompts, hidden.to(prompts), self._level(log_snr)).float()

    def without(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """Hidden states [B, K, H] without what the text says where rows [B] is True."""
        return torch.where(rows.to(hidden.device)[:, None, None], self.nothing.to(hidden), hidden)

    def _level(self, log_snr: Tensor) -> Tensor:
        return self.time(log_snr.clamp(-LIMIT, LIMIT))


@dataclass(frozen=True)
class Layout:
    """B texts with K places for a plan in each, padded behind.

    Attributes:
        ids: [B, T]; what stands in the places of the plan is not read.
        slots: the places of the plan [B, K].
        labels: [B, T], the id that each place predicts; none before and within the plan but for its last place, which
            predicts the first id behind it.
    """

    ids: Tensor
    slots: Tensor
    labels: Tensor

    @classmethod
    def of(cls, prefixes: Sequence[list[int]], continuations: Sequence[list[int]], num_prompts: int) -> Layout:
        """Of ids before and behind the plan, B rows each; the latter end with end-of-text."""
        rows, wanted = [], []
        for before, behind in zip(prefixes, continuations, strict=True):
            rows.append([*before, *[0] * num_prompts, *behind[:-1]])
            wanted.append([*before[1:], *[IGNORED] * num_prompts, *behind])
        longest = max(map(len, rows))
        begun = torch.tensor([len(before) for before in prefixes])
        return cls(
            torch.tensor([row + [0] * (longest - len(row)) for row in rows]),
            begun[:, None] + torch.arange(num_prompts),
            torch.tensor([row + [IGNORED] * (longest - len(row)) for row in wanted]),
        )

    def __getitem__(self, rows: slice) -> Layout:
        """Some of the texts, padded as all of them are."""
        return Layout(self.ids[rows], self.slots[rows], self.labels[rows])

    def to(self, device: torch.device | str) -> Layout:
        """A copy on a device."""
        return Layout(*(part.to(device) for part in (self.ids, self.slots, self.labels)))


def begun(language_model, tokenizer, ids: Sequence[list[int]]) -> list[list[int]]:
    """Rows of ids behind beginning-of-text, or behind end-of-text where a language model has none."""
    start = language_model.config.bos_token_id
    return [[tokenizer.eos_token_id if start is None else start, *row] for row in ids]


def read_with_plan(language_model, prompts: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """One call of the language model on texts with their plans.

    Args:
        language_model: a causal one of transformers.
        prompts: [B, K, H].
        layout: of B texts with K places.

    Returns:
        Its last hidden states [B, T, H], and those at the plan [B, K, H].
    """
    words = language_model.get_input_embeddings()(layout.ids)
    places = layout.slots[..., None].expand(-1, -1, words.shape[-1])
    inputs = words.scatter(1, places, prompts.to(words))
    features = language_model.base_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    return features, features.gather(1, places)
