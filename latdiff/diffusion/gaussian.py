"""Training loss and denoise function side by side, so that the two cannot drift apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.training_utils import compute_density_for_timestep_sampling
from torch import Tensor

from latdiff.config import TIMES
from latdiff.models.denoiser import LatentDenoiser
from latdiff.precision import fast_autocast
from latdiff.schedule import add_noise, log_snr, v_target, x0_from_v


class GaussianDiffusion:
    """The denoiser as the two functions everything else needs.

    Args:
        denoiser: predicts v or x0 (its config says which).
        alpha2: signal variance per timestep [T], a diffusers scheduler's `alphas_cumprod`.
        self_conditioning: probability in training that an estimate of x0 comes in (Chen et al. 2023).
        condition_dropout: probability in training that the condition is left out (Ho & Salimans 2022).
        times, logit_mean, logit_std: how training draws timesteps, see `drawn`.
    """

    def __init__(
        self, denoiser: LatentDenoiser, alpha2: Tensor, self_conditioning: float = 0.5, condition_dropout: float = 0.0,
        times: str = "stratified", logit_mean: float = 0.0, logit_std: float = 1.0,
    ):
        self.denoiser, self.alpha2 = denoiser, alpha2
        self.self_conditioning, self.condition_dropout = self_conditioning, condition_dropout
        self.times, self.logit_mean, self.logit_std = times, logit_mean, logit_std
        self.predicts_v = getattr(denoiser, "module", denoiser).config.prediction == "v"

    def loss(self, x0: Tensor, generator: torch.Generator, cond=None) -> Tensor:
        """Mean squared error of the prediction for x0 [B, L, D], at timesteps `drawn` anew for every row.

        cond, if there is one, holds a condition for each of the B rows: see conditions.
        """
        batch, steps = len(x0), len(self.alpha2)
        times = drawn(self.times, batch, generator, self.logit_mean, self.logit_std)
        t = (times * steps).long().clamp(max=steps - 1).to(x0.device)
        alpha2 = self.alpha2.to(x0.device)[t]
        eps = torch.randn(x0.shape, generator=generator).to(x0)
        z = add_noise(x0, eps, alpha2)
        if cond is not None and self.condition_dropout:
            cond = cond.without(torch.rand(batch, generator=generator) < self.condition_dropout)
        x_prev = torch.zeros_like(z)
        chosen = (torch.rand(batch, generator=generator) < self.self_conditioning).nonzero().squeeze(1)
        if len(chosen):
            chosen = chosen.to(x0.device)  # places, counted on the CPU: a GPU would have to be waited for
            with torch.no_grad():
                x_prev[chosen] = self.denoise(z[chosen], t[chosen], None if cond is None else cond[chosen])
        prediction = self.denoiser(z, log_snr(alpha2), cond, x_prev)
        return F.mse_loss(prediction, v_target(x0, eps, alpha2) if self.predicts_v else x0)

    def denoise(self, z: Tensor, t: Tensor, cond=None, x_prev: Tensor | None = None) -> Tensor:
        """Estimate of x0 [B, L, D] for z [B, L, D] at integer timesteps t [B]; x_prev is an earlier estimate."""
        alpha2 = self.alpha2.to(z.device)[t]
        with fast_autocast(z.device.type):
            prediction = self.denoiser(z, log_snr(alpha2), cond, x_prev).float()
        return x0_from_v(z, prediction, alpha2) if self.predicts_v else prediction


def drawn(
    times: str, batch: int, generator: torch.Generator, logit_mean: float = 0.0, logit_std: float = 1.0
) -> Tensor:
    """Times [B] in [0, 1] to train at.

    `stratified` is one in each of B equal parts, which evens out the loss (Kingma et al. 2021, appendix I.1);
    `uniform` is B by themselves; `logit-normal` has a normal distribution of logits, so that there are more of them
    around sigmoid(logit_mean) (Esser et al. 2024, section 3.1). Raises ValueError for any other name.
    """
    if times == "stratified":
        return (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    if times not in TIMES:
        raise ValueError(f"times is {times!r}, must be one of {', '.join(TIMES)}")
    return compute_density_for_timestep_sampling(
        times.replace("-", "_"), batch, logit_mean, logit_std, generator=generator
    )
