"""A denoiser that is conditioned on a class or a source text, in the pipeline."""

import numpy as np
import pandas as pd
import pytest
import torch
from denoisers import random_denoiser
from toy_pipes import D, L, random_head, seeded

from latdiff.checkpoints import CheckpointError
from latdiff.codecs.protocol import Decoded
from latdiff.codecs.t5 import TextCodec
from latdiff.diffusion.sampling import make_scheduler
from latdiff.errors import UserError
from latdiff.pipelines.files import open_checkpoint


@pytest.fixture(params=["label", "text"])
def conditional(request, pipe):
    """A pipeline whose denoiser reads a condition, with random weights, and two conditions for it."""
    settings = {"classes": ["calm", "wild"]} if request.param == "label" else {"source_dim": 16}
    pipe.register_modules(denoiser=random_denoiser(codec_digest=pipe.codec.digest, **settings))
    return pipe, (["calm", "wild"] if request.param == "label" else ["I walked.", "On a wet Monday, Lucy hurried."])


def latents_of(pipe, **settings):
    return pipe(generator=seeded(1), **settings).latents


def test_a_condition_changes_the_sample_alone(conditional):
    pipe, (one, two) = conditional
    both = latents_of(pipe, cond=[one, two])
    assert both.shape[0] == 2  # a list says how many
    torch.testing.assert_close(both[0], latents_of(pipe, num_samples=2, cond=one)[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(both[1], latents_of(pipe, num_samples=2, cond=two)[1], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(both, latents_of(pipe, num_samples=2), atol=1e-2)


def test_chunks_of_a_batch_keep_their_conditions(conditional):
    pipe, (one, two) = conditional
    noise = torch.randn(3, 3, 4, generator=seeded(2))
    pipe.scheduler = make_scheduler("ddim", pipe.scheduler.config.trained_betas)  # draws no noise of its own
    cond = [one, two, two]
    whole, chunked = (latents_of(pipe, cond=cond, latents=noise, batch_size=size) for size in (3, 2))
    torch.testing.assert_close(chunked, whole, rtol=1e-3, atol=1e-3)


def test_a_guide_through_a_conditional_denoiser_works_in_inference_mode(conditional):
    pipe, (one, two) = conditional
    guide = random_head(pipe.codec.digest).toward("a", 1.0, "denoiser")
    plain = latents_of(pipe, cond=[one, two], guides=[guide])
    with torch.inference_mode():
        inside = latents_of(pipe, cond=[one, two], guides=[guide])
    torch.testing.assert_close(inside, plain)


def test_the_guidance_scale_leads_from_no_condition_to_the_one_given(conditional):
    pipe, (one, _) = conditional
    free, plain, more = (latents_of(pipe, cond=one, guidance_scale=scale) for scale in (0, 1, 2))
    torch.testing.assert_close(free, latents_of(pipe))
    assert not torch.allclose(plain, more, atol=1e-3)
    edited = pipe.edit(["I walked."], cond=one, guidance_scale=0, generator=seeded(1)).latents
    torch.testing.assert_close(edited, pipe.edit(["I walked."], generator=seeded(1)).latents)


def test_the_best_of_some_candidates_is_one_of_them(conditional, monkeypatch):
    pipe, (one, two) = conditional
    texts = ["odd", "a b c d e", "a b c d f", "x y z w v", "strange", "x y z w u"]
    cut = [True, False] * 3
    monkeypatch.setattr(TextCodec, "generate", lambda *_, **__: Decoded(texts, cut))
    out = pipe(cond=[one, two], candidates=3, generator=seeded(1))
    assert (out.texts, out.cut) == (["a b c d e", "x y z w v"], [False, False])
    all_six = latents_of(pipe, cond=[one] * 3 + [two] * 3)
    torch.testing.assert_close(out.latents, all_six[[1, 3]], rtol=1e-3, atol=1e-3)


def test_some_samples_of_one_condition_are_kept(conditional):
    pipe, (one, _) = conditional
    torch.testing.assert_close(
        latents_of(pipe, cond=[one] * 2, keep=0.5), latents_of(pipe, cond=one, num_samples=2, keep=0.5)
    )


def test_conditions_may_come_as_arrays_series_or_generators(conditional):
    pipe, given = conditional
    expected = pipe(list(given), generator=torch.Generator().manual_seed(0)).texts
    for several in (tuple(given), np.array(given), pd.Series(given), (one for one in given)):
        assert pipe(several, generator=torch.Generator().manual_seed(0)).texts == expected
    (alone,) = pipe(np.array(given)[0], generator=torch.Generator().manual_seed(0)).texts
    assert alone == expected[0]


def test_what_is_no_condition_is_refused_and_not_made_a_text(conditional):
    pipe, (one, _) = conditional
    for wrong, said in (({one}, "cond is a set, must be a text"), (b"calm", "cond is a bytes"), ({one: 1}, "is a dict"),
                        ([one, None], "cond 1 of 2 is None, must be a text"), ([float("nan")], "cond 0 of 1 is nan"),
                        ([[one]], "cond 0 of 1 is \\['"), ([], "cond is an empty list")):
        with pytest.raises(UserError, match=said):
            pipe(wrong)


def test_conditions_that_are_refused(conditional, tiny):
    pipe, (one, _) = conditional
    for settings, said in (
        ({"cond": "" if pipe.denoiser.config.source_dim else "cal"}, "empty" if pipe.denoiser.config.source_dim
         else "did you mean calm"),
        ({"cond": one, "candidates": 0}, "candidates is 0"),
        ({"cond": [one] * 2, "latents": torch.zeros(3, L, D)}, r"of shape \[3, 3, 4\], must be \[2, 3, 4\]"),
        ({"candidates": 2, "latents": torch.zeros(3, L, D)}, r"of shape \[3, 3, 4\], must be \[2, 3, 4\]"),
        ({"cond": one, "candidates": 2, "utility": "blue", "callback_on_step_end": pytest.fail}, "did you mean bleu"),
        ({"cond": one, "guidance_scale": float("nan")}, "must be a finite number"),
        ({"guidance_scale": 2.0}, "there is no cond to guide towards"),
    ):
        with pytest.raises(UserError, match=said):
            pipe(**settings)
    with pytest.raises(CheckpointError, match="trained without conditions"):
        open_checkpoint(tiny.checkpoint)(cond=one)
