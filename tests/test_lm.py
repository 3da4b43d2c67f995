"""Language models: what is loaded, what they score, and that the token loop writes what transformers would."""

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    BloomConfig,
    GPT2Config,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    OpenAIGPTConfig,
    OPTConfig,
    TopPLogitsWarper,
)

from latdiff.errors import UserError
from latdiff.lm import (
    Interrupt,
    LanguageModelError,
    context,
    load_language_model,
    load_tokenizer,
    scoring,
    token_losses,
    write,
    writing,
)

V, CONTEXT, END = 12, 48, 1
PREFIXES = [[0], [0, 5, 6, 7], [0, 9], [0, 3, 3], [0, 2]]


SMALL = {"vocab_size": V, "hidden_size": 16, "num_hidden_layers": 2, "bos_token_id": 0}
ATTENTION = SMALL | {"num_attention_heads": 2, "max_position_embeddings": CONTEXT}
KINDS = {  # positions that are learnt, turned, learnt from the mask, and slopes
    "gpt2": GPT2Config(**ATTENTION),
    "llama": LlamaConfig(**ATTENTION, intermediate_size=32),
    "opt": OPTConfig(**ATTENTION, ffn_dim=32, word_embed_proj_dim=16),
    "bloom": BloomConfig(**ATTENTION),
}


def gpt2(eos_token_id=None, spread=6.0, vocab_size=V):
    return random_model(GPT2Config(**ATTENTION | {"vocab_size": vocab_size}), eos_token_id, spread)


def random_model(config, eos_token_id=None, spread=6.0):
    """Weights wide enough for one token to differ from another."""
    torch.manual_seed(0)
    config.eos_token_id = eos_token_id
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1 * spread)
    return model


@pytest.fixture(scope="module")
def model():
    return gpt2()


def numbers(n, base=0):
    return [torch.Generator().manual_seed(base + place) for place in range(n)]


def by_transformers(model, prefix, most):
    ids = torch.tensor([prefix])
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=most,
                           pad_token_id=0)
    return whole[0, len(prefix) :].tolist()


# Loading


@pytest.mark.parametrize("path", ["nowhere", "/not/a/folder", "{tmp}"])
def test_a_folder_without_a_model_is_refused_in_one_sentence(tmp_path, path):
    path = path.format(tmp=tmp_path)
    with pytest.raises(LanguageModelError, match=f"language model '{path}'") as refused:
        load_language_model(AutoModelForCausalLM, path)
    assert "\n" not in str(refused.value)


def test_a_folder_is_loaded_in_float32_and_only_from_safetensors(tmp_path, tiny):
    tokenizer, model = load_language_model(AutoModelForCausalLM, tiny.ar)
    assert model.dtype == torch.float32 and not model.training
    tokenizer.save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")  # a pickle, which could run code
    with pytest.raises(LanguageModelError, match="from this folder: there are no weights in safetensors"):
        load_language_model(AutoModelForCausalLM, tmp_path)


def test_a_model_without_its_tokenizer_is_refused(tmp_path, tiny):
    tokenizer, model = load_language_model(AutoModelForCausalLM, tiny.ar)
    model.save_pretrained(tmp_path)
    with pytest.raises(LanguageModelError, match="tokenizer"):
        load_language_model(AutoModelForCausalLM, tmp_path)
    tokenizer.add_tokens([f"word{number}" for number in range(9)])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(LanguageModelError, match=r"has embeddings of 1,\d+ tokens, but a tokenizer of"):
        load_language_model(AutoModelForCausalLM, tmp_path)


def test_weights_that_are_missing_are_refused_and_not_left_random(tmp_path, tiny):
    tokenizer, model = load_language_model(AutoModelForCausalLM, tiny.ar)
    weights = model.state_dict()
    gap = "transformer.h.0.mlp.c_fc.weight"
    del weights[gap]
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path, state_dict=weights)
    for auto in (AutoModelForCausalLM, AutoModel):
        with pytest.raises(LanguageModelError, match=r"lacks 1 weights, the first is \S*h\.0\.mlp\.c_fc\.weight"):
            load_language_model(auto, tmp_path)


def test_an_encoder_needs_no_pooler(tmp_path, tiny):
    tokenizer, _ = load_language_model(AutoModelForCausalLM, tiny.ar)
    tokenizer.save_pretrained(tmp_path)
    config = BertConfig(**SMALL | {"vocab_size": len(tokenizer)}, num_attention_heads=2)
    BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    assert load_language_model(AutoModel, tmp_path)[1].config.model_type == "bert"


def test_a_damaged_tokenizer_is_refused_in_the_callers_words(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match=r"^the vocabulary could not be read from this folder: .+; train it$"):
        load_tokenizer(tmp_path, lambda reason: UserError(f"the vocabulary {reason}; train it"))


