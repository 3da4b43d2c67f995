"""FUDGE: Bayes' rule where the classifier is exact, states as of texts read alone, and labels that are met."""

import itertools

import pytest
import torch
from sentence_models import STORIES, TEXTS
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, Lfm2Config

from benchmarks.fudge import Fudge, PrefixClassifier, reweighted
from latdiff.errors import UserError
from latdiff.lm import write

V, LENGTH = 3, 4  # a world of 81 texts


def streams(n):
    return [torch.Generator().manual_seed(row) for row in range(n)]


def loaded(folder):
    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(params=["llama", "gpt2"])
def fudge(request, writers):
    return Fudge(*loaded(getattr(writers, request.param)), begin=[5], top=7)


def sizes(texts):
    return ["size" if text.split()[-1] in ("small.", "large.", "huge.", "tiny.", "tall.") else "colour"
            for text in texts]


def test_with_an_exact_classifier_it_is_bayes_rule():
    """Any joint of texts and labels: the product of reweighted conditionals is p(text | label)."""
    random = torch.Generator().manual_seed(0)
    joint = torch.rand([V] * LENGTH + [2], generator=random, dtype=torch.float64).pow(4)
    joint /= joint.sum()

    def mass(prefix):
        """p(prefix, label), of both labels."""
        return joint[prefix].flatten(0, -2).sum(0) if len(prefix) < LENGTH else joint[prefix]

    for label in (0, 1):
        for text in itertools.product(range(V), repeat=LENGTH):
            log_prob = torch.zeros((), dtype=torch.float64)
            for step in range(LENGTH):
                after = torch.stack([mass((*text[:step], token)) for token in range(V)])
                logits, exact = after.sum(-1).log() + 3, (after[:, label] / after.sum(-1)).log()
                log_prob += reweighted(logits[None], exact[None])[0, text[step]]
            torch.testing.assert_close(log_prob.exp(), joint[text][label] / joint[..., label].sum())


def test_a_power_of_nought_is_the_language_model():
    logits, label = torch.randn(2, 5), -torch.rand(2, 5)
    torch.testing.assert_close(reweighted(logits, label, 0), logits.log_softmax(-1))
    odds = [reweighted(logits, label, times).diff(dim=-1) for times in (1, 3)]
    torch.testing.assert_close(odds[1] - odds[0], 2 * label.diff(dim=-1))


def test_candidates_are_read_as_if_each_were_alone(fudge, monkeypatch):
    """What the classifier sees in every step are the mean states of the text's own tokens and the candidate."""
    seen = []
    own = Fudge._log_prob_of

    def spy(self, target, candidates, states, total, step):
        seen.append((candidates, (total[:, None] + states) / (step + 1)))
        return own(self, target, candidates, states, total, step)

    monkeypatch.setattr(Fudge, "_log_prob_of", spy)
    begun = [[5], [5, 9, 30, 31], [7, 8]]
    written = fudge.write(begun, streams(3), {}, 4)
    for step, (candidates, means) in enumerate(seen[: min(map(len, written))]):
        for row, prefix in enumerate(begun):
            whole = [*prefix, *written[row][:step], int(candidates[row, 3])]
            states = fudge.model.base_model(torch.tensor([whole]))[0][0, len(prefix) :]
            torch.testing.assert_close(means[row, 3], states.mean(0).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_without_a_label_it_writes_what_the_language_model_would(fudge, top_p):
    fudge.top = len(fudge.tokenizer)
    begun = [[5], [5, 9, 30, 31], [7, 8]]
    expected = write(fudge.model, begun, streams(3), 6, top_p)
    found = fudge.write(begun, streams(3), {}, 6, top_p=top_p)
    shared = [pair for pair in zip(found, expected, strict=True) if "\n" not in fudge.tokenizer.decode(pair[1])]
    assert shared and all(one == other for one, other in shared)
    assert fudge.write(begun[1:2], streams(2)[1:], {}, 6, top_p=top_p) == found[1:2]


def test_texts_that_it_writes_are_of_their_label(fudge):
    report = fudge.fit("kind", TEXTS, sizes(TEXTS))
    assert report["texts"] == len(TEXTS) and report["prefixes"] > 3 * len(TEXTS)
    assert 0.5 < report["accuracy_of_prefixes"] <= report["accuracy_of_texts"] <= 1
    own = fudge.classifiers["kind"]
    begun, fudge.top = [[5]] * 12, 50
    for label in ("size", "colour"):
        found = []
        for times in (0.0, 100.0):  # a language model of random weights knows little of kinds
            rows = fudge.write(begun, streams(12), {"kind": label}, 5, times)
            states = [fudge.model.base_model(torch.tensor([[5, *row]]))[0][0, 1:].mean(0).detach() for row in rows]
            found.append(own.log_prob_of(label, torch.stack(states)).exp().mean().item())
        assert found[0] < found[1]


def test_states_are_those_behind_the_beginning(fudge):
    ids = fudge.tokenizer(STORIES[0], add_special_tokens=False).input_ids[:47]
    read, _ = fudge.states([STORIES[0], "The cat"])
    torch.testing.assert_close(read, fudge.model.base_model(torch.tensor([[5, *ids]]))[0][0, 1:].detach(),
                               rtol=1e-4, atol=1e-4)


def test_a_text_that_ends_is_judged_by_what_it_has(fudge):
    fudge.classifiers["kind"] = PrefixClassifier(["a", "b"], torch.randn(2, 16), torch.zeros(2), {})
    end = fudge.model.generation_config.eos_token_id
    candidates, states, total = torch.tensor([[end, 7]]), torch.randn(1, 2, 16), torch.randn(1, 16)
    at_once = fudge._log_prob_of({"kind": "b"}, candidates, states, torch.zeros(1, 16), 0)
    assert at_once[0, 0].exp().item() == pytest.approx(0.5)
    later = fudge._log_prob_of({"kind": "b"}, candidates, states, total, 4)[0]
    means = torch.stack([total[0] / 4, (total[0] + states[0, 1]) / 5])
    torch.testing.assert_close(later, fudge.classifiers["kind"].log_prob_of("b", means))


def test_the_classifier_is_the_regression_that_was_fitted():
    """Labels by the first number of the mean state: found again, though others vary a hundred times as much."""
    random = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 100.0, 100.0])
    states = [torch.randn(6, 3, generator=random) * scale + torch.tensor([sign, 0.0, 0.0])
              for sign in (-1.0, 1.0) * 40]
    found = PrefixClassifier.fit(states, ["low", "high"] * 40)
    assert found.classes == ["high", "low"] and found.report["accuracy_of_texts"] > 0.9
    log_prob = found.log_prob_of("high", torch.tensor([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]]))
    assert log_prob[0].exp() > 0.9 and log_prob[1].exp() < 0.1


def test_a_language_model_that_keeps_no_keys_and_values_is_refused():
    model = AutoModelForCausalLM.from_config(Lfm2Config(
        vocab_size=9, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, layer_types=["conv", "full_attention"]))
    with pytest.raises(UserError, match="kind is lfm2, whose past is not a cache of keys and values"):
        Fudge(None, model, [1])


def test_a_language_model_without_positions_is_refused():
    model = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=9, hidden_size=8, n_layer=1, n_head=1))
    with pytest.raises(UserError, match="kind is bloom, which cannot read several candidates"):
        Fudge(None, model, [1])
