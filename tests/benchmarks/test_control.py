"""The control tasks, on a model that has learnt nothing: targets as they are written, and rows that are shares."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import control as measure_control
from latdiff import storyworld
from latdiff.errors import UserError
from latdiff.pipelines.latent import LatentTextDiffusionPipeline


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def test_targets_are_read_as_their_texts_spell_them(tmp_path):
    rows = ["price : more than £ 30", "price : £ 20 - 25", "near : Café Rouge"]
    found = measure_control.read_targets(write(tmp_path / "t.jsonl", rows))
    assert found == {"price": ["more than £30", "£20-25"], "near": ["Café Rouge"]}
    with pytest.raises(UserError, match="'Italian' is not a target"):
        measure_control.read_targets(write(tmp_path / "t.jsonl", ["Italian"]))


def test_every_target_has_a_row(tiny, tmp_path, monkeypatch):
    targets = write(tmp_path / "targets.jsonl", ["who : uncle", "who : aunt", "who : nobody at all", "day : Monday"])
    texts = write(tmp_path / "texts.jsonl", [story.text for story in storyworld.sample(200, 5)])
    file = tmp_path / "control.json"
    flags = ["--data", texts, "--targets", targets, "--fluency", str(tiny.ar), "--num-samples", "2",
             "--mode", "denoiser", "--times", "0.5", "--sampler", "renoise:3", "--keep", "0.5"]
    monkeypatch.setattr(sys, "argv", ["measure", str(tiny.checkpoint), *flags, "--json", str(file)])
    call, kept = LatentTextDiffusionPipeline.__call__, set()
    monkeypatch.setattr(LatentTextDiffusionPipeline, "__call__",
                        lambda self, **given: (kept.add(given["keep"]), call(self, **given))[1])
    measure_control.main()
    document = json.loads(file.read_text(encoding="utf-8"))
    assert (document["mode"], document["times"], document["keep"], kept) == ("denoiser", 0.5, 0.5, {0.5})
    assert (document["scheduler"], document["steps"]) == ("LCMScheduler", 3)
    content = {row["target"]: row for row in document["rows"] if row["task"] == "content"}
    assert {target: row["fitted"] for target, row in content.items()} == {
        "uncle": True, "aunt": True, "nobody at all": False, "Monday": True,
    }
    assert [row["target"] for row in document["rows"] if row["task"] == "length"] == [10, 15, 20, 25, 30]
    assert all(0 <= row["success"] <= 1 and row["perplexity"] > 1 for row in document["rows"])
    shares = [row["success"] for row in content.values()]
    assert document["content"]["success"] == pytest.approx(sum(shares) / 4)
    fitted = [row["success"] for row in content.values() if row["fitted"]]
    assert document["content"]["success_with_a_head"] == pytest.approx(sum(fitted) / 3)
    assert [document[task]["n"] for task in ("unsteered", "content", "length")] == [40, 8, 10]
    assert document["length"]["perplexity"] > 1


def test_without_targets_lengths_alone_are_measured(tiny, tmp_path, monkeypatch):
    texts = write(tmp_path / "texts.jsonl", [story.text for story in storyworld.sample(40, 5)])
    file = tmp_path / "control.json"
    flags = ["--data", texts, "--fluency", str(tiny.ar), "--num-samples", "2", "--sampler", "renoise:2",
             "--pilots", "1"]
    monkeypatch.setattr(sys, "argv", ["measure", str(tiny.checkpoint), *flags, "--json", str(file)])
    measure_control.main()
    document = json.loads(file.read_text(encoding="utf-8"))
    assert [row["task"] for row in document["rows"]] == ["unsteered"] + 5 * ["length"]
    assert "content" not in document
    assert all(row["aim"] != row["target"] for row in document["rows"][1:])  # a model of nothing misses


def test_of_several_candidates_the_heads_take_one(tiny, tmp_path, monkeypatch):
    targets = write(tmp_path / "targets.jsonl", ["who : uncle", "who : aunt"])
    texts = write(tmp_path / "texts.jsonl", [story.text for story in storyworld.sample(100, 5)])
    drawn, call = [], LatentTextDiffusionPipeline.__call__
    spy = lambda pipe, **options: drawn.append(options["num_samples"]) or call(pipe, **options)  # noqa: E731
    monkeypatch.setattr(LatentTextDiffusionPipeline, "__call__", spy)
    file = tmp_path / "control.json"
    flags = ["--data", texts, "--targets", targets, "--fluency", str(tiny.ar), "--num-samples", "2", "--sampler",
             "ddim:1", "--candidates", "3"]
    monkeypatch.setattr(sys, "argv", ["measure", str(tiny.checkpoint), *flags, "--json", str(file)])
    measure_control.main()
    document = json.loads(file.read_text(encoding="utf-8"))
    assert document["candidates"] == 3
    assert drawn == [40, *[6] * 7]  # unsteered texts are not chosen
    assert all(row["n"] == 2 for row in document["rows"][1:])


@pytest.mark.parametrize("flag", [("--candidates", "0"), ("--pilots", "-1"), ("--keep", "0")])
def test_numbers_of_texts_that_cannot_be(tmp_path, monkeypatch, flag):
    flags = ["--data", "none", "--fluency", "none", "--json", str(tmp_path / "m.json"), *flag]
    monkeypatch.setattr(sys, "argv", ["measure", str(tmp_path), *flags])
    with pytest.raises(UserError, match=f"{flag[0]}.* {flag[1]}"):
        measure_control.main()


def test_networks_read_a_number_off_latents():
    latents = torch.randn(400, 2, 3, generator=torch.Generator().manual_seed(0))
    numbers = [20 + 6 * row for row in (latents[:, 0, 0] * latents[:, 1, 2]).tolist()]  # which no ridge can read
    readers = measure_control.networks(latents, numbers, seed=0)
    mean = sum(reader.predict(latents.flatten(1).numpy()) for reader in readers) / len(readers)
    assert (mean - numbers).std() < 0.7 * torch.tensor(numbers).std()


def test_what_the_networks_agree_on_is_nearer():
    readers = [SimpleNamespace(predict=lambda rows, shift=shift: rows[:, 0] + shift * rows[:, 1]) for shift in (-1, 1)]
    latents = torch.tensor([[[20.0, 0.0]], [[20.0, 3.0]], [[22.0, 0.0]]])  # sure, unsure, sure of another number
    assert measure_control.nearness(readers, latents, 20).tolist() == [0, -9, -4]


def test_an_aim_makes_up_for_what_pilots_missed():
    seen = []

    def write(aim, pilot):
        seen.append((aim, pilot))
        return ["word " * round(aim * 0.8 + off) for off in (-3, 0, 4)]  # four fifths of what was asked for

    assert measure_control.aimed(20, 0, write) == 20
    assert measure_control.aimed(20, 1, write) == 24  # 16 words for 20
    assert measure_control.aimed(20, 3, write) == pytest.approx(25)
    assert seen[-3:] == [(20, 1), (24, 2), (25, 3)]


def test_a_head_gets_so_many_texts_of_every_value_that_there_is(pipe):
    texts = [story.text for story in storyworld.sample(400, 5)]
    head = measure_control.fit(pipe, "who", ["uncle", "aunt", "nobody at all"], texts, most=7)
    assert head.classes_.tolist() == ["aunt", "none of them", "uncle"]
    assert head.report["texts"] == 21
    assert measure_control.fit(pipe, "who", ["nobody at all"], texts, most=7) is None
