"""The pipeline on the tiny checkpoint: seeds, guides, schedulers, conditions, and what it refuses."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from latdiff import AttributeHead, CallableHead, fit_head
from latdiff.checkpoints import CheckpointError
from latdiff.codecs.protocol import Decoded, TextError
from latdiff.codecs.t5 import TextCodec
from latdiff.config import SCHEDULERS
from latdiff.diffusion.noise import streams
from latdiff.diffusion.sampling import SchedulerError, make_scheduler
from latdiff.errors import UserError
from latdiff.models.denoiser import LatentDenoiser
from latdiff.pipelines.files import open_checkpoint

L, D = 3, 4


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_head(digest, labels=("a", "b", "c")):
    weight, bias = torch.randn(len(labels), L, D, generator=seeded()), torch.zeros(len(labels))
    return AttributeHead.from_weights(list(labels), weight, bias, name="mood", codec_digest=digest)


@pytest.fixture
def head(pipe):
    return random_head(pipe.codec.digest)


# Sampling


def test_the_seed_decides(talkative):
    first, again, other = (talkative(num_samples=6, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.latents, again.latents)
    assert first.texts == again.texts
    assert not torch.allclose(first.latents, other.latents)
    assert first.texts != other.texts


def test_as_many_texts_as_asked_for_and_the_latents_they_came_from(pipe):
    out = pipe(num_samples=5, generator=seeded())
    assert len(out.texts) == 5
    assert out.latents.shape == (5, L, D)
    assert out.texts == pipe.codec.decode(out.latents)
    assert out.scores == {}


def test_what_is_kept_lies_nearest_to_its_own_texts(talkative):
    guide = random_head(talkative.codec.digest).toward("b", 1.0)
    drawn = talkative(num_samples=20, guides=[guide], generator=seeded())
    distances = talkative.codec.round_trip(drawn.latents, drawn.texts)
    kept = talkative(num_samples=14, guides=[guide], keep=0.7, generator=seeded())
    rows = sorted(distances.argsort(stable=True)[:14].tolist())
    assert rows != list(range(14))
    assert torch.equal(kept.latents, drawn.latents[rows])
    assert kept.texts == [drawn.texts[row] for row in rows]
    assert kept.scores["mood=b"] == [drawn.scores["mood=b"][row] for row in rows]
    assert kept.cut == [drawn.cut[row] for row in rows]


def test_keeping_all_is_how_it_always_was(talkative):
    kept, plain = talkative(num_samples=4, keep=1, generator=seeded()), talkative(num_samples=4, generator=seeded())
    assert kept.texts == plain.texts


@pytest.mark.parametrize(("settings", "said"), [
    ({"keep": 0}, "keep is 0, must be above 0"), ({"keep": 1.5}, "keep is 1.5"),
    ({"keep": 0.5, "candidates": 2}, "does not go with candidates;"),
    ({"keep": 0.5, "latents": torch.zeros(2, L, D)}, "does not go with latents;"),
    ({"keep": 0.5, "cond": ["calm", "wild"]}, "does not go with a cond for each sample;"),
])
def test_what_cannot_be_kept(pipe, settings, said):
    with pytest.raises(UserError, match=said):
        pipe(callback_on_step_end=pytest.fail, **settings)


def test_the_default_steps_are_the_checkpoints(pipe):
    calls = []
    pipe(callback_on_step_end=lambda *arguments: calls.append(arguments))
    assert len(calls) == 3  # sampling.steps of the recipe
    calls.clear()
    pipe(num_inference_steps=5, callback_on_step_end=lambda *arguments: calls.append(arguments))
    assert len(calls) == 5


def test_starting_noise_can_be_given(pipe):
    noise = torch.stack([torch.randn(L, D, generator=stream) for stream in streams(seeded(5), 4)])
    pipe.scheduler = make_scheduler("ddim", pipe.scheduler.config.trained_betas)
    given = pipe(num_samples=4, latents=noise)
    torch.testing.assert_close(given.latents, pipe(num_samples=4, generator=seeded(5)).latents)


def test_batches_leave_a_deterministic_samplers_results_alone(pipe):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    whole, parts = (pipe(num_samples=5, generator=seeded(), batch_size=size).latents for size in (256, 2))
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)


def test_a_callback_sees_each_step_and_can_replace_the_latents(pipe):
    seen = []

    def callback(own, step, timestep, state):
        assert own is pipe
        seen.append((step, int(timestep), state["latents"].shape))
        return {"latents": torch.full_like(state["latents"], 0.5)} if step == 3 else None

    out = pipe(num_samples=2, num_inference_steps=4, generator=seeded(), callback_on_step_end=callback)
    assert [step for step, *_ in seen] == [0, 1, 2, 3]
    assert [t for _, t, _ in seen] == [999, 749, 499, 249]
    assert {shape for *_, shape in seen} == {(2, L, D)}
    assert (out.latents == 0.5).all()


def test_decode_options_reach_generate(pipe):
    plain = pipe(num_samples=2, generator=seeded())
    other = pipe(num_samples=2, generator=seeded(), decode_options={"min_new_tokens": 3, "repetition_penalty": 5.0})
    assert torch.equal(plain.latents, other.latents)
    assert plain.texts != other.texts


def test_a_decoding_has_a_name(talkative, stories):
    texts = [text for text, _ in stories[:2]]
    calls = [
        lambda way: talkative(num_samples=2, generator=seeded(), decode_options=way),
        lambda way: talkative.edit(texts, generator=seeded(), decode_options=way),
        lambda way: talkative.interpolate(*texts, n=2, decode_options=way),
    ]
    for call in calls:
        out = call("ld4lg")
        assert out.texts == talkative.codec.decode(out.latents, preset="ld4lg")
        assert out.texts != call("greedy").texts == call(None).texts


@pytest.mark.parametrize("wrong", ["beam", {"num_beems": 4}, {"max_length": 9}], ids=str)
def test_an_unknown_decoding_is_refused_before_the_first_step(pipe, wrong):
    pipe.denoiser = None
    for call, texts in ((pipe, []), (pipe.edit, [["a story"]]), (pipe.interpolate, ["a story", "another"])):
        with pytest.raises(UserError, match="decoding"):
            call(*texts, decode_options=wrong)


def test_texts_that_were_cut_are_named(pipe):
    ids = torch.tensor([[0, 30, pipe.tokenizer.eos_token_id], [0, 30, 31], [0, 30, pipe.tokenizer.eos_token_id]])
    pipe.text_model.generate = lambda **options: ids
    with pytest.warns(UserWarning, match="1 of 3 texts are cut") as warnings:
        out = pipe(num_samples=3, generator=seeded())
    assert out.cut == [False, True, False]
    assert len(warnings) == 1


@pytest.mark.parametrize("numbers", [{"num_samples": 0}, {"num_samples": -3}, {"num_inference_steps": 0}])
def test_nothing_to_do_is_refused(pipe, numbers):
    with pytest.raises(ValueError, match="must be 1"):
        pipe(**numbers)


def test_more_steps_than_the_schedule_has_are_refused(pipe):
    with pytest.raises(ValueError, match="num_inference_steps is 1001, must be 1 to 1000"):
        pipe(num_inference_steps=1001)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_pipeline_on_the_gpu_writes_what_it_writes_on_the_cpu(pipe, head):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    here = pipe(num_samples=4, guides=[head.toward("a", 1.0)], generator=seeded())
    there = pipe.to("cuda")(num_samples=4, guides=[head.toward("a", 1.0)], generator=seeded())
    torch.testing.assert_close(there.latents.cpu(), here.latents, rtol=1e-2, atol=1e-2)


def test_the_decoding_of_a_checkpoint_is_used_unless_a_call_names_another(pipe, tmp_path):
    pipe.register_to_config(decoding="ld4lg")
    pipe.save_pretrained(tmp_path)
    again = open_checkpoint(tmp_path)
    with torch.no_grad():
        again.autoencoder.features_out[-1].weight.mul_(100)  # so that the texts differ
    noise = torch.randn(4, L, D, generator=seeded())
    names = (None, "greedy", "ld4lg")
    texts = {name: again(latents=noise, generator=seeded(), decode_options=name).texts for name in names}
    assert texts[None] == texts["ld4lg"] != texts["greedy"]
    wider = again(latents=noise, generator=seeded(), decode_options={"num_beams": 1}).texts
    expected = again.codec.decode(again(latents=noise, generator=seeded()).latents, preset="ld4lg", num_beams=1)
    assert wider == expected


# Steering


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


# Editing


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


def test_two_guides_of_one_title_have_two_scores(pipe, head):
    guides = [head.toward("a"), head.toward("a", mode="denoiser")]
    assert list(pipe(num_samples=2, guides=guides, generator=seeded()).scores) == ["mood=a", "mood=a #2"]


@pytest.mark.parametrize("strength", [0, -1, 1.01])
def test_a_strength_out_of_range_is_refused(pipe, strength):
    with pytest.raises(ValueError, match="must be above 0 and at most 1"):
        pipe.edit(["a story"], strength=strength)


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


# Schedulers


def test_the_scheduler_can_be_swapped_as_in_diffusers(pipe):
    before = pipe(num_samples=3, generator=seeded(), num_inference_steps=5)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, algorithm_type="sde-dpmsolver++"
    )
    first, again = (pipe(num_samples=3, generator=seeded(), num_inference_steps=5) for _ in range(2))
    assert torch.equal(first.latents, again.latents)
    assert not torch.allclose(first.latents, before.latents)
    assert pipe.scheduler.config.prediction_type == "sample"


@pytest.mark.parametrize(
    "scheduler",
    [DDIMScheduler(), DDIMScheduler(prediction_type="v_prediction"), EulerDiscreteScheduler()],
    ids=["epsilon", "v", "euler"],
)
def test_a_scheduler_of_the_wrong_kind_is_refused(pipe, scheduler):
    pipe.scheduler = scheduler
    with pytest.raises(
        SchedulerError, match=f"{type(scheduler).__name__} with prediction_type=.*does not fit"
    ):
        pipe()


# Conditions


@pytest.fixture(params=["label", "text"])
def conditional(request, pipe):
    """A pipeline whose denoiser reads a condition, with random weights, and two conditions for it."""
    settings = {"classes": ["calm", "wild"]} if request.param == "label" else {"source_dim": 16}
    torch.manual_seed(0)
    denoiser = LatentDenoiser(3, 4, width=16, depth=1, heads=2, codec_digest=pipe.codec.digest, **settings)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.normal_(std=0.3)
    pipe.register_modules(denoiser=denoiser.eval())
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


def test_noise_of_ones_own_says_how_many_texts(pipe):
    assert len(pipe(latents=torch.zeros(3, L, D)).texts) == 3


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
