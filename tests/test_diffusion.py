"""The loss and the denoise function, against denoisers whose answers are known."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler

from latdiff.diffusion.gaussian import GaussianDiffusion, training_times
from latdiff.models.denoiser import LatentDenoiser
from latdiff.schedule import add_noise, betas

ALPHA2 = DDPMScheduler(trained_betas=betas("cosine")).alphas_cumprod


@pytest.fixture
def x0():
    return torch.randn(16, 3, 4, generator=torch.Generator().manual_seed(1))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Knowing(torch.nn.Module):
    """Knows x0: with it and z, v follows from the noise level."""

    def __init__(self, x0, prediction):
        super().__init__()
        self.config = SimpleNamespace(prediction=prediction)
        self.x0, self.calls = x0, []

    def forward(self, z, log_snr, cond=None, x_prev=None):
        self.calls.append(SimpleNamespace(
            z=z, log_snr=log_snr, cond=cond, x_prev=None if x_prev is None else x_prev.clone(),
            gradient=torch.is_grad_enabled(),
        ))
        x0 = self.x0 if len(z) == len(self.x0) else self.x0[: len(z)]
        if self.config.prediction == "x0":
            return x0
        alpha2 = torch.sigmoid(log_snr.double()).view(-1, 1, 1)
        return ((alpha2.sqrt() * z - x0) / (1 - alpha2).sqrt()).float()


@pytest.fixture(params=["v", "x0"])
def prediction(request):
    return request.param


@pytest.fixture
def network(prediction):
    torch.manual_seed(0)
    model = LatentDenoiser(3, 4, width=16, depth=1, heads=2, prediction=prediction)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def test_whoever_knows_x0_has_no_loss(x0, prediction):
    diffusion = GaussianDiffusion(Knowing(x0, prediction), ALPHA2, self_conditioning=0)
    assert diffusion.loss(x0, seeded()) < 1e-3
    assert diffusion.loss(x0 + 1, seeded()) > 0.5  # the one that knows another x0 has


def test_who_says_zero_pays_the_targets_variance(x0, prediction):
    new = LatentDenoiser(3, 4, width=16, depth=1, heads=2, prediction=prediction)
    large = torch.randn(4000, 3, 4, generator=seeded(2))
    # unit variance of data and noise: both targets have unit variance
    assert GaussianDiffusion(new, ALPHA2).loss(large, seeded()).item() == pytest.approx(1, abs=0.03)


def test_denoise_finds_the_x0_that_was_known(x0, prediction):
    diffusion = GaussianDiffusion(Knowing(x0, prediction), ALPHA2)
    t = torch.linspace(0, 990, len(x0)).long()
    z = add_noise(x0, torch.randn(x0.shape, generator=seeded()), ALPHA2[t])
    torch.testing.assert_close(diffusion.denoise(z, ALPHA2[t]), x0, rtol=1e-3, atol=1e-3)


def test_every_weight_gets_a_gradient(x0, network):
    GaussianDiffusion(network, ALPHA2, self_conditioning=0.5).loss(x0, seeded()).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_a_few_steps_lower_the_loss(x0, network):
    diffusion = GaussianDiffusion(network, ALPHA2)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    before = diffusion.loss(x0, seeded()).item()
    for step in range(30):
        optimizer.zero_grad()
        diffusion.loss(x0, seeded(step)).backward()
        optimizer.step()
    assert diffusion.loss(x0, seeded()).item() < 0.9 * before


@torch.no_grad()
def test_the_loss_depends_on_the_generators_seed_alone(x0, network):
    diffusion = GaussianDiffusion(network, ALPHA2)
    torch.manual_seed(1)
    first = diffusion.loss(x0, seeded(5))
    torch.manual_seed(2)
    assert torch.equal(diffusion.loss(x0, seeded(5)), first)
    assert not torch.equal(diffusion.loss(x0, seeded(6)), first)


@torch.no_grad()
def test_arguments_are_left_as_they_were(x0, network):
    diffusion = GaussianDiffusion(network, ALPHA2, self_conditioning=1)
    alpha2 = ALPHA2.clone()
    arguments = [x0, 2 * x0, ALPHA2[300].repeat(16), x0.flip(0)]
    before = [argument.clone() for argument in arguments]
    diffusion.loss(arguments[0], seeded())
    diffusion.denoise(arguments[1], arguments[2], None, arguments[3])
    assert all(map(torch.equal, arguments, before))
    assert torch.equal(diffusion.alpha2, alpha2)


def test_timesteps_cover_all_noise_levels_evenly(x0, prediction):
    knowing = Knowing(x0, prediction)
    GaussianDiffusion(knowing, ALPHA2, self_conditioning=0).loss(x0, seeded())
    (call,) = knowing.calls
    steps = [(ALPHA2 - torch.sigmoid(snr)).abs().argmin().item() for snr in call.log_snr]
    # one in each sixteenth of the schedule; the ends are clamped, so they are left out
    assert [step * 16 // 1000 for step in steps][1:-1] == list(range(1, 15))


# Self-conditioning


def test_estimates_come_in_without_gradient(x0, prediction):
    knowing = Knowing(x0, prediction)
    GaussianDiffusion(knowing, ALPHA2, self_conditioning=1).loss(x0, seeded())
    estimate, final = knowing.calls
    assert not estimate.gradient
    assert final.gradient
    assert estimate.x_prev is None or not estimate.x_prev.any()
    torch.testing.assert_close(final.x_prev, x0, rtol=1e-2, atol=1e-2)


def test_without_self_conditioning_nothing_comes_in(x0, prediction):
    knowing = Knowing(x0, prediction)
    GaussianDiffusion(knowing, ALPHA2, self_conditioning=0).loss(x0, seeded())
    (call,) = knowing.calls
    assert not call.x_prev.any()


def test_estimates_come_in_as_often_as_asked(prediction):
    x0 = torch.ones(400, 1, 1)
    knowing = Knowing(x0, prediction)
    GaussianDiffusion(knowing, ALPHA2, self_conditioning=0.25).loss(x0, seeded())
    estimate, final = knowing.calls
    assert (final.x_prev != 0).sum() == len(estimate.z)
    assert len(estimate.z) / 400 == pytest.approx(0.25, abs=0.06)


def test_conditions_follow_their_rows(x0, prediction):
    knowing = Knowing(x0, prediction)
    cond = torch.arange(16)
    GaussianDiffusion(knowing, ALPHA2, self_conditioning=0.5).loss(x0, seeded(), cond)
    estimate, final = knowing.calls
    assert torch.equal(final.cond, cond)
    torch.testing.assert_close(estimate.z, final.z[estimate.cond])


def test_denoise_hands_on_what_it_is_given(x0, prediction):
    knowing = Knowing(x0, prediction)
    GaussianDiffusion(knowing, ALPHA2).denoise(x0, torch.full((16,), 0.5), "words", x0 + 2)
    (call,) = knowing.calls
    assert call.cond == "words"
    assert torch.equal(call.x_prev, x0 + 2)


class Remembering:
    """A condition that remembers for which rows it was left out."""

    def __init__(self):
        self.rows = None

    def without(self, rows):
        self.rows = rows
        return self

    def __getitem__(self, rows):
        return self


def test_the_condition_is_left_out_as_often_as_asked(prediction):
    x0, cond = torch.randn(4000, 3, 4, generator=seeded(3)), Remembering()
    knowing = Knowing(x0, prediction)
    GaussianDiffusion(knowing, ALPHA2, self_conditioning=0, condition_dropout=0.2).loss(x0, seeded(), cond)
    assert cond.rows.float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert knowing.calls[-1].cond is cond


def test_without_a_condition_its_dropout_changes_nothing(x0, network):
    losses = [GaussianDiffusion(network, ALPHA2, 0.5, share).loss(x0, seeded()).item() for share in (0, 0.5)]
    assert losses[0] == losses[1]


def test_stratified_times_fall_one_into_each_part():
    times = training_times("stratified", 1000, seeded())
    assert (times * 1000).long().tolist() == list(range(1000))


@pytest.mark.parametrize(("times", "quarter", "half"), [("uniform", 0.25, 0.5), ("logit-normal", 0.136, 0.728)])
def test_the_share_of_times_in_the_middle(times, quarter, half):
    # logit-normal: |randn| < log 3 for times between a quarter and three
    found = training_times(times, 20000, seeded())
    shares = torch.histc(found, bins=4, min=0, max=1) / 20000
    assert [shares[0], shares[1] + shares[2], shares[3]] == pytest.approx([quarter, half, quarter], abs=0.015)


def test_logit_normal_times_gather_where_they_are_asked_to():
    logits = training_times("logit-normal", 20000, seeded(), logit_mean=0.75, logit_std=0.8).logit()
    assert logits.mean().item() == pytest.approx(0.75, abs=0.03)
    assert logits.std().item() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("wrong", ["bla", "V", "", None, ["v"], 0])
def test_a_prediction_that_there_is_not(x0, wrong):
    said = r"^prediction is .*, must be v or x0, as the denoiser was trained"
    with pytest.raises(ValueError, match=said):
        GaussianDiffusion(Knowing(x0, wrong))
    with pytest.raises(ValueError, match=said):
        LatentDenoiser(3, 4, width=16, depth=1, heads=2, prediction=wrong)


def test_times_that_there_are_not():
    with pytest.raises(ValueError, match="must be one of stratified, uniform, logit-normal"):
        training_times("cosine", 4, seeded())


@pytest.mark.parametrize("asked", [("uniform", 0.0, 1.0), ("logit-normal", 0.75, 0.8)])
def test_training_draws_the_times_that_were_asked_for(x0, asked):
    knowing, (times, mean, std) = Knowing(x0, "x0"), asked
    diffusion = GaussianDiffusion(knowing, ALPHA2, self_conditioning=0, times=times, logit_mean=mean, logit_std=std)
    diffusion.loss(x0, seeded())
    t = (training_times(times, len(x0), seeded(), mean, std) * 1000).long()
    alpha2 = torch.sigmoid(knowing.calls[0].log_snr)
    torch.testing.assert_close(alpha2, ALPHA2[t], rtol=1e-3, atol=1e-4)
