"""`latdiff sample --output`: the texts of the same command without it, chunk by chunk into a file."""

import json
import multiprocessing
import warnings
from types import SimpleNamespace

import pytest
import torch
from denoisers import random_denoiser
from test_storage import hold

from latdiff import LatentTextDiffusionPipeline, cli
from latdiff.cli.output import OutputError, TextsFile


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr("latdiff.cli.texts.BATCH_SIZE", 4)


@pytest.fixture
def calls(monkeypatch):
    """The arguments of every call of a pipeline."""
    call, asked = LatentTextDiffusionPipeline.__call__, []

    def listening(self, **given):
        asked.append(given)
        return call(self, **given)

    monkeypatch.setattr(LatentTextDiffusionPipeline, "__call__", listening)
    return asked


@pytest.fixture
def conditional(talkative, tmp_path):
    """The folder of a pipeline whose texts are conditioned on a class."""
    settings = {"codec_digest": talkative.codec.digest, "classes": ["calm", "wild"]}
    talkative.register_modules(denoiser=random_denoiser(**settings))
    talkative.save_pretrained(tmp_path / "conditional")
    return tmp_path / "conditional"


@pytest.mark.parametrize("flags", [
    ("--num-samples", 11, "--guide", "tense=past"), ("--num-samples", 6, "--candidates", 3), (),
    ("--num-samples", 5, "--guide", "tense=past", "--compare"),
    ("--num-samples", 9, "--scheduler", "ddim", "--steps", 2),
], ids=["guide", "candidates", "as many as without", "compare", "scheduler"])
def test_the_file_holds_what_is_printed(latdiff, talking, tmp_path, flags):
    printed = latdiff("sample", *flags, "--seed", 5, "--json", folder=talking)
    assert latdiff("sample", *flags, "--seed", 5, "--output", tmp_path / "texts.jsonl", folder=talking) == ""
    assert (tmp_path / "texts.jsonl").read_text(encoding="utf-8") == printed
    assert [json.loads(line)["index"] for line in printed.splitlines()] == list(range(len(printed.splitlines())))
    if "--compare" not in flags:
        latdiff("sample", *flags, "--seed", 5, "--output", tmp_path / "texts.txt", folder=talking)
        assert (tmp_path / "texts.txt").read_text(encoding="utf-8").splitlines() == [
            json.loads(line)["text"] for line in printed.splitlines()]


@pytest.mark.parametrize("candidates", [1, 3])
def test_chunks_have_the_texts_of_one_call_bit_for_bit(latdiff, talkative, talking, calls, candidates):
    out = talkative(num_samples=11, candidates=candidates, generator=torch.Generator().manual_seed(5), batch_size=4)
    flags = ("--num-samples", 11, "--candidates", candidates, "--seed", 5)
    assert latdiff("sample", *flags, folder=talking).splitlines() == out.texts
    assert [(call["first"], call["num_samples"]) for call in calls[1:]] == [(0, 4), (4, 4), (8, 3)]


def test_every_condition_has_its_texts_where_a_chunk_ends_within_one(latdiff, conditional, talkative, tmp_path):
    flags = ("--cond", "wild", "--cond", "calm", "--num-samples", 5)
    out = talkative(["wild", "calm"], 5, generator=torch.Generator().manual_seed(0), batch_size=4)
    assert latdiff("sample", *flags, folder=conditional).splitlines() == out.texts
    latdiff("sample", *flags, "--output", tmp_path / "texts.jsonl", folder=conditional)
    rows = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == out.texts
    assert [row["cond"] for row in rows] == ["wild"] * 5 + ["calm"] * 5


def test_what_is_kept_is_chosen_among_all(latdiff, talkative, talking):
    out = talkative(num_samples=6, keep=0.5, generator=torch.Generator().manual_seed(0), batch_size=4)
    assert latdiff("sample", "--num-samples", 6, "--keep", 0.5, folder=talking).splitlines() == out.texts


def test_what_is_finished_is_not_drawn_again(latdiff, talking, tmp_path, monkeypatch, calls):
    flags = ("sample", "--num-samples", 10, "--output", tmp_path / "texts.txt")
    call = LatentTextDiffusionPipeline.__call__

    def failing(self, **given):
        if given["first"] == 8:
            raise MemoryError
        return call(self, **given)

    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(LatentTextDiffusionPipeline, "__call__", failing)
        latdiff(*flags, folder=talking)
    calls.clear()
    latdiff(*flags, folder=talking)
    assert [given["first"] for given in calls] == [8]
    whole = latdiff("sample", "--num-samples", 10, folder=talking)
    assert (tmp_path / "texts.txt").read_text(encoding="utf-8") == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.txt", "texts.txt.settings.json"]


