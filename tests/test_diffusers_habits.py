"""What a user of diffusers tries first: each habit of StableDiffusionPipeline and DiTPipeline, on ours."""

import warnings

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from denoisers import random_denoiser
from diffusers import DDIMScheduler

from latdiff import AttributeHead, LatentTextDiffusionPipeline
from latdiff.codecs.t5 import TextCodec
from latdiff.diffusion.sampling import SchedulerError, make_scheduler
from latdiff.errors import UserError

L, D = 3, 4


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def guide(pipe):
    weight = torch.randn(2, L, D, generator=seeded(3))
    head = AttributeHead.from_weights(["a", "b"], weight, torch.zeros(2), name="mood", codec_digest=pipe.codec.digest)
    return head.toward("a", 0.5)


@pytest.fixture
def conditional(talkative):
    """A pipeline whose denoiser reads a class, with random weights."""
    denoiser = random_denoiser(L, D, codec_digest=talkative.codec.digest, classes=["calm", "wild"])
    talkative.register_modules(denoiser=denoiser)
    return talkative


# Half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_pipeline_loads_in_half_precision(tiny, dtype):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*dtype")
        pipe = LatentTextDiffusionPipeline.from_pretrained(tiny.checkpoint, dtype=dtype)
    assert {pipe.denoiser.dtype, pipe.autoencoder.dtype, pipe.text_model.dtype} == {dtype}
    out = pipe(num_samples=2, generator=seeded())
    assert out.latents.dtype == torch.float32
    assert out.latents.isfinite().all()


def test_a_pipeline_is_converted_saved_and_opened_again(pipe, tmp_path, guide):
    plain = pipe(num_samples=4, generator=seeded()).latents
    half = pipe.to(torch.bfloat16)
    out = half(num_samples=4, guides=guide, generator=seeded())
    assert out.latents.isfinite().all()
    torch.testing.assert_close(half(num_samples=4, generator=seeded()).latents, plain, rtol=0.1, atol=0.1)
    half.edit("I walked.", generator=seeded())
    half.save_pretrained(tmp_path)
    again = LatentTextDiffusionPipeline.from_pretrained(tmp_path)
    assert again.codec.digest == pipe.codec.digest