def test_code_of_a_folder_is_not_run(tmp_path, tiny):
    tokenizer, _ = load_language_model(AutoModelForCausalLM, tiny.ar)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}')
    (tmp_path / "own.py").write_text("raise SystemExit")
    with pytest.raises(LanguageModelError, match=r"could not be read from this folder: .*code"):
        load_language_model(AutoModelForCausalLM, tmp_path)


# Scoring


def test_losses_are_transformers_own_whatever_is_read_together(model, monkeypatch):
    rows = [[3, 4, 5], [], [7] * 100, [6], [2, 9, 9, 4, 1]]
    nats, counts = token_losses(model, 0, rows)
    assert counts.tolist() == [3, 0, CONTEXT - 1, 1, 5]
    for row, own, count in zip(rows, nats, counts, strict=True):
        if count:
            ids = torch.tensor([[0, *row[:count]]])
            torch.testing.assert_close(own, model(ids, labels=ids).loss.detach() * count, rtol=1e-4, atol=1e-4)
    assert nats[1] == 0
    for most in (1, 6 * V, 60 * V):
        monkeypatch.setattr(scoring, "LOGITS", most)
        torch.testing.assert_close(token_losses(model, 0, rows)[0], nats, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("vocabulary, expected", [
    (V, [(1, 12), (2, 5), (3, 3)]), (2 * V, [(1, 12), (1, 5), (1, 4), (1, 3), (2, 1)]),
])
def test_a_larger_vocabulary_is_read_in_smaller_pieces(monkeypatch, vocabulary, expected):
    monkeypatch.setattr(scoring, "LOGITS", 10 * V)
    model, sizes = gpt2(vocab_size=vocabulary), []
    model.register_forward_hook(lambda _, inputs, outputs: sizes.append(tuple(outputs.logits.shape[:2])))
    token_losses(model, 0, [[3] * length for length in (3, 12, 0, 5, 4, 1, 1)])
    assert sizes == expected


# Writing


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eos_token_id", [None, 5, 7])
def test_greedy_writing_is_transformers_own_beside_rows_of_other_lengths(kind, eos_token_id):
    model = random_model(KINDS[kind], eos_token_id)
    expected = [by_transformers(model, prefix, 12) for prefix in PREFIXES]
    assert write(model, PREFIXES, [], 12, greedy=True) == expected


def test_the_greedy_rows_that_end_do_so_at_different_steps():
    """What the test above compares is worth comparing: texts differ, and some end early."""
    written = [write(gpt2(end), PREFIXES, [], 12, greedy=True) for end in (5, 7)]
    assert any(len({len(row) for row in rows}) > 2 for rows in written)
    assert len({tuple(row) for row in write(gpt2(), PREFIXES, [], 12, greedy=True)}) > 2


@pytest.mark.parametrize("streams", [numbers(40), None])
def test_a_row_ends_where_an_end_is_likeliest_whatever_is_drawn(streams):
    model = gpt2(eos_token_id=END)
    model.set_output_embeddings(torch.nn.Linear(SMALL["hidden_size"], V))
    head = model.get_output_embeddings()
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.3, 0.4] + [0.3 / (V - 2)] * (V - 2)).log())  # END is 1

    def draw(**settings):
        return write(model, [[0]] * 40, streams, 8, greedy=streams is None, **settings)

    assert draw(end_when_likeliest=True) == [[END]] * 40
    assert (draw() == [[END]] * 40) == (streams is None)


def test_a_row_goes_on_where_an_end_is_not_likeliest(model):
    own = write(model, PREFIXES, numbers(5), 20)
    found = write(model, PREFIXES, numbers(5), 20, end_when_likeliest=True)
    assert all(one[: len(two) - 1] == two[:-1] and two[-1] in (END, one[len(two) - 1])
               for one, two in zip(own, found, strict=True))


