"""Sampling from the tiny checkpoint: seeds, decoding, schedulers, and what is refused."""

import json

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from toy_pipes import D, L, random_head, seeded

from latdiff.checkpoints import CheckpointError
from latdiff.diffusion.noise import streams
from latdiff.diffusion.sampling import SchedulerError, make_scheduler
from latdiff.errors import UserError
from latdiff.heads.attribute import AttributeHead
from latdiff.pipelines.files import open_checkpoint
from latdiff.pipelines.latent import LatentTextDiffusionPipeline


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
    ({"keep": 0}, r"keep is 0, must be at least 0\.01 and at most 1"), ({"keep": 1.5}, "keep is 1.5"),
    ({"keep": 1e-12}, "keep is 1e-12, must be at least"), ({"keep": torch.nan}, "keep is nan, must be a number"),
    ({"num_samples": 10**18}, "is 1000000000000000000 texts to draw, must be at most 100000000 in one call"),
    ({"num_samples": 10**400}, "is a number of about 401 digits texts to draw"),
    ({"num_samples": 10**6, "candidates": 101}, "texts to draw.*`latdiff sample --output`"),
    ({"num_samples": 10**7, "keep": 0.05}, "is 200000000 texts to draw.*calls with first="),
    ({"num_samples": 10**6, "cond": ["calm"] * 101}, "is 101000000 texts to draw"),
    ({"keep": None}, "keep is None, must be a number, at least"), ({"keep": "0.9"}, "keep is '0.9', must be a number"),
    ({"guidance_scale": None}, "guidance_scale, .* is None, must be a"), ({"guidance_scale": "2"}, "is '2', must be a"),
    ({"keep": 0.5, "output_type": "latent"}, "choose among texts"),
    ({"candidates": 2, "output_type": "latent"}, "choose among texts"),
    ({"num_inference_steps": 2.5}, r"num_inference_steps is 2\.5, must be a whole number"),
    ({"num_samples": 2.0}, r"num_samples is 2\.0, must be a whole number"),
    ({"generator": 5}, "generator is 5, must be one of torch's"), ({"generator": [1]}, "generator is 1, must be"),
    ({"guides": "mood=b"}, "guides holds 'mood=b', must be guides"), ({"guides": [None]}, "guides holds None"),
    ({"latents": [[1.0]]}, r"latents is \[\[1\.0\]\], must be a tensor"), ({"cond": []}, "cond is an empty list"),
    ({"latents": torch.full((1, L, D), torch.nan)}, "1 of 1 latents hold NaN or infinity"),
    ({"latents": 5}, "latents is 5, must be a tensor"), ({"latents": torch.zeros(1, L, D).bool()}, "dtype bool, must"),
    ({"latents": torch.zeros(1, L, D).int()}, "dtype int32, must be a tensor .* of floating-point numbers"),
    ({"latents": torch.zeros(1, L, D) * 1j}, "dtype complex64, must be a tensor .* of floating-point numbers"),
    ({"latents": torch.zeros(3, L, D), "num_samples": 2}, r"latents is of shape \[3, 3, 4\], must be \[2, 3, 4\]"),
    ({"keep": 0.5, "candidates": 2}, "does not go with candidates;"),
    ({"keep": 0.5, "latents": torch.zeros(2, L, D)}, "does not go with latents;"),
    ({"keep": 0.5, "cond": ["calm", "wild"]}, "does not go with a cond for each sample;"),
])
def test_what_a_call_cannot_take(pipe, settings, said):
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


@pytest.mark.parametrize("returned, said", [
    (5, "5, must return None or a dict"), (torch.zeros(2, L, D), "must return None or a dict"),
    ({"latents": None}, r"the latents None, must be .* of shape \[2, 3, 4\]"),
    ({"latents": torch.zeros(L, D)}, r"of shape \[3, 4\] and dtype float32, must be .* of shape \[2, 3, 4\]"),
    ({"latents": torch.zeros(3, L, D)}, r"of shape \[3, 3, 4\] and dtype float32"),
    ({"latents": torch.zeros(2, L, D) * 1j}, "and dtype complex64, must be"),
])
def test_a_callback_that_returns_something_else_is_refused(pipe, returned, said):
    with pytest.raises(UserError, match=f"callback_on_step_end returned .*{said}"):
        pipe(num_samples=2, callback_on_step_end=lambda *_: returned)


