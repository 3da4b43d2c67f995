"""STAR-LDM's joint loss and its denoise function side by side, so that the two cannot drift apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latdiff.data.tokens import IGNORED
from latdiff.draws import Draws
from latdiff.lm import Past, look_ahead
from latdiff.models.conditions import Condition
from latdiff.models.levels import cosine_log_snr, v_weight
from latdiff.models.star import Layout, StarPlanner, read_with_plan
from latdiff.schedule import add_noise, log_snr, v_target, x0_from_v


class StarLoss(nn.Module):
    """Next tokens and the plan from one call of the language model (STAR-LDM, Lovelace et al. 2025).

    forward(x0 [B', L, D], B prefixes and B continuations as ids, generator on the CPU) -> nats a token, a scalar, and
    the weighted squared error of v, another. B' is B; where the draws of a batch take the generator's place, only their
    rows are computed, which are B' of the B. Both losses see the same noisy plan, whatever its level: where there is
    much noise, the language model learns to do without it.

    Args:
        language_model: a causal one, trained.
        planner: trained with it.
        condition_dropout: probability that the plan is estimated without the text (Ho & Salimans 2022).
    """

    def __init__(self, language_model, planner: StarPlanner, condition_dropout: float = 0.1):
        super().__init__()
        self.language_model, self.planner, self.condition_dropout = language_model, planner, condition_dropout

    def forward(
        self, x0: Tensor, prefixes: Sequence[list[int]], continuations: Sequence[list[int]],
        generator: torch.Generator | Draws,
    ) -> tuple[Tensor, Tensor]:
        draws = Draws.of(generator, len(x0))
        levels = cosine_log_snr(draws.batch, draws.generator)[draws.own].to(x0)
        eps = draws.randn(*x0.shape[1:]).to(x0)
        dropped = draws.rand() < self.condition_dropout
        signal = levels.sigmoid()
        prompts = self.planner.prompts(add_noise(x0, eps, signal), levels)
        layout = Layout.of(prefixes, continuations, prompts.shape[1])[draws.own].to(x0.device)
        features, hidden = read_with_plan(self.language_model, prompts, layout)
        v = self.planner.estimate(prompts, self.planner.without(hidden, dropped), levels)
        errors = (v - v_target(x0, eps, signal)).square().mean((1, 2))
        return self._nats(features, layout.labels), (v_weight(levels) * errors).mean()

    def _nats(self, features: Tensor, labels: Tensor) -> Tensor:
        learnt = labels != IGNORED
        logits = self.language_model.get_output_embeddings()(features[learnt])
        return F.cross_entropy(logits.float(), labels[learnt])


@torch.no_grad()
def continuation_nats(
    language_model, prompts: Tensor | None, prefixes: Sequence[list[int]], continuations: Sequence[list[int]]
) -> Tensor:
    """Negative log-likelihood of continuations behind their prefixes and plans, in nats [B].

    Args:
        language_model: a causal one.
        prompts: soft prompts [B, K, H] of plans; None for the language model by itself.
        prefixes: B rows of ids.
        continuations: B rows of ids, which end with end-of-text.
    """
    words = language_model.get_input_embeddings().weight
    prompts = words.new_zeros(len(prefixes), 0, words.shape[1]) if prompts is None else prompts
    layout = Layout.of(prefixes, continuations, prompts.shape[1]).to(words.device)
    features, _ = read_with_plan(language_model, prompts, layout)
    logits = language_model.get_output_embeddings()(features).float()
    nats = F.cross_entropy(logits.mT, layout.labels, reduction="none", ignore_index=IGNORED)
    first = torch.tensor([len(row) for row in prefixes], device=nats.device) - 1 + prompts.shape[1]
    return nats.masked_fill(torch.arange(nats.shape[1], device=nats.device) < first[:, None], 0).sum(1)


class Thinking:
    """Estimates the plans of texts whose first words were read once: a `sampling.Denoise`.

    Args:
        language_model: a causal one.
        planner: trained with it.
        past: what the language model has read of B texts.
        guidance_scale: v <- v(nothing) + scale * (v(text) - v(nothing)); at 1 only the latter is computed, at 0 only
            the former, which takes no call of the language model (Ho & Salimans 2022).
    """

    def __init__(self, language_model, planner: StarPlanner, past: Past, guidance_scale: float = 1.0):
        self.language_model, self.planner, self.past = language_model, planner, past
        self.guidance_scale = guidance_scale

    def __call__(
        self, z: Tensor, alpha2: Tensor, cond: Condition | None = None, x_prev: Tensor | None = None
    ) -> Tensor:
        """Estimate x0 [B, L, D] of z [B, L, D] at signal variance [B]; neither a condition nor x_prev is read."""
        return x0_from_v(z.float(), self.v(z, log_snr(alpha2).to(z.device)), alpha2.to(z.device))

    def v(self, z: Tensor, levels: Tensor) -> Tensor:
        """v [B, L, D] of z [B, L, D] at log-SNR [B]."""
        prompts = self.planner.prompts(z, levels)
        if self.guidance_scale == 0:
            return self.planner.estimate(prompts, None, levels)
        hidden = look_ahead(self.language_model, self.past, prompts)
        v = self.planner.estimate(prompts, hidden, levels)
        if self.guidance_scale == 1:
            return v
        return torch.lerp(self.planner.estimate(prompts, None, levels), v, self.guidance_scale)