def test_a_finished_file_is_said_to_be_finished_and_nothing_loads(talking, tmp_path, capsys, monkeypatch):
    flags = ["sample", str(talking), "--num-samples", "2", "--output", str(tmp_path / "texts.txt")]
    cli.main(flags)
    assert capsys.readouterr().out == f"texts -> {tmp_path / 'texts.txt'}\n"
    monkeypatch.setattr("latdiff.cli.sampling.Texts", None)
    cli.main(flags)
    assert capsys.readouterr().out == f"finished already -> {tmp_path / 'texts.txt'}\n"


def test_other_settings_are_refused_and_what_is_there_stays(latdiff, refused, talking, tmp_path, fingerprint):
    output = tmp_path / "texts.jsonl"
    latdiff("sample", "--num-samples", 2, "--guide", "tense=past", "--output", output, folder=talking)
    before = fingerprint(tmp_path)
    for flags, change in (
        (("--num-samples", 3, "--guide", "tense=past"), "num_samples was 2, is 3"),
        (("--num-samples", 2, "--guide", "tense=past", "--seed", 1), "seed was 0, is 1"),
        (("--num-samples", 2, "--guide", "tense=present"), "guides was "),
    ):
        said = refused("sample", *flags, "--output", output, folder=talking)
        assert change in said and "name another file" in said
        assert fingerprint(tmp_path) == before


def test_another_checkpoint_is_refused(refused, latdiff, checkpoint, talking, tmp_path):
    flags = ("sample", "--num-samples", 2, "--output", tmp_path / "texts.txt")
    latdiff(*flags, folder=talking)
    assert "weights was " in refused(*flags, folder=checkpoint)


@pytest.mark.parametrize("content", [None, "{", "[]"], ids=["absent", "damaged", "no object"])
def test_a_file_that_nothing_is_known_of_is_not_touched(refused, tmp_path, content):
    (tmp_path / "texts.txt").write_text("mine", encoding="utf-8")
    if content:
        (tmp_path / "texts.txt.settings.json").write_text(content, encoding="utf-8")
    said = refused("sample", "--output", tmp_path / "texts.txt")
    assert "texts.txt.settings.json" in said and "delete it" in said
    assert (tmp_path / "texts.txt").read_text(encoding="utf-8") == "mine"


def test_a_command_that_cannot_begin_leaves_nothing(refused, tmp_path):
    assert "sentimnt" in refused("sample", "--guide", "sentimnt=positive", "--output", tmp_path / "new" / "texts.txt")
    assert list((tmp_path / "new").glob("*")) == []


@pytest.mark.parametrize("name, flags, said", [
    ("texts.csv", (), r"must be a file that ends in .jsonl"), ("folder.txt", (), r"must be a file"),
    ("texts.txt", ("--keep", 0.9), "--keep is 0.9, which chooses among all texts"),
    ("texts.txt", ("--compare",), "leave out --compare and --json"),
    ("texts.txt", ("--json",), "leave out --compare and --json"),
    ("file/texts.txt", (), "could not be written"), ("texts.txt", ("--num-samples", 0), "must be 1 or more"),
])
def test_what_cannot_be_written_is_refused_before_a_model_loads(refused, tmp_path, monkeypatch, name, flags, said):
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setattr("latdiff.cli.sampling.Texts", None)
    assert said in refused("sample", *flags, "--output", tmp_path / name)


def test_a_second_command_does_not_write_the_same_file(refused, tmp_path):
    context = multiprocessing.get_context("forkserver")
    held, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "texts.txt.parts", held, done))
    process.start()
    try:
        assert held.wait(60)
        assert "another process is writing" in refused("sample", "--output", tmp_path / "texts.txt")
    finally:
        process.kill()
        process.join()


def test_line_breaks_within_a_text_do_not_make_two(latdiff, talking, tmp_path, monkeypatch):
    monkeypatch.setattr("latdiff.cli.texts.Texts.lines", lambda self, places: ["a\nb", "c"])
    latdiff("sample", "--num-samples", 2, "--output", tmp_path / "texts.txt", folder=talking)
    assert (tmp_path / "texts.txt").read_text(encoding="utf-8") == "a b\nc\n"