@pytest.mark.parametrize("returned", [None, {}, {"x0": 5}], ids=str)
def test_a_callback_that_returns_no_latents_changes_nothing(pipe, returned):
    out = pipe(generator=seeded(), callback_on_step_end=lambda *_: returned)
    assert torch.equal(out.latents, pipe(generator=seeded()).latents)


def test_decode_options_reach_generate(pipe):
    plain = pipe(num_samples=2, generator=seeded())
    other = pipe(num_samples=2, generator=seeded(), decode_options={"min_new_tokens": 3, "repetition_penalty": 5.0})
    assert torch.equal(plain.latents, other.latents)
    assert plain.texts != other.texts


@pytest.mark.parametrize("opened", [open_checkpoint, LatentTextDiffusionPipeline.from_pretrained])
def test_a_checkpoints_own_settings_of_writing_are_not_obeyed(talkative, tmp_path, opened):
    talkative.save_pretrained(tmp_path)
    file = tmp_path / "text_model" / "generation_config.json"
    own = json.loads(file.read_text(encoding="utf-8"))
    added = {"num_return_sequences": 2, "num_beams": 2, "suppress_tokens": [9, 10, 11]}
    file.write_text(json.dumps(own | added), encoding="utf-8")
    latents = torch.randn(3, L, D, generator=seeded())
    assert opened(tmp_path).codec.decode(latents) == talkative.codec.decode(latents)


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


@pytest.mark.parametrize("wrong", [
    "beam", {"num_beems": 4}, {"max_length": 9}, {"preset": ["greedy"]}, {"num_beams": 0}, {"num_beams": -1},
    {"num_beams": "x"}, {"repetition_penalty": 0}, {"no_repeat_ngram_size": 1.5}, {"length_penalty": "x"}, 5, 0,
    ["greedy"], {5: 1},
], ids=str)
def test_an_unknown_decoding_is_refused_before_the_first_step(pipe, wrong):
    pipe.denoiser = None
    for call, texts in ((pipe, []), (pipe.edit, [["a story"]]), (pipe.interpolate, ["a story", "another"])):
        with pytest.raises(UserError, match=r"decoding|must be a name|(beams|penalty|size) is .*"):
            call(*texts, decode_options=wrong)


def test_texts_that_were_cut_are_named(pipe):
    ids = torch.tensor([[0, 30, pipe.tokenizer.eos_token_id], [0, 30, 31], [0, 30, pipe.tokenizer.eos_token_id]])
    pipe.text_model.generate = lambda **options: ids
    with pytest.warns(UserWarning, match="1 of 3 texts are cut") as warnings:
        out = pipe(num_samples=3, generator=seeded())
    assert out.cut == [False, True, False]
    assert len(warnings) == 1


@pytest.mark.parametrize("settings, said", [
    ({"callback_on_step_end": 5}, r"callback_on_step_end is 5, must be a function \(pipe, step, timestep, tensors\)"),
    ({"callback_on_step_end_tensor_inputs": 5}, "inputs is 5, must be a list of latents, x0"),
    ({"callback_on_step_end_tensor_inputs": None}, "tensor_inputs is None, must be a list of"),
    ({"callback_on_step_end_tensor_inputs": [["latents"]]}, r"inputs holds \['latents'\], must be of latents, x0"),
])
def test_what_is_no_callback_is_refused(pipe, settings, said):
    pipe.denoiser.forward = pytest.fail
    for call, texts in ((pipe, []), (pipe.edit, ["We met."])):
        with pytest.raises(UserError, match=said):
            call(*texts, **settings)


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


def test_noise_of_ones_own_says_how_many_texts(pipe):
    assert len(pipe(latents=torch.zeros(3, L, D)).texts) == 3


def test_a_batch_of_nothing_is_refused_by_the_codec(pipe):
    for size in (0, -1):
        with pytest.raises(UserError, match="batch_size is"):
            pipe.codec.encode(["A story."], batch_size=size)
        with pytest.raises(UserError, match="batch_size is"):
            pipe.codec.decode(torch.zeros(1, L, D), batch_size=size)


def test_a_head_of_latents_of_another_shape_is_refused(pipe):
    head = AttributeHead(name="mood").fit(torch.randn(20, L, D + 1), ["a", "b"] * 10)
    with pytest.raises(CheckpointError, match="head 'mood' was fitted on latents"):
        pipe(guides=head.toward("a"))
    flat = AttributeHead().fit(torch.randn(20, L * D), ["a", "b"] * 10)
    assert len(pipe(guides=flat.toward("a", 0.1)).texts) == 1
