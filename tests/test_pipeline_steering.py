"""Guides of the pipeline: scores, codecs, warnings."""

import pytest
import torch
from toy_pipes import D, L, random_head, seeded

from latdiff import CallableHead, fit_head
from latdiff.checkpoints import CheckpointError
from latdiff.errors import UserError


def test_a_guide_steers_and_its_score_says_how_far(pipe, head):
    plain = pipe(num_samples=16, generator=seeded())
    before = head.log_prob(plain.latents)[:, 1].exp().mean().item()
    out = pipe(num_samples=16, guides=[head.toward("b", scale=2.0)], generator=seeded())
    assert list(out.scores) == ["mood=b"]
    assert out.scores["mood=b"] == pytest.approx(head.predict_proba(out.latents)[:, 1].tolist(), rel=1e-4)
    assert sum(out.scores["mood=b"]) / 16 > before + 0.1


def test_two_guides_have_two_scores(pipe, head):
    other = random_head(pipe.codec.digest, labels=("x", "y"))
    other.name = "tone"
    out = pipe(num_samples=3, guides=[head.toward("a"), other.toward("y")], generator=seeded())
    assert set(out.scores) == {"mood=a", "tone=y"}
    assert all(len(values) == 3 for values in out.scores.values())


def test_a_lambda_can_guide(pipe):
    def toward_one(denoise):
        return lambda z, alpha2, cond=None, x_prev=None: torch.ones_like(z)

    out = pipe(num_samples=2, guides=[toward_one], generator=seeded())
    torch.testing.assert_close(out.latents, torch.ones(2, L, D))
    assert out.scores == {}


@pytest.mark.parametrize("output_type", ["text", "latent"])
@pytest.mark.parametrize("cause", ["guide", "callback"])
def test_latents_that_are_not_finite_are_not_decoded(pipe, monkeypatch, output_type, cause):
    def broken(latents):
        return torch.cat([latents[:1], latents[1:] * torch.nan])

    settings = {
        "guide": {"guides": lambda denoise: lambda *given: broken(denoise(*given))},
        "callback": {"callback_on_step_end": lambda pipe, step, t, tensors: {"latents": broken(tensors["latents"])}},
    }[cause]
    monkeypatch.setattr(type(pipe.codec), "generate", lambda *_, **__: pytest.fail("decoded"))
    said = "the latents of 2 of 3 texts hold NaN .*the first at index 1; a guide, a callback_on_step_end or latents"
    for call, texts in ((pipe, {"num_samples": 3}), (pipe.edit, {"texts": ["We met at the lake."] * 3})):
        with pytest.raises(UserError, match=said):
            call(**texts, output_type=output_type, **settings)


def test_a_head_fits_and_steers_on_the_pipelines_own_latents(pipe, stories):
    texts, labels = zip(*stories, strict=True)
    head = fit_head(pipe.codec, list(texts), list(labels), name="tone")
    out = pipe(
        num_samples=2, guides=[head.toward("positive", scale=4.0)], num_inference_steps=5, generator=seeded()
    )
    assert len(out.scores["tone=positive"]) == 2


def test_a_head_of_another_codec_is_refused_with_both_digests(pipe):
    with pytest.raises(CheckpointError) as error:
        pipe(guides=[random_head("0123456789abcdef").toward("a")])
    assert "0123456789abcdef" in str(error.value)
    assert pipe.codec.digest in str(error.value)
    assert "mood" in str(error.value)


def test_contradictory_guides_run_and_say_so(pipe, head):
    with pytest.warns(UserWarning, match="mood=a and mood=b pull against each other"):
        out = pipe(num_samples=2, guides=[head.toward("a"), head.toward("b")], generator=seeded())
    assert len(out.texts) == 2


def test_latents_driven_off_the_data_are_warned_of_once(pipe, head):
    head.radius = 1.5
    with pytest.warns(UserWarning, match="lie off the data, .*Try mood=a:") as warnings:
        pipe(num_samples=4, guides=[head.toward("a", 300.0)], generator=seeded())
    assert sum("off the data" in str(warning.message) for warning in warnings) == 1


def test_any_function_of_latents_can_steer(pipe):
    def close_to_two(x):
        return -(x - 2).square().mean((1, 2))

    plain = pipe(num_samples=4, generator=seeded()).latents
    guide = CallableHead(close_to_two, name="two").guide(scale=3.0)
    out = pipe(num_samples=4, guides=[guide], generator=seeded())
    assert (out.latents - 2).abs().mean() < 0.7 * (plain - 2).abs().mean()
    assert len(out.scores["two=high"]) == 4


def test_steering_works_in_inference_mode(pipe, head):
    guides = [head.toward("a"), CallableHead(lambda x: -x.square().mean((1, 2)), name="small").guide(1.0)]
    plain = pipe(num_samples=2, guides=guides, generator=seeded())
    with torch.inference_mode():
        out = pipe(num_samples=2, guides=guides, generator=seeded())
    torch.testing.assert_close(out.latents, plain.latents)
    assert out.scores["mood=a"] == pytest.approx(plain.scores["mood=a"], rel=1e-4)


def test_two_guides_of_one_title_have_two_scores(pipe, head):
    guides = [head.toward("a"), head.toward("a", mode="denoiser")]
    assert list(pipe(num_samples=2, guides=guides, generator=seeded()).scores) == ["mood=a", "mood=a #2"]