def test_a_warning_is_not_given_for_every_chunk(latdiff, talking, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        latdiff("sample", "--num-samples", 10, "--output", tmp_path / "texts.txt", folder=talking)
    assert sum("are cut" in str(one.message) for one in caught) == 1


ALONE = SimpleNamespace(is_main_process=True, process_index=0, num_processes=1, wait_for_everyone=lambda: None)
CHUNKS = [range(2), range(2, 4), range(4, 5)]


def lines_of(seed):
    return lambda places: [f"text {place} of seed {seed}" for place in places]


def begun(path, seed=0, chunks=CHUNKS, state=ALONE):
    """A file whose last chunk has failed."""
    file = TextsFile(path, {"seed": seed}, state)

    def lines(places):
        if places == chunks[-1]:
            raise RuntimeError("no memory")
        return lines_of(seed)(places)

    with pytest.raises(RuntimeError, match="no memory"), file.alone():
        file.write(chunks, lines, quiet=True)
    return file


def finish(file, seed=0):
    with file.alone() as finished:
        if not finished:
            file.write(CHUNKS, lines_of(seed), quiet=True)
    return finished


@pytest.mark.parametrize("count", [1, 2])
def test_settings_stay_where_another_process_may_still_draw(tmp_path, count):
    state = SimpleNamespace(**vars(ALONE) | {"num_processes": count})
    file = begun(tmp_path / "texts.txt", chunks=[range(2)], state=state)
    assert file.beside.exists() == (count == 2)


def test_parts_of_a_process_that_lives_on_do_not_come_into_the_file_of_other_settings(tmp_path):
    orphan = TextsFile(tmp_path / "texts.txt", {"seed": 1}, ALONE)
    file = TextsFile(tmp_path / "texts.txt", {"seed": 2}, ALONE)
    with file.alone():
        orphan._part(1).write_text("text 2 of seed 1\ntext 3 of seed 1\n", encoding="utf-8")
        file.write(CHUNKS, lines_of(2), quiet=True)
    assert file.path.read_text(encoding="utf-8") == "".join(f"text {n} of seed 2\n" for n in range(5))
    assert not file.parts.exists()


def test_a_file_that_was_put_there_or_changed_is_not_taken_for_finished(tmp_path):
    file = begun(tmp_path / "texts.txt")
    file.path.write_text("text 0 of seed 0\n", encoding="utf-8")  # somebody looks at what there is
    with pytest.raises(OutputError, match="was changed, or put there by hand"):
        finish(file)
    file.path.unlink()
    assert not finish(file) and finish(file)
    whole = file.path.read_text(encoding="utf-8")
    assert whole == "".join(f"text {n} of seed 0\n" for n in range(5))
    file.path.write_text(whole[:20], encoding="utf-8")
    with pytest.raises(OutputError, match="Move it away to go on"):
        finish(file)
    file.path.unlink()
    assert not finish(file) and file.path.read_text(encoding="utf-8") == whole


def test_a_part_that_was_cut_short_is_missed_and_other_files_stay(tmp_path):
    file = begun(tmp_path / "texts.txt")
    whole = file._part(0).read_text(encoding="utf-8")
    file._part(0).write_text(whole[:10], encoding="utf-8")
    (file.parts / "0000000 (copy).txt").touch()
    (file.parts / "folder").mkdir()
    with pytest.raises(OutputError, match=r"has 0 lines, must have 2: it was changed\. Delete it"):
        finish(file)
    file._part(0).unlink()
    assert not finish(file)
    assert sorted(one.name for one in file.parts.iterdir()) == ["0000000 (copy).txt", "folder"]


def test_a_link_leads_to_the_file_and_its_parts(tmp_path):
    (tmp_path / "large").mkdir()
    (tmp_path / "texts.txt").symlink_to(tmp_path / "large" / "whole.txt")
    file = begun(tmp_path / "texts.txt")
    assert file.parts == tmp_path / "large" / "whole.txt.parts" and len(list(file.parts.iterdir())) >= 2
    finish(file)
    assert (tmp_path / "texts.txt").is_symlink()
    assert (tmp_path / "texts.txt").read_text(encoding="utf-8").count("\n") == 5