def test_cached_logits_are_those_of_the_whole_text(model, monkeypatch):
    seen, own = [], writing.choose

    def choose(logits, *rest):
        seen.append(logits)
        return own(logits, *rest)

    monkeypatch.setattr(writing, "choose", choose)
    written = write(model, PREFIXES, numbers(5), 8)
    for row, prefix in enumerate(PREFIXES):
        whole = model(torch.tensor([[*prefix, *written[row]]])).logits[0, len(prefix) - 1 : -1]
        torch.testing.assert_close(torch.stack([step[row] for step in seen]), whole.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_a_text_is_the_same_whatever_is_written_beside_it(top_p):
    model = gpt2(END)
    five = write(model, PREFIXES, numbers(5), 20, top_p)
    assert write(model, PREFIXES[:2], numbers(2), 20, top_p) == five[:2]
    assert write(model, PREFIXES[3:4], numbers(1, 3), 20, top_p) == five[3:4]
    assert write(model, PREFIXES, numbers(5, 50), 20, top_p) != five


def test_a_row_that_ends_early_does_not_change_others():
    model = gpt2(END)
    rows = write(model, [[0]] * 40, numbers(40), 20)
    ended = [row for row in rows if len(row) < 20]
    assert ended and len(ended) < 40
    assert all(row.index(END) == len(row) - 1 for row in ended)
    assert rows == [write(model, [[0]], numbers(1, place), 20)[0] for place in range(40)]


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_tokens_are_as_frequent_as_the_distribution_has_them(top_p):
    model = gpt2(spread=2.0)
    with torch.no_grad():
        logits = model(torch.tensor([[0, 5]])).logits[:, -1]
    expected = (TopPLogitsWarper(top_p)(None, logits) if top_p < 1 else logits).softmax(-1)[0]
    n = 4000
    found = torch.tensor(write(model, [[0, 5]] * n, numbers(n), 1, top_p)).flatten().bincount(minlength=V) / n
    assert (expected > 0.02).sum() > 1
    assert ((found - expected).abs() <= 4 * (expected * (1 - expected) / n).sqrt()).all()


def test_writing_stops_at_the_models_context(model):
    rows = write(model, [[0], [0] * 46, [0] * 48], numbers(3), 100)
    assert [len(row) for row in rows] == [context(model) - 1, 2, 0]
    assert write(model, [[0]], numbers(1), 0) == [[]]


# Prompts


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


def test_an_interrupted_row_knows_its_prefix_and_not_its_prompts(prompted):
    model, prompts = prompted
    first, calls = write(model, [[3]], [], 1, greedy=True, prompts=prompts[:1])[0][0], []
    interrupt = Interrupt(first, lambda ids: calls.append(ids) or [4, 8])
    row = write(model, [[3]], [], 3, greedy=True, prompts=prompts[:1], interrupts=[interrupt])[0]
    assert row == [first, 4, 8] and calls == [[3, first]]


# Interrupts


def test_an_interrupted_row_goes_on_as_a_fresh_one_would(model):
    plain = write(model, PREFIXES, [], 12, greedy=True)
    token, given = plain[1][2], [4, 8, 2, 8]
    calls = []

    def compute(ids):
        calls.append(ids)
        return given if len(calls) == 1 else []

    cut = plain[1].index(token) + 1
    begun = [*PREFIXES[1], *plain[1][:cut]]
    row = write(model, PREFIXES[1:2], [], 16, greedy=True, interrupts=[Interrupt(token, compute)])[0]
    assert calls[0] == begun
    assert row[: cut + 4] == [*plain[1][:cut], *given]
    assert row[cut + 4 :] == by_transformers(model, [*begun, *given], 12 - cut)


def test_rows_beside_an_interrupted_one_are_left_as_they_are(model):
    """Each row is sampled, interrupted at other steps than the rest, and given another number of tokens."""
    interrupts = [Interrupt(token, lambda ids: [ids[-1]] * (len(ids) % 4)) for token in range(0, V, 3)]
    together = write(model, PREFIXES, numbers(5), 24, interrupts=interrupts)
    alone = [write(model, [prefix], numbers(1, place), 24, interrupts=interrupts)[0]
             for place, prefix in enumerate(PREFIXES)]
    assert together == alone != write(model, PREFIXES, numbers(5), 24)


def test_only_what_a_row_chose_itself_interrupts_or_ends_it():
    model = gpt2(END)
    first = write(model, [[0]], [], 1, greedy=True)[0][0]
    assert first != END
    given = iter([[first, END, first]])
    row = write(model, [[0]], [], 5, greedy=True, interrupts=[Interrupt(first, lambda _: next(given, []))])[0]
    assert row[:4] == [first, first, END, first] and len(row) == 5


def test_what_is_given_counts_as_new_and_is_cut_where_there_is_no_room(model):
    first = write(model, [[0]], [], 1, greedy=True)[0][0]
    row = write(model, [[0]], [], 3, greedy=True, interrupts=[Interrupt(first, lambda _: [2] * 9)])[0]
    assert row == [first, 2, 2]


# Refusals


def test_rows_that_cannot_be_written(model):
    with pytest.raises(ValueError, match="a prefix is empty"):
        write(model, [[0], []], numbers(2), 4)
    with pytest.raises(ValueError, match="1 streams for 2 prefixes"):
        write(model, [[0], [0]], numbers(1), 4)


@pytest.mark.parametrize("config", [
    MambaConfig(**SMALL), OpenAIGPTConfig(**ATTENTION),
    Lfm2Config(**ATTENTION, intermediate_size=32, num_key_value_heads=1, layer_types=["conv", "full_attention"]),
], ids=lambda config: config.model_type)
def test_a_model_that_keeps_no_keys_and_values_cannot_write(config):
    with pytest.raises(LanguageModelError, match=f"{config.model_type}, whose past is not .* openai-community/gpt2"):
        write(random_model(config), [[0]], numbers(1), 4)