def test_the_noise_level_is_as_exact_in_half_precision(pipe):
    level = torch.linspace(-8, 8, 9)
    exact, half = pipe.denoiser.time(level), pipe.denoiser.to(torch.bfloat16).time(level).float()
    torch.testing.assert_close(half, exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", ["float32", torch.bfloat16])
def test_a_call_names_the_dtype_that_it_denoises_in(pipe, dtype):
    seen = set()
    pipe.denoiser.latents_in.register_forward_hook(lambda module, given, out: seen.add(str(out.dtype)))
    pipe(generator=seeded(), dtype=dtype)
    assert seen == {f"torch.{str(dtype).removeprefix('torch.')}"}
    with pytest.raises(UserError, match="dtype is 'half', must be one of auto, float32"):
        pipe(dtype="half")


# Seeds


@pytest.mark.parametrize("scheduler", ["ddpm", "sde-dpm++", "unipc"])
def test_text_i_depends_on_the_seed_and_i_alone(talkative, guide, scheduler):
    talkative.scheduler = make_scheduler(scheduler, talkative.scheduler.config.trained_betas)
    whole = talkative(num_samples=9, guides=guide, generator=seeded(7))
    assert len(set(whole.texts)) > 1
    for count, size in ((4, 256), (8, 3), (9, 1), (1, 1)):
        part = talkative(num_samples=count, guides=guide, generator=seeded(7), batch_size=size)
        assert part.texts == whole.texts[:count]
        torch.testing.assert_close(part.latents, whole.latents[:count], rtol=1e-3, atol=1e-4)


def test_an_edit_of_text_i_depends_on_the_seed_and_i_alone(talkative, stories):
    texts = [text for text, _ in stories[:5]]
    whole = talkative.edit(texts, generator=seeded(7))
    part = talkative.edit(texts[:3], generator=seeded(7), batch_size=2)
    torch.testing.assert_close(part.latents, whole.latents[:3], rtol=1e-3, atol=1e-4)


def test_a_list_of_generators_pins_every_sample(talkative):
    several = talkative(num_samples=3, generator=[seeded(1), seeded(2), seeded(1)])
    assert several.texts[0] == several.texts[2]
    alone = [talkative(num_samples=1, generator=seeded(seed)) for seed in (1, 2)]
    torch.testing.assert_close(several.latents[:2], torch.cat([one.latents for one in alone]), rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match="generator is a list of 2 for 3 samples"):
        talkative(num_samples=3, generator=[seeded(), seeded()])


@pytest.mark.parametrize("candidates", [1, 2])
def test_a_call_may_be_made_in_parts(talkative, candidates):
    asked = {"candidates": candidates, "batch_size": 2}
    whole = talkative(num_samples=6, generator=seeded(7), **asked)
    parts = [talkative(num_samples=2, first=first, generator=seeded(7), **asked) for first in (0, 2, 4)]
    assert len(set(whole.texts)) == 6
    assert torch.equal(torch.cat([part.latents for part in parts]), whole.latents)
    assert sum((part.texts for part in parts), []) == whole.texts  # noqa: RUF017


@pytest.mark.parametrize("settings, said", [
    ({"first": -1}, "first is -1, must be 0 or more"), ({"first": 0.5}, "first is 0.5, must be a whole number"),
    ({"first": 2, "keep": 0.5}, "keep is 0.5, which chooses among all that one call draws"),
    ({"first": 2, "generator": [torch.Generator()]}, "generator is a list, which pins every sample"),
])
def test_a_part_that_cannot_be(pipe, settings, said):
    with pytest.raises(UserError, match=said):
        pipe(**settings)


def test_a_generator_goes_on_from_call_to_call(pipe):
    generator = seeded()
    first, second = (pipe(generator=generator).latents for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    without = pipe().latents
    torch.manual_seed(0)
    assert torch.equal(without, pipe().latents)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_generator_may_lie_on_the_gpu(pipe):
    first, again = (pipe.to("cuda")(generator=torch.Generator("cuda").manual_seed(0)).texts for _ in range(2))
    assert first == again


# What comes back


def test_a_tuple_where_it_is_asked_for(pipe):
    out = pipe(num_samples=2, generator=seeded())
    texts, latents, scores, cut = pipe(num_samples=2, generator=seeded(), return_dict=False)
    assert (texts, scores, cut) == (out.texts, out.scores, out.cut)
    assert torch.equal(latents, out.latents)
    assert len(pipe.edit("I walked.", return_dict=False)) == 4


def test_latents_alone_are_not_decoded(pipe, monkeypatch):
    out = pipe(num_samples=2, generator=seeded())
    monkeypatch.setattr(TextCodec, "generate", lambda *_, **__: pytest.fail("decoded"))
    alone = pipe(num_samples=2, generator=seeded(), output_type="latent")
    assert torch.equal(alone.latents, out.latents)
    assert (alone.texts, alone.cut) == ([], [])
    with pytest.raises(UserError, match="output_type is 'np', must be one of text, latent"):
        pipe(output_type="np")


def test_a_callback_gets_the_tensors_that_it_names_and_steps_counted_through(pipe):
    seen = []

    def callback(own, step, timestep, tensors):
        seen.append((step, sorted(tensors)))
        return {}

    pipe(num_samples=5, batch_size=2, generator=seeded(), callback_on_step_end=callback,
         callback_on_step_end_tensor_inputs=["latents", "x0"])
    assert seen == [(step, ["latents", "x0"]) for step in range(9)]
    with pytest.raises(UserError, match="holds noise, must be of latents, x0"):
        pipe(callback_on_step_end=callback, callback_on_step_end_tensor_inputs=["noise"])


# What goes in


def test_one_guide_or_none(pipe, guide):
    one, several = (pipe(num_samples=2, guides=given, generator=seeded()) for given in (guide, [guide]))
    assert torch.equal(one.latents, several.latents)
    none, empty = (pipe(num_samples=2, guides=given, generator=seeded()).latents for given in (None, []))
    assert torch.equal(none, empty)


def test_one_text_to_edit(pipe):
    assert len(pipe.edit("Hello there.", generator=seeded()).texts) == 1


def test_a_condition_comes_first_and_may_have_several_samples(conditional):
    out = conditional(["calm", "wild"], num_samples=3, generator=seeded())
    assert len(out.texts) == 6
    alone = conditional("calm", num_samples=3, generator=seeded())
    torch.testing.assert_close(alone.latents, out.latents[:3], rtol=1e-3, atol=1e-4)
    assert len(conditional("wild").texts) == 1


def test_classifier_free_guidance_is_one_call_a_step(conditional):
    calls, forward = [], conditional.denoiser.forward
    conditional.denoiser.forward = lambda z, *rest, **named: calls.append(len(z)) or forward(z, *rest, **named)
    conditional(["calm", "wild"], guidance_scale=2.0, generator=seeded())
    assert calls == [4, 4, 4]


@pytest.mark.parametrize("shape", [(L, D), (2, D, L), (2, L)])
def test_noise_of_another_shape_is_refused(pipe, shape):
    with pytest.raises(UserError, match=r"latents is of shape .*, must be \[\d, 3, 4\]"):
        pipe(latents=torch.zeros(shape))


def test_noise_of_another_dtype_is_cast(pipe):
    noise = torch.zeros(2, L, D)
    texts = [pipe(latents=noise.to(dtype), generator=seeded()).texts for dtype in (torch.float32, torch.float64)]
    assert texts[0] == texts[1]


# What it costs


def test_batch_size_governs_denoising_decoding_and_scoring(pipe, guide, monkeypatch):
    sizes = {"denoise": [], "decode": [], "score": []}
    forward, reconstruct, log_prob = pipe.denoiser.forward, pipe.autoencoder.reconstruct, guide.head.log_prob_of
    pipe.denoiser.forward = lambda z, *rest: sizes["denoise"].append(len(z)) or forward(z, *rest)
    pipe.autoencoder.reconstruct = lambda x: sizes["decode"].append(len(x)) or reconstruct(x)
    monkeypatch.setattr(guide.head, "log_prob_of", lambda target, x, *rest:
                        sizes["score"].append(len(x)) or log_prob(target, x, *rest))
    pipe(num_samples=5, guides=guide, generator=seeded(), batch_size=2)
    assert {name: set(seen) for name, seen in sizes.items()} == {name: {1, 2} for name in sizes}
    with pytest.raises(UserError, match="batch_size is 0, must be 1 or more"):
        pipe(batch_size=0)


def test_hooks_see_every_model(conditional, stories):
    """Offloading hangs hooks before a model's call: all three must be called in a way that they see."""
    seen = []

    class Watch(ModelHook):
        def pre_forward(self, module, *given, **named):
            seen.append(type(module).__name__)
            return given, named

    for name in conditional.model_cpu_offload_seq.split("->"):
        add_hook_to_module(getattr(conditional, name), Watch())
    conditional("calm", generator=seeded())
    assert {"LatentDenoiser", "LatentAutoencoder", "T5ForConditionalGeneration"} == set(seen)
    seen.clear()
    conditional.codec.encode(stories[0][0])
    assert {"LatentAutoencoder", "T5ForConditionalGeneration"} == set(seen)


def test_the_autoencoder_can_be_called_as_a_whole(codec, stories):
    ids = codec.tokenize([text for text, _ in stories[:2]])
    source = codec.features(ids)
    whole = codec.autoencoder(source.features, source.mask)
    torch.testing.assert_close(whole, codec.autoencoder.reconstruct(codec.encode_ids(ids)), rtol=1e-4, atol=1e-4)


# Schedulers


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "LMSDiscreteScheduler"])
def test_sigma_space_schedulers_are_swapped_in(pipe, name):
    import diffusers

    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    out = pipe(num_samples=64, num_inference_steps=25, generator=seeded())
    assert out.latents.std().item() == pytest.approx(
        pipe(num_samples=64, num_inference_steps=25, generator=seeded()).latents.std().item())
    pipe.scheduler = make_scheduler("ddim", pipe.scheduler.config.trained_betas)
    plain = pipe(num_samples=64, num_inference_steps=25, generator=seeded()).latents
    assert out.latents.std().item() == pytest.approx(plain.std().item(), rel=0.1)


def test_a_swap_that_would_clip_is_refused(pipe):
    pipe.scheduler = make_scheduler("unipc", pipe.scheduler.config.trained_betas)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)  # unipc's settings do not say not to clip
    with pytest.raises(SchedulerError, match=r"turns an estimate of 4 into .*; set clip_sample=False"):
        pipe(callback_on_step_end=pytest.fail)
