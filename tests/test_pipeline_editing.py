"""Editing and interpolating texts."""

import numpy as np
import pytest
import torch
from toy_pipes import seeded

from latdiff.codecs.protocol import TextError
from latdiff.config import SCHEDULERS
from latdiff.diffusion.sampling import make_scheduler


def test_an_edit_keeps_more_the_weaker_it_is(pipe, stories):
    texts = [text for text, _ in stories[:6]]
    original = pipe.codec.encode(texts)
    far = [
        (pipe.edit(texts, strength=s, num_inference_steps=20, generator=seeded()).latents - original).norm().item()
        for s in (0.1, 0.5, 0.9)
    ]
    assert far[0] < far[1] < far[2]


def test_an_edit_moves_towards_its_guide(pipe, stories, head):
    texts = [text for text, _ in stories[:8]]
    plain, steered = (
        pipe.edit(texts, guides, strength=0.6, num_inference_steps=10, generator=seeded())
        for guides in ([], [head.toward("b", 1.0)])
    )
    assert len(steered.texts) == 8
    assert sum(steered.scores["mood=b"]) > head.predict_proba(plain.latents)[:, 1].sum()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_an_edit_runs_its_share_of_the_steps_under_every_scheduler(pipe, stories, name):
    pipe.scheduler = make_scheduler(name, pipe.scheduler.config.trained_betas)
    calls, forward = [], pipe.denoiser.forward
    pipe.denoiser.forward = lambda *arguments, **keywords: calls.append(1) or forward(*arguments, **keywords)
    texts = [text for text, _ in stories[:2]]
    first, again = (
        pipe.edit(texts, strength=0.5, num_inference_steps=10, generator=seeded()) for _ in range(2)
    )
    assert len(calls) == 2 * 5
    assert torch.equal(first.latents, again.latents)
    assert first.latents.isfinite().all()


def test_an_edit_of_full_strength_starts_from_noise(pipe, stories):
    pipe.scheduler = make_scheduler("ddim", pipe.scheduler.config.trained_betas)
    first, other = (
        pipe.edit([stories[0][0]], strength=1.0, num_inference_steps=4, generator=seeded(seed)).latents
        for seed in (0, 1)
    )
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("strength", [0, -1, 1.01, "x", None, torch.ones(2), float("nan")], ids=str)
def test_a_strength_out_of_range_is_refused(pipe, strength):
    with pytest.raises(ValueError, match=r"must be (a number, )?above 0 and at most 1"):
        pipe.edit(["a story"], strength=strength)


def test_a_strength_may_be_of_numpy_or_torch(pipe):
    kinds = (float, np.float32, np.array, torch.tensor)
    plain, *others = (pipe.edit("We met.", strength=kind(0.5), generator=seeded()).latents for kind in kinds)
    assert all(torch.equal(plain, other) for other in others)


def test_what_cannot_be_encoded_cannot_be_edited(pipe):
    with pytest.raises(TextError, match="empty"):
        pipe.edit(["", "a story"])


def test_an_interpolation_goes_from_one_text_to_the_other(pipe, stories):
    (a, _), (b, _) = stories[:2]
    out = pipe.interpolate(a, b, n=5)
    start, end = pipe.codec.encode([a, b])
    torch.testing.assert_close(out.latents[0], start, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(out.latents[-1], end, rtol=1e-3, atol=1e-4)
    away = [(x - start).norm().item() for x in out.latents]
    assert away == sorted(away)
    assert len(out.texts) == 5
    with pytest.raises(ValueError, match="n is 1, must be 2 or more"):
        pipe.interpolate(a, b, n=1)
