"""Files of heads: saved, loaded, older, incomplete and damaged."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.svm import LinearSVC
from toy_heads import CODEC, labelled, random_head, refusal

from latdiff.heads.attribute import AttributeHead
from latdiff.heads.files import load_head
from latdiff.heads.fitting import fit_head
from latdiff.heads.number import NumberHead


def test_a_saved_head_is_the_same(tmp_path, x0):
    head = random_head()
    head.save(tmp_path / "heads" / "mood")
    again = load_head(tmp_path / "heads" / "mood")
    assert torch.equal(again.log_prob(x0), head.log_prob(x0))
    assert (again.name, again.classes_.tolist(), again.report, again.codec_digest) == (
        head.name, head.classes_.tolist(), head.report, head.codec_digest,
    )
    assert sorted(file.name for file in (tmp_path / "heads" / "mood").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_a_head_knows_the_texts_it_was_fitted_on(tmp_path):
    texts, labels = labelled("ab")
    numbers = list(range(len(texts)))
    for head in (fit_head(CODEC, texts, labels), fit_head(CODEC, texts, numbers, NumberHead())):
        head.save(tmp_path)
        assert load_head(tmp_path).saw(["a0", " b29 ", "a30", "b"]) == [True, True, False, False]
    assert random_head().saw(["a0"]) == [False]


def test_a_fitted_head_can_be_saved(tmp_path):
    head = fit_head(CODEC, *labelled("ab"))
    head.save(str(tmp_path))
    assert torch.equal(load_head(str(tmp_path)).weight, head.weight)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["labels"] == [
        "class a",
        "class b",
    ]


@pytest.mark.parametrize("kind", ["number", "noise-aware", "from scikit-learn"])
def test_every_kind_of_head_comes_back_from_its_file(kind, tmp_path, x0):
    texts, labels = labelled("ab")
    if kind == "number":
        head = fit_head(CODEC, texts, [float(len(text)) for text in texts], NumberHead("letters"))
        target = 4.0
    elif kind == "noise-aware":
        head, target = fit_head(CODEC, texts, labels, noise_aware=True), (0.0, 1.0)
    else:
        theirs = LinearSVC().fit(CODEC.encode(texts).flatten(1).numpy(), labels)
        head, target = AttributeHead.from_sklearn(CODEC, theirs), (1.0, 0.0)
    head.save(tmp_path)
    again, noise = load_head(tmp_path), torch.full((5,), 0.3)
    assert type(again) is type(head)
    assert torch.equal(again.log_prob_of(target, x0, noise), head.log_prob_of(target, x0, noise))
    assert (again.name, again.report, again.radius, again.codec_digest) == (
        head.name, head.report, head.radius, head.codec_digest,
    )


def test_a_number_may_be_written_without_a_point(tmp_path):
    """Also one that no 64 bits hold."""
    X = torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(0))
    NumberHead().fit(X, list(range(40))).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) | {"sd": 2**64, "radius": 2**70}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    head = load_head(tmp_path)
    assert head.log_prob_of(1.5, X).isfinite().all() and head.toward(1.5).target == 1.5


def test_a_head_of_an_older_format(tmp_path):
    random_head().save(tmp_path)
    (tmp_path / "config.json").write_text('{"name": "mood", "labels": ["a", "b"], "accuracy": 0.9}', encoding="utf-8")
    assert "written by an older latdiff; fit it again" in refusal(load_head, tmp_path)


def test_a_head_that_cannot_be_written_leaves_the_older_one(tmp_path):
    latents = torch.randn(20, 2, 3)
    first = AttributeHead(C=np.float32(1)).fit(latents, ["a", "b"] * 10)
    first.save(tmp_path)
    other = AttributeHead().fit(latents, ["b", "c"] * 10)
    other.report = {"what": object()}  # that JSON cannot hold
    with pytest.raises(TypeError):
        other.save(tmp_path)
    assert load_head(tmp_path).classes_.tolist() == ["a", "b"]
    assert torch.equal(load_head(tmp_path).weight, first.weight)


def test_a_head_that_is_not_there_names_those_that_are(tmp_path):
    random_head().save(tmp_path / "heads" / "mood")
    said = refusal(load_head, tmp_path / "heads" / "topic")
    assert "config.json and model.safetensors missing" in said
    assert "fitted heads there: mood" in said
    assert "latdiff fit-head" in said
    assert "fitted heads there: none" in refusal(load_head, tmp_path / "nowhere" / "topic")


@pytest.mark.parametrize("name, heads", [
    ("storyworld/heads/sentimant", "sentiment, topic; did you mean sentiment?"),
    ("storyworld/sentiment",
     "storyworld/heads/sentiment, storyworld/heads/topic; did you mean storyworld/heads/sentiment?"),
])
def test_a_head_that_is_not_there_names_those_of_a_checkpoint_that_comes_along(name, heads, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda _: pytest.fail("asked the hub"))
    assert f"no head in {name} (" in refusal(load_head, name)
    assert f"fitted heads there: {heads} Fit one" in refusal(load_head, name)


def test_a_checkpoint_in_the_place_of_a_head_names_its_heads(tmp_path):
    random_head().save(tmp_path / "mine" / "heads" / "mood")
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "config.json").write_text("{}", encoding="utf-8")  # beside it, and no head
    assert f"fitted heads there: {tmp_path / 'mine' / 'heads' / 'mood'}" in refusal(load_head, tmp_path / "mine")


def test_a_head_without_its_weights(tmp_path):
    random_head().save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "(model.safetensors missing)" in refusal(load_head, tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": ["a", "b"]}, "weight [1, 3, 2, 3] is not of 2 labels (a, b); it must be [K, C, L, D]"),
        ({"log_snrs": [0.0, 1.0]}, "weight [1, 3, 2, 3], bias [1, 3] and 2 noise levels do not belong together"),
        ({"log_snrs": [0.0]}, "log_snrs is [0.0], must be two or more, ascending"),
        ({"labels": ["a", " ", "c"]}, "its labels are ['a', ' ', 'c'], must differ, and none may be blank"),
        ({"kind": "vector"}, "its kind is 'vector', must be labels or number"),
    ],
)
def test_a_head_whose_parts_do_not_belong_together(tmp_path, change, said):
    random_head().save(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | change
    path.write_text(json.dumps(config), encoding="utf-8")
    found = refusal(load_head, tmp_path)
    assert said in found and str(tmp_path) in found and found.endswith("fit it again")


def test_a_head_with_another_heads_bias(tmp_path):
    random_head().save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"bias": torch.zeros(1, 4)}, tmp_path / "model.safetensors")
    assert "weight [1, 3, 2, 3], bias [1, 4] and clean latents do not belong" in refusal(load_head, tmp_path)
    save_file(tensors | {"weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    assert "weight [3], bias [1, 3] and clean latents do not belong together" in refusal(load_head, tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [("model.safetensors", None), ("config.json", None), ("config.json", b"{}"), ("config.json", b"[1]"),
     ("config.json", b"null")],
)
def test_a_damaged_head(tmp_path, file, content):
    random_head().save(tmp_path)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:-15] if content is None else content)
    said = refusal(load_head, tmp_path)
    assert "cut short or damaged" in said
    assert "fit it again" in said
