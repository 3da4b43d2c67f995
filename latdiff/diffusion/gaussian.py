"""Training loss and denoise function side by side, so that the two cannot drift apart."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from diffusers.training_utils import compute_density_for_timestep_sampling
from torch import Tensor

from latdiff.config import TIMES
from latdiff.draws import Draws
from latdiff.models.conditions import Condition
from latdiff.models.denoiser import check_prediction
from latdiff.precision import autocast
from latdiff.schedule import add_noise, log_snr, v_target, x0_from_v


class Denoiser(Protocol):
    """A network that `GaussianDiffusion` trains and samples from.

    Attributes:
        config: has `prediction`, "v" or "x0"; `codec_digest`, of the codec whose latents it knows; `classes`, a list or
            None; and `source_dim`, the width of source features that it attends to, or 0.
    """

    config: Any

    def __call__(self, z: Tensor, log_snr: Tensor, cond: Condition | None = None,
                 x_prev: Tensor | None = None) -> Tensor:
        """A prediction [B, L, D] for z [B, L, D] at log-SNR [B], with an earlier estimate of x0 [B, L, D]."""


class GaussianDiffusion:
    """The denoiser as the two functions everything else needs.

    Args:
        denoiser: predicts v or x0 (its config says which).
        alpha2: signal variance of every timestep [T], a diffusers scheduler's `alphas_cumprod`; for the loss alone.
        self_conditioning: probability in training that an estimate of x0 comes in (Chen et al. 2023).
        condition_dropout: probability in training that the condition is left out (Ho & Salimans 2022).
        times: how training draws timesteps, see `training_times`.
        logit_mean: of logit-normal times.
        logit_std: of logit-normal times.
        dtype: to compute estimates in, of precision.DTYPES.

    Raises:
        ValueError: for a denoiser that predicts neither.
    """

    def __init__(
        self, denoiser: Denoiser, alpha2: Tensor | None = None, self_conditioning: float = 0.5,
        condition_dropout: float = 0.0, times: str = "stratified", logit_mean: float = 0.0, logit_std: float = 1.0,
        dtype: str | torch.dtype = "auto",
    ):
        self.denoiser, self.alpha2, self.dtype = denoiser, alpha2, dtype
        self.self_conditioning, self.condition_dropout = self_conditioning, condition_dropout
        self.times, self.logit_mean, self.logit_std = times, logit_mean, logit_std
        prediction = getattr(denoiser, "module", denoiser).config.prediction
        check_prediction(prediction)
        self.predicts_v = prediction == "v"

    def loss(self, x0: Tensor, generator: torch.Generator | Draws, cond: Condition | None = None) -> Tensor:
        """Mean squared error of the prediction at noise levels drawn anew for every row.

        Args:
            x0: clean latents [B, L, D].
            generator: on the CPU; it decides everything that is drawn. Or the draws of a batch of which these are B.
            cond: a condition for each of the B rows.

        Returns:
            The loss, a scalar.
        """
        if self.alpha2 is None:
            raise ValueError("a loss needs alpha2, the signal variance of every timestep")
        draws, steps = Draws.of(generator, len(x0)), len(self.alpha2)
        times = training_times(self.times, draws.batch, draws.generator, self.logit_mean, self.logit_std)[draws.own]
        alpha2 = self.alpha2.cpu()[(times * steps).long().clamp(max=steps - 1)]
        noise_level, signal = log_snr(alpha2).to(x0.device), alpha2.to(x0.device)
        eps = draws.randn(*x0.shape[1:]).to(x0)
        z = add_noise(x0, eps, signal)
        if cond is not None and self.condition_dropout:
            cond = cond.without(draws.rand() < self.condition_dropout)
        x_prev = torch.zeros_like(z)
        chosen = (draws.rand() < self.self_conditioning).nonzero().squeeze(1)
        if len(chosen):
            at = alpha2[chosen]
            chosen = chosen.to(x0.device)  # places, counted on the CPU: a GPU would have to be waited for
            with torch.no_grad():
                x_prev[chosen] = self.denoise(z[chosen], at, None if cond is None else cond[chosen])
        prediction = self.denoiser(z, noise_level, cond, x_prev)
        return F.mse_loss(prediction, v_target(x0, eps, signal) if self.predicts_v else x0)

    def denoise(self, z: Tensor, alpha2: Tensor, cond: Condition | None = None, x_prev: Tensor | None = None) -> Tensor:
        """Estimate of x0, in float32: a `sampling.Denoise`.

        Args:
            z: noisy latents [B, L, D].
            alpha2: their signal variance [B].
            cond: a condition for each row.
            x_prev: an earlier estimate [B, L, D].

        Returns:
            x0 [B, L, D].
        """
        half = getattr(self.denoiser, "dtype", None) == torch.float16  # whose norms do not take bfloat16 on a CPU
        with autocast(z.device.type, "float32" if half else self.dtype):
            prediction = self.denoiser(z, log_snr(alpha2).to(z.device), cond, x_prev).float()
        return x0_from_v(z.float(), prediction, alpha2.to(z.device)) if self.predicts_v else prediction


def training_times(
    times: str, batch: int, generator: torch.Generator, logit_mean: float = 0.0, logit_std: float = 1.0
) -> Tensor:
    """Times [B] in [0, 1] to train at.

    Args:
        times: `stratified` is one in each of B equal parts, which evens out the loss (Kingma et al. 2021, appendix
            I.1); `uniform` is B independent ones; `logit-normal` has a normal distribution of logits, so that there
            are more of them around sigmoid(logit_mean) (Esser et al. 2024, section 3.1).
        batch: B.
        generator: on the CPU.
        logit_mean: where logit-normal times gather.
        logit_std: how far they spread.

    Raises:
        ValueError: For any other name.
    """
    if times == "stratified":
        return (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    if times not in TIMES:
        raise ValueError(f"times is {times!r}, must be one of {', '.join(TIMES)}")
    return compute_density_for_timestep_sampling(
        times.replace("-", "_"), batch, logit_mean, logit_std, generator=generator
    )
