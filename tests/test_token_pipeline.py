"""The pipeline of discrete diffusion: what it writes, fills in, says how likely it is, and refuses."""

import pytest
import torch
from transformers import AutoTokenizer

from latdiff import TokenDiffusionPipeline, open_checkpoint, storyworld
from latdiff.checkpoints import SHIPPED, CheckpointError
from latdiff.errors import UserError
from latdiff.models.token_model import mask_id_of, token_model

TEXTS = [story.text for story in storyworld.sample(3, seed=0)]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(SHIPPED / "t5-mini")


@pytest.fixture
def made(tokenizer):
    """made(process, **settings): a pipeline of random weights."""

    def make(process="masked", **settings):
        torch.manual_seed(0)
        pipe = TokenDiffusionPipeline(tokenizer, token_model(len(tokenizer), 16, 1, 2).eval(), process, **settings)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("process", ["masked", "block", "uniform"])
def test_a_text_does_not_depend_on_its_neighbours_or_the_batch(made, process):
    pipe = made(process, num_inference_steps=4)
    many = pipe(5, generator=seeded())
    assert torch.equal(pipe(5, generator=seeded(), batch_size=2).sequences, many.sequences)
    assert torch.equal(pipe(2, generator=seeded()).sequences, many.sequences[:2])
    assert many.sequences.shape == (5, 80) and (many.sequences < len(pipe.tokenizer)).all()
    assert len(pipe(1, generator=seeded(), return_dict=False)) == 3


@pytest.mark.parametrize("process", ["masked", "block", "uniform"])
def test_it_is_saved_and_opened_as_it_is(made, process, tmp_path):
    pipe = made(process, num_inference_steps=3, top_p=1.0)
    pipe.save_pretrained(tmp_path / "one")
    again = open_checkpoint(tmp_path / "one")
    again.set_progress_bar_config(disable=True)
    assert isinstance(again, TokenDiffusionPipeline) and again.config.process == process
    assert torch.equal(again(2, generator=seeded()).sequences, pipe(2, generator=seeded()).sequences)


@pytest.mark.parametrize("process", ["masked", "block", "uniform"])
def test_bounds_are_near_those_of_chance_and_of_each_text_alone(made, process):
    """Of random weights every token costs about ln V, of 80 with its end."""
    pipe = made(process)
    found = pipe.log_prob(TEXTS, draws=8, generator=seeded())
    alone = pipe.log_prob(TEXTS[:1], draws=8, generator=seeded())
    assert found.values.shape == found.standard_errors.shape == (3,) and found.kind == "bound"
    assert torch.allclose(found.values[:1], alone.values, rtol=1e-4)
    assert (found.values / 80 < -4).all() and (found.values / 80 > -12).all()


def test_blocks_of_one_token_have_an_exact_likelihood(made):
    pipe = made("block", block_size=1)
    found = pipe.log_prob(TEXTS)
    assert found.kind == "exact" and found.standard_errors is None
    ids = torch.tensor(pipe._filled_up([pipe._ids(TEXTS[0])]))
    mask, start = mask_id_of(pipe.model), torch.tensor([[mask_id_of(pipe.model) + 1]])
    total = 0.0
    for place in range(ids.shape[1]):  # each token behind those before it, the mask in its own place
        logits = pipe.model(torch.cat([start, ids[:, :place], torch.tensor([[mask]])], 1)).logits[0, -1, :mask]
        total += logits.double().log_softmax(-1)[ids[0, place]].item()
    assert found.values[0].item() == pytest.approx(total, rel=1e-5)


def test_texts_that_cannot_be_read_have_no_likelihood(made):
    found = made().log_prob(["Short.", "Long. " * 80, "\u4e2d"], draws=2, generator=seeded())
    assert found.values.isnan().tolist() == [False, True, True]
    assert made().log_prob(["Long. " * 80], generator=seeded()).values.isnan().all()


def test_what_was_given_stays_where_blanks_are_filled_in(made):
    pipe = made()
    out = pipe.infill("On a rainy day, ____ . My aunt laughed.", blank_tokens=7, num_samples=2, generator=seeded())
    ids = pipe.tokenizer("On a rainy day,", add_special_tokens=False).input_ids
    after = pipe.tokenizer("day. My aunt laughed.", add_special_tokens=False).input_ids[1:]
    for row in out.sequences.tolist():
        assert row[: len(ids)] == ids and row[len(ids) + 7 : len(ids) + 7 + len(after)] == after
        assert set(row[len(ids) + 7 + len(after) :]) == {pipe.tokenizer.eos_token_id}
    assert out.texts[0].endswith(". My aunt laughed.") and " . My" not in out.texts[0]
    two = pipe.infill("____ I met ____ .", blank_tokens=[3, 4], generator=seeded())
    assert len(two.texts) == 1


@pytest.mark.parametrize(("text", "blank_tokens", "said"), [
    ("No gap.", 3, "the text has no blank; put ____ where"),
    ("A ____ b ____ .", [3], "blank_tokens has 1 numbers for 2 blanks"),
    ("A ____ .", 0, "blank_tokens is 0, must be 1 or more"),
    ("A ____ .", 90, r"text 0 of 1 has \d+ tokens, must have fewer than 80"),
])
def test_blanks_that_cannot_be_filled_in_are_refused(made, text, blank_tokens, said):
    with pytest.raises(UserError, match=said):
        made().infill(text, blank_tokens)


@pytest.mark.parametrize("process", ["block", "uniform"])
def test_processes_that_cannot_fill_in_say_so(made, process):
    with pytest.raises(UserError, match=f"{process} diffusion does not write between tokens that are given"):
        made(process).infill("A ____ .", 3)


@pytest.mark.parametrize(("process", "asked", "said"), [
    ("masked", {"order": "random"}, "order is 'random', must be ancestral or first-hitting or confidence here"),
    ("block", {"order": "confidence"}, "must be ancestral or first-hitting here"),
    ("uniform", {"order": "confidence"}, "must be ancestral here"),
    ("uniform", {"top_p": 0.5}, "top_p is 0.5, but uniform diffusion draws from the whole distribution"),
    ("masked", {"num_inference_steps": 0}, "num_inference_steps is 0, must be 1 or more"),
    ("masked", {"top_p": 0}, "top_p is 0, must be above 0 and at most 1"),
    ("masked", {"num_inference_steps": 81, "order": "confidence"}, "steps is 81, but a text has 80 tokens"),
])
def test_what_is_out_of_range_is_refused(made, process, asked, said):
    with pytest.raises(UserError, match=said):
        made(process)(1, **asked)


def test_parts_that_do_not_fit_are_refused(tokenizer):
    with pytest.raises(CheckpointError, match="tokens, but the model is of 7 and a mask"):
        TokenDiffusionPipeline(tokenizer, token_model(7, 16, 1, 2))
    with pytest.raises(CheckpointError, match=r"process is 'mask', must be one of .*; did you mean masked"):
        TokenDiffusionPipeline(tokenizer, token_model(len(tokenizer), 16, 1, 2), "mask")
