"""How a head steers: where its gradient is taken, how far it may push, how several of them add up.

Contract: `guide(denoise) -> denoise`, so that guides stack and a lambda can test one. `steer` is the same for
several guides of heads at once. All four modes move the denoiser's estimate, x0 <- x0 + scale * push, and differ in the
push (sigma/alpha is the noise-to-signal ratio of z_t):

    x0           min(sigma/alpha, 3) * grad of log p(y | x0) by x0. No gradient through the denoiser. The ramp
                 makes a push large where the estimate is still a guess, and gives the data the last word.
    denoiser     sigma^2/alpha * grad of log p(y | x0(z_t)) by z_t, through the denoiser, as in diffusion
                 posterior sampling (Chung et al. 2023).
    monte-carlo  the same of log mean_i p(y | x0(z_t) + sigma eps_i), after loss-guided diffusion (Song et al.
                 2023). sigma is the spread of x0 given z_t for standard Gaussian latents. With aggregate="dglm"
                 it is DGLM's own (Lovelace et al. 2024, by its code): -log mean_i 1 / p(y | x0(z_t) + sigma/alpha
                 eps_i) for infinitely many draws, which a linear head of two labels has in closed form.
    noisy        sigma^2/alpha * grad of log p_t(y | z_t) by z_t, for a head fitted on noised latents, as
                 STAR-LDM does. No gradient through the denoiser; with an exact head, exact at scale 1.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from latdiff.diffusion.modes import MODES
from latdiff.diffusion.noise import fork
from latdiff.diffusion.sampling import Denoise
from latdiff.errors import UserError, as_number, shown
from latdiff.schedule import log_snr

THROUGH = ("denoiser", "monte-carlo")  # the modes that differentiate through the denoiser
AGGREGATES = ("mean", "dglm")  # of mode monte-carlo
MAX_RAMP = 3.0  # of sigma/alpha in mode x0
USUAL_RADIUS = 1.3  # root mean square that whitened latents of real texts hardly reach
MAX_RATIO = 30.0  # of sigma/alpha elsewhere: where there is no signal, the gradient is numerical noise


class GuidanceError(UserError):
    """A guide that cannot be made or has gone wrong, in one sentence."""


class Head(Protocol):
    """What a guide needs of a head; `latdiff.heads` has three kinds."""

    name: str
    codec_digest: str | None  # None: any codec's latents will do
    radius: float | None  # the largest root mean square of latents that it knows; None: not known

    def log_prob_of(self, target: Any, x: Tensor, log_snr: Tensor | None = None) -> Tensor:
        """log p(target | x) [B], differentiable in x [B, L, D]: clean latents, or z_t with its log-SNR [B]."""

    def describe(self, target: Any) -> str:
        """The target in a few words, such as "positive"."""

    def excludes(self, one: Guide, two: Guide) -> bool:
        """Whether two guides of this head cannot both succeed."""


@dataclass(frozen=True)
class Guide:
    """Steers a denoise function towards one target of a head. Made by `head.toward(...)`.

    Args:
        head: whose log-probability it makes larger.
        target: what the head is asked for, in the head's own terms.
        scale: how far; what is usual depends on the mode.
        mode: one of MODES, see above.
        interval: the noise levels sigma, from 0 to 1, at which it acts.
        normalise: divide the gradient by its root mean square over a text's L x D, so that a head that is sure
            pushes as hard as one that is not; a push is then scale * ramp standard deviations long.
        clamp: the largest root mean square of one push, in latent standard deviations.
        draws: of mode monte-carlo.
        aggregate: of mode monte-carlo, "mean" or "dglm", see above.

    Raises:
        GuidanceError: For settings out of their range.
    """

    head: Head
    target: Any
    scale: float
    mode: str = "x0"
    interval: tuple[float, float] = (0.0, 1.0)
    normalise: bool = False
    clamp: float | None = None
    draws: int = 16
    aggregate: str = "mean"

    def __post_init__(self):
        wrong = []
        if self.aggregate not in AGGREGATES:
            wrong.append(f"aggregate is {self.aggregate!r}, must be one of {', '.join(AGGREGATES)}")
        elif self.aggregate != "mean" and self.mode != "monte-carlo":
            wrong.append(f"aggregate is {self.aggregate!r}, which is of mode monte-carlo, but mode is {self.mode!r}")
        elif self.aggregate == "dglm":
            self._odds()
        if self.mode not in MODES:
            wrong.append(f"mode is {self.mode!r}, must be one of {', '.join(MODES)}")
        wrong += self._settle_numbers()
        if wrong:
            raise GuidanceError(f"guide of head {self.head.name!r}: {'; '.join(wrong)}")

    def _settle_numbers(self) -> list[str]:
        """Make floats of what may be numpy's or torch's; what is wrong of them is returned."""
        wrong = []
        scale, clamp = as_number(self.scale), as_number(self.clamp)
        interval = [as_number(end) for end in self.interval] if isinstance(self.interval, Iterable) else []
        if not math.isfinite(scale):
            wrong.append(f"scale is {shown(self.scale)}, must be a finite number")
        if not (len(interval) == 2 and 0 <= interval[0] < interval[1] <= 1):
            wrong.append(f"interval is {shown(self.interval)}, must be (low, high) with 0 <= low < high <= 1")
        if self.clamp is not None and not clamp > 0:
            wrong.append(f"clamp is {shown(self.clamp)}, must be above 0")
        if not (isinstance(self.draws, Integral) and self.draws >= 1):
            wrong.append(f"draws is {shown(self.draws)}, must be 1 or more")
        settled = {"scale": scale, "interval": tuple(interval)} | ({} if self.clamp is None else {"clamp": clamp})
        for name, value in settled.items() if not wrong else ():
            object.__setattr__(self, name, value)  # of a frozen dataclass
        return wrong

    @property
    def title(self) -> str:
        """Such as "sentiment=positive"."""
        return f"{self.head.name}={self.head.describe(self.target)}"

    def __call__(self, denoise: Denoise) -> Denoise:
        """Wrap `denoise`."""
        return steer(denoise, [self])

    def log_prob(self, x: Tensor, log_snr: Tensor | None = None) -> Tensor:
        """log p(target | x) [B] of latents [B, L, D], with their log-SNR [B] where they are noised."""
        return self.head.log_prob_of(self.target, x, log_snr)

    def acts(self, signal: Tensor) -> Tensor:
        """Whether it acts at signal variance alpha^2 [B]: [B]."""
        sigma = (1 - signal).sqrt()
        return (sigma >= self.interval[0]) & (sigma <= self.interval[1])

    def push(self, x0: Tensor, z: Tensor, signal: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
        """How far the estimate is moved.

        Args:
            x0: the denoiser's estimate [B, L, D].
            z: the noisy latents that it was estimated from [B, L, D].
            signal: their signal variance alpha^2 [B].
            generators: one for each row, for mode monte-carlo.

        Returns:
            The scaled push on x0 [B, L, D], zero outside the interval.
        """
        alpha, sigma = signal.sqrt().view(-1, 1, 1), (1 - signal).sqrt().view(-1, 1, 1)
        most = MAX_RAMP if self.mode == "x0" else MAX_RATIO
        ramp = (sigma / alpha.clamp(min=1e-9)).clamp(max=most)
        if self.mode == "x0":
            at = x0.detach().requires_grad_()
            log_prob = self.log_prob(at)
        else:
            at, ramp = z, sigma * ramp
            log_prob = self._log_prob_from_z(x0, z, signal, sigma.to(z), generators)
        (gradient,) = torch.autograd.grad(log_prob.sum(), at, retain_graph=self.mode in THROUGH)
        if self.normalise:
            gradient = gradient / _rms(gradient).clamp(min=1e-12)
        pushed = self.scale * ramp.to(gradient) * gradient
        if self.clamp is not None:
            pushed = pushed * (self.clamp / _rms(pushed).clamp(min=1e-12)).clamp(max=1)
        return torch.where(self.acts(signal).view(-1, 1, 1).to(pushed.device), pushed, 0.0)

    def _log_prob_from_z(self, x0: Tensor, z: Tensor, signal: Tensor, sigma: Tensor, generators) -> Tensor:
        if self.mode == "noisy":
            return self.log_prob(z, log_snr(signal))
        if self.mode == "denoiser":
            return self.log_prob(x0)
        if self.aggregate == "dglm":
            return self._dglm(x0, signal)
        shape = (len(z), self.draws, *z.shape[1:])
        eps = randn_tensor(shape, generator=None if generators is None else list(generators), device=z.device)
        drawn = x0.unsqueeze(1) + sigma.unsqueeze(1) * eps.to(x0)
        return self.log_prob(drawn.flatten(0, 1)).view(-1, self.draws).logsumexp(1) - math.log(self.draws)


    def _dglm(self, x0: Tensor, signal: Tensor) -> Tensor:
        """-log E 1 / sigmoid(m + s), s of the variance v that the margin m of x0 + sigma/alpha eps has: [B].

        E exp(loss) = 1 + exp(-m + v / 2), so that it is a logistic loss of a margin that is v / 2 smaller.
        """
        weight, bias = self._odds()
        margin = (x0 * weight.to(x0)).sum((1, 2)) + bias.to(x0)
        spread = ((1 - signal) / signal.clamp(min=MAX_RATIO**-2)).to(x0)
        return -F.softplus(-margin + weight.square().sum().to(x0) * spread / 2)

    def _odds(self) -> tuple[Tensor, Tensor]:
        odds = getattr(self.head, "odds", None)
        if odds is None:
            raise GuidanceError(f"guide of head {self.head.name!r}: aggregate 'dglm' needs a head of two labels; "
                                "leave it out")
        return odds(self.target)


def steer(denoise: Denoise, guides: Sequence[Guide], generators: Sequence[torch.Generator] | None = None) -> Denoise:
    """Wrap `denoise` in several guides at once.

    All gradients are taken at the same estimate and added: a product of experts, in any order. The denoiser is called
    once, and run backwards only when a guide that acts asks for it.

    Args:
        denoise: estimates x0.
        guides: of heads.
        generators: one for each row, from which Monte-Carlo draws get streams of their own; None for torch's global
            random numbers.

    Returns:
        The steered denoise function, which raises GuidanceError, with the head's name, for a gradient that is not
        finite.
    """
    own = [None if generators is None else fork(generators, title) for title in titles(guides)]

    def guided(z: Tensor, alpha2: Tensor, cond=None, x_prev: Tensor | None = None) -> Tensor:
        acting = [(guide, draws) for guide, draws in zip(guides, own, strict=True) if guide.acts(alpha2).any()]
        if not acting:
            return denoise(z, alpha2, cond, x_prev)
        outer = torch.is_grad_enabled() and z.requires_grad  # a wrapper farther out differentiates through this one
        with torch.inference_mode(False), torch.enable_grad():
            z, x_prev = _ordinary(z), x_prev if x_prev is None else _ordinary(x_prev)
            z = z if outer else z.detach().requires_grad_()
            with torch.set_grad_enabled(outer or any(guide.mode in THROUGH for guide, _ in acting)):
                x0 = denoise(z, alpha2, cond, x_prev)
            pushes = [guide.push(x0, z, alpha2, draws) for guide, draws in acting]
        total = sum(pushes[1:], pushes[0])
        if not total.isfinite().all():
            _refuse_not_finite([guide for guide, _ in acting], pushes, alpha2)
        return (x0 if outer else x0.detach()) + total

    return guided


def _refuse_not_finite(guides: Sequence[Guide], pushes: Sequence[Tensor], alpha2: Tensor) -> None:
    guide = next((guide for guide, push in zip(guides, pushes, strict=True) if not push.isfinite().all()), guides[0])
    raise GuidanceError(
        f"the gradient of head {guide.head.name!r} towards {guide.head.describe(guide.target)} is not finite "
        f"where sigma is {(1 - alpha2[0]).sqrt().item():.3f} (mode {guide.mode}, scale {guide.scale:g}); lower the "
        "scale, or look at the head's weights"
    )


@dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance (Ho & Salimans 2022): x0 <- x0(nothing) + scale * (x0(cond) - x0(nothing)).

    Another wrapper around a denoise function, for a denoiser that was trained with conditions; both estimates come from
    one call with twice the rows. Linear, so that it is the same on x0 as on v.

    Args:
        scale: 1 is the conditional model itself, 0 the unconditional one.

    Raises:
        GuidanceError: For a scale that is not finite.
    """

    scale: float

    def __post_init__(self):
        scale = as_number(self.scale)
        if not math.isfinite(scale):
            raise GuidanceError(f"guidance_scale, that of classifier-free guidance, is {shown(self.scale)}, must be a "
                                "finite number")
        object.__setattr__(self, "scale", scale)  # of a frozen dataclass

    def __call__(self, denoise: Denoise) -> Denoise:
        """Wrap `denoise`."""

        def guided(z: Tensor, alpha2: Tensor, cond=None, x_prev: Tensor | None = None) -> Tensor:
            if cond is None or self.scale == 1:
                return denoise(z, alpha2, cond, x_prev)
            rows = torch.arange(2 * len(z))
            both = cond[rows % len(z)].without(rows < len(z))
            x_prev = None if x_prev is None else torch.cat([x_prev, x_prev])
            free, conditioned = denoise(torch.cat([z, z]), torch.cat([alpha2, alpha2]), both, x_prev).chunk(2)
            return torch.lerp(free, conditioned, self.scale)

        return guided


