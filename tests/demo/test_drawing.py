"""Texts as they emerge, without a browser."""

import threading
import time

import pytest
import torch

from latdiff.demo.drawing import PREVIEWS, frames, guides_of
from latdiff.demo.panel import panel_of
from latdiff.demo.requests import Wanted
from latdiff.demo.shelf import Shelf
from latdiff.demo.showing import frame_html
from latdiff.errors import UserError
from latdiff.heads.number import NumberHead


def test_texts_emerge_beside_those_of_the_same_noise_and_are_the_pipelines_own(shelf):
    seen = list(frames(shelf, Wanted("tiny", {"sentiment": {"positive": 4.0}}, steps=12, seed=3, samples=2)))
    last = seen[-1]
    assert [frame.done for frame in seen] == [False] * (len(seen) - 1) + [True]
    assert PREVIEWS <= len(last.moments) <= PREVIEWS + 1 and last.moments[0].scores.keys() == {"sentiment=positive"}
    assert seen[0].plain == last.plain and not seen[0].texts
    with shelf.use("tiny") as opened:
        head = opened.heads["sentiment"]
        guide = head.toward("positive", 4 * head.usual_scale("x0"))
        drawn = [opened.pipe(num_samples=2, guides=guides, num_inference_steps=12,
                             generator=torch.Generator().manual_seed(3)).texts for guides in ([], [guide])]
    assert [last.plain, last.texts] == drawn
    assert last.scores["sentiment=positive"] and last.plain != last.texts


def test_without_a_slider_nothing_is_compared_and_the_sampler_is_for_one_request(shelf):
    *_, last = frames(shelf, Wanted("tiny", steps=4, sampler="ddim"))
    assert last.plain == [] and len(last.texts) == 1
    with shelf.use("tiny") as opened:
        assert type(opened.pipe.scheduler).__name__ == "DDPMScheduler"


def test_an_edit_says_where_the_text_does_not_come_back(shelf):
    text = "We met at the lake."
    *_, last = frames(shelf, Wanted("tiny", {"tense": {"past": 2.0}}, steps=10, text=text, edit_strength=0.5))
    assert last.plain == [text] and last.steps == 5 and "comes back from its latents as" in last.notes[0]


@pytest.mark.parametrize(("wanted", "said"), [
    (Wanted("elsewhere"), "no checkpoint 'elsewhere' on this page, only tiny"),
    (Wanted("tiny", {"sentimant": {"positive": 1.0}}), "did you mean sentiment"),
    (Wanted("tiny", {"sentiment": {"happy": 1.0}}), "knows no label 'happy'"),
    (Wanted("tiny", cond="Once"), "leave the first words out"),
    (Wanted("tiny", {"tense": {"past": 1.0}}, text="word " * 300), "longer than the 96 tokens"),
])
def test_what_the_checkpoint_does_not_know_is_said(shelf, wanted, said):
    with pytest.raises(UserError, match=said):
        list(frames(shelf, wanted))


def test_it_takes_only_so_long(shelf):
    with pytest.raises(UserError, match="stopped after 0 seconds"):
        list(frames(shelf, Wanted("tiny", steps=50), seconds=0))


def test_a_thread_ends_when_nobody_reads_on(shelf):
    reading = frames(shelf, Wanted("tiny", steps=100, samples=8))
    next(reading)
    reading.close()
    until = time.monotonic() + 20
    while any(one.name == "latdiff-demo-drawing" for one in threading.enumerate()) and time.monotonic() < until:
        time.sleep(0.05)
    with shelf.use("tiny") as opened:  # which the thread has given back
        assert opened.heads
    assert time.monotonic() < until


def test_several_values_of_a_head_are_one_guide_and_numbers_one_at_a_time(shelf, numbered):
    with shelf.use("tiny") as opened:
        heads = opened.heads
    (guide,) = guides_of(heads, {"tense": {"past": 1.0, "present": 2.0}})
    assert guide.target == (0.5, 1.0) and guide.scale == pytest.approx(2 * heads["tense"].usual_scale("x0"))
    latents, _, numbers = numbered
    number = {"words": NumberHead(name="words").fit(latents, numbers)}
    assert guides_of(number, {"words": {"2": 1.0}})[0].title == "words=2"
    with pytest.raises(UserError, match="give one"):
        guides_of(number, {"words": {"2": 1.0, "3": 1.0}})


def test_what_a_text_holds_is_never_markup(shelf):
    text = "<script>alert(1)</script>"
    *_, last = frames(shelf, Wanted("tiny", {"tense": {"past": 1.0}}, steps=3, text=text))
    shown = frame_html(last, "before", "after")
    assert "<script>" not in shown and "&lt;script&gt;" in shown and 'data-done="1"' in shown


def test_the_panel_names_heads_values_and_what_is_the_checkpoints_own(shelf):
    with shelf.use("tiny") as opened:
        panel = panel_of("tiny", opened, ())
    assert [(group.head, group.values) for group in panel.groups] == [
        ("sentiment", ("negative", "positive")), ("tense", ("past", "present"))]
    assert (panel.condition, panel.steps, panel.sampler) == ("", 3, "DDPM") and not panel.problems


def test_the_shelf_has_what_comes_along_and_what_lies_here_once(talking, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "mine").symlink_to(talking)
    (tmp_path / "checkpoints" / "broken").mkdir()
    (tmp_path / "checkpoints" / "broken" / "model_index.json").write_text("{", encoding="utf-8")
    names = list(Shelf("mine-first", talking).folders)
    assert names[0] == "mine-first" and "english" in names and "checkpoints/mine" not in names
    assert "checkpoints/broken" not in names
    with pytest.raises(UserError, match="no finished pipeline"):
        Shelf("broken", tmp_path / "checkpoints" / "nowhere")
