"""Embeddings that are read before or behind a prefix, and a past that cannot be kept."""

import pytest
import torch
from random_models import ATTENTION, KINDS, SMALL, numbers, random_model
from transformers import Lfm2Config, MambaConfig, OpenAIGPTConfig

from latdiff.lm import LanguageModelError, write

PROMPTED = [[], [3, 4, 5], [9], []]


@pytest.fixture(params=["gpt2", "llama"])
def prompted(request):
    """A model in which some rows end early, and prompts [4, 3, H] of it."""
    return random_model(KINDS[request.param], 5), torch.randn(4, 3, 16, generator=torch.Generator().manual_seed(4))


def read_after(model, prompts, prefix, most):
    """The greedy continuation that transformers writes of a prefix and the prompts behind it."""
    given = torch.cat([model.get_input_embeddings()(torch.tensor(prefix, dtype=torch.long)), prompts])[None]
    mask = torch.ones(given.shape[:2], dtype=torch.long)
    return model.generate(inputs_embeds=given, attention_mask=mask, do_sample=False, max_new_tokens=most,
                          pad_token_id=0)[0].tolist()


@pytest.mark.parametrize("prefixes", [[[]] * 4, PROMPTED])
def test_what_is_written_after_prompts_is_transformers_own(prompted, prefixes):
    model, prompts = prompted
    rows = write(model, prefixes, [], 12, greedy=True, prompts=prompts)
    assert rows == [read_after(model, one, prefix, 12) for one, prefix in zip(prompts, prefixes, strict=True)]
    assert len({tuple(row) for row in rows}) > 2
    assert rows != write(model, prefixes, [], 12, greedy=True, prompts=-prompts)


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_a_row_after_prompts_is_the_same_whatever_is_written_beside_it(prompted, top_p):
    model, prompts = prompted
    together = write(model, PROMPTED, numbers(4), 12, top_p, prompts=prompts)
    alone = [write(model, [prefix], numbers(1, place), 12, top_p, prompts=prompts[place : place + 1])[0]
             for place, prefix in enumerate(PROMPTED)]
    assert together == alone != write(model, PROMPTED, numbers(4, 50), 12, top_p, prompts=prompts)


def test_embeddings_of_words_as_prompts_are_the_words(prompted):
    model, _ = prompted
    words = torch.tensor([[0, 5, 6], [0, 9, 2]])
    found = write(model, [[], [7]], numbers(2), 12, prompts=model.get_input_embeddings()(words).detach())
    assert found == write(model, [[0, 5, 6], [7, 0, 9, 2]], numbers(2), 12)


@pytest.mark.parametrize("prefixes", [[[]] * 4, PROMPTED])
def test_what_is_written_behind_a_lead_is_transformers_own(prompted, prefixes):
    """Twice: the lead as the prompts of an empty prefix, the prefix behind it as more of them."""
    model, lead = prompted
    words = model.get_input_embeddings()
    both = [torch.cat([one, words(torch.tensor(prefix, dtype=torch.long))])
            for one, prefix in zip(lead, prefixes, strict=True)]
    assert write(model, prefixes, [], 12, greedy=True, lead=lead) == [read_after(model, one, [], 12) for one in both]
    alone = [write(model, [prefix], numbers(1, row), 12, lead=lead[row : row + 1])[0]
             for row, prefix in enumerate(prefixes)]
    assert write(model, prefixes, numbers(4), 12, lead=lead) == alone


def test_a_lead_and_prompts_may_stand_around_a_prefix(prompted):
    model, prompts = prompted
    words = model.get_input_embeddings()(torch.tensor([[0, 5], [8, 2], [3, 3], [0, 9]])).detach()
    found = write(model, PROMPTED, numbers(4), 12, lead=words, prompts=prompts)
    prefixes = [[0, 5], [8, 2, 3, 4, 5], [3, 3, 9], [0, 9]]
    assert found == write(model, prefixes, numbers(4), 12, prompts=prompts)


@pytest.mark.parametrize("place", ["lead", "prompts"])
def test_prompts_take_room_in_the_context(model, place):
    prompts = torch.zeros(4, 40, 16)
    rows = write(model, [[], [3] * 5, [3] * 8, [3]], numbers(4), 100, **{place: prompts})
    assert [len(row) for row in rows] == [8, 3, 0, 7]
    assert write(model, [], [], 4, **{place: prompts[:0]}) == []


@pytest.mark.parametrize("config", [
    MambaConfig(**SMALL), OpenAIGPTConfig(**ATTENTION),
    Lfm2Config(**ATTENTION, intermediate_size=32, num_key_value_heads=1, layer_types=["conv", "full_attention"]),
], ids=lambda config: config.model_type)
def test_a_model_that_keeps_no_keys_and_values_cannot_write(config):
    with pytest.raises(LanguageModelError, match=f"{config.model_type}, whose past is not .* openai-community/gpt2"):
        write(random_model(config), [[0]], numbers(1), 4)