def stack(
    denoise: Denoise, guides: Sequence[Callable[[Denoise], Denoise]],
    generators: Sequence[torch.Generator] | None = None,
) -> Denoise:
    """Wrap `denoise` in guides of any kind, the first innermost; neighbouring Guides steer as one.

    Args:
        denoise: estimates x0.
        guides: functions from a denoise function to another.
        generators: one for each row, see `steer`.
    """
    together: list[Guide] = []
    for guide in [*guides, None]:
        if isinstance(guide, Guide):
            together.append(guide)
            continue
        if together:
            denoise, together = steer(denoise, together, generators), []
        if guide is not None:
            denoise = guide(denoise)
    return denoise


def warn_of_strain(x0: Tensor, guides: Sequence[Guide]) -> None:
    """Warn, once a call, when steered latents [B, L, D] lie farther out than anything that their head has seen.

    Half of the texts have to. The limit is the farthest of the head's own texts; latents are whitened, so that a
    head that does not know it takes USUAL_RADIUS.
    """
    if not guides:
        return
    limit = max(guide.head.radius or USUAL_RADIUS for guide in guides)
    reached = _rms(x0).median().item()
    if reached > limit:
        # The excess over 1, the radius of the data, grows about linearly with the scale.
        shrink = min(0.9, max(0.1, (limit - 1) / (reached - 1)))
        scales = ", ".join(f"{guide.title}:{guide.scale * shrink:.2g}" for guide in guides)
        warnings.warn(
            f"half of the steered latents lie off the data, {reached:.2f} standard deviations out or more, where the "
            f"farthest text lies at {limit:.2f}; their texts will suffer. Try {scales}",
            stacklevel=3,
        )


def warn_of_contradictions(guides: Sequence[Guide]) -> None:
    """Warn, once a call, when two guides ask one head for targets that exclude each other."""
    for i, one in enumerate(guides):
        for two in guides[:i]:
            if one.head.name == two.head.name and one.head.excludes(one, two):
                warnings.warn(f"{two.title} and {one.title} pull against each other; the stronger wins", stacklevel=3)


def titles(guides: Sequence[Guide]) -> list[str]:
    """A title for each of the guides, none twice."""
    found: list[str] = []
    for guide in guides:
        same = sum(title.split(" #")[0] == guide.title for title in found)
        found.append(f"{guide.title} #{same + 1}" if same else guide.title)
    return found


def _ordinary(x: Tensor) -> Tensor:
    # autograd cannot save what torch.inference_mode made
    return x.clone() if x.is_inference() else x


def _rms(x: Tensor) -> Tensor:
    """Root mean square over L and D: [B, L, D] -> [B, 1, 1]."""
    return x.square().mean((1, 2), keepdim=True).sqrt()
