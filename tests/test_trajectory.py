"""One text on its way out of noise: what it is at every step, and what heads say of that."""

import pytest
import torch
from toy_pipes import seeded

from latdiff.errors import UserError
from latdiff.pipelines.output import scores
from latdiff.pipelines.trajectory import evenly, trajectory


def test_it_ends_with_what_the_call_returns(talkative, head):
    guide = head.toward("b")
    out = talkative(guides=guide, generator=seeded(3))
    last = trajectory(talkative, guide, generator=seeded(3))[-1]
    assert (last.number, last.text) == (talkative.config.num_inference_steps, out.texts[0])
    assert last.scores == {title: values[0] for title, values in out.scores.items()}
    assert last.norm == pytest.approx(out.latents.square().mean().sqrt().item())


def test_every_step_is_the_estimate_that_a_callback_sees(talkative, head):
    guide, seen = head.toward("b"), []
    talkative(guides=guide, generator=seeded(3), callback_on_step_end_tensor_inputs=["x0"],
              callback_on_step_end=lambda pipe, step, timestep, tensors: seen.append(tensors["x0"]))
    steps = trajectory(talkative, guide, generator=seeded(3))
    assert [step.number for step in steps] == [1, 2, 3]
    for step, x0 in zip(steps, seen, strict=True):
        assert step.text == talkative.codec.decode(x0)[0]
        assert step.scores["mood=b"] == pytest.approx(scores(x0, [guide])["mood=b"][0], rel=1e-4)
        assert step.norm == pytest.approx(x0.square().mean().sqrt().item(), rel=1e-4)


def test_the_signal_grows_from_noise(pipe):
    signal = [step.signal_variance for step in trajectory(pipe, generator=seeded())]
    assert signal == sorted(signal) and 0 <= signal[0] < 0.01 < 0.5 < signal[-1] <= 1
    assert all(step.scores == {} for step in trajectory(pipe, generator=seeded()))


def test_a_head_may_be_asked_without_steering(talkative, head):
    plain = talkative(generator=seeded(3))
    last = trajectory(talkative, scored=[head.toward("b")], generator=seeded(3))[-1]
    assert last.text == plain.texts[0]
    assert last.scores == {"mood=b": pytest.approx(head.predict_proba(plain.latents)[0][1], rel=1e-5)}


def test_some_rows_have_the_first_step_and_the_last(pipe):
    steps = trajectory(pipe, rows=3, num_inference_steps=9, generator=seeded())
    assert [step.number for step in steps] == [1, 5, 9]
    assert evenly(25, 9) == [0, 3, 6, 9, 12, 15, 18, 21, 24] and evenly(3, 9) == evenly(3, None) == [0, 1, 2]


def test_what_is_not_of_one_text_is_refused(pipe):
    with pytest.raises(UserError, match="rows is 1, must be 2 or more"):
        trajectory(pipe, rows=1)
    with pytest.raises(UserError, match="a trajectory is of one text"):
        trajectory(pipe, cond=["calm", "wild"])


def test_the_global_random_numbers_are_left_alone(pipe):
    before = torch.get_rng_state()
    trajectory(pipe, generator=seeded())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("given", [{"candidates": 2}, {"keep": 0.5}, {"output_type": "latent"}, {"return_dict": False}])
def test_what_would_return_other_than_one_text_is_refused(pipe, given):
    with pytest.raises(UserError, match=f"of one text .*leave out {next(iter(given))}"):
        trajectory(pipe, **given)
