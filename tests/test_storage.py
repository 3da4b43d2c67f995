"""Files that are written whole or not at all, and folders that one process writes into at a time."""

import errno
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from latdiff.checkpoints import CheckpointError, save_whole
from latdiff.resuming import save_tensors
from latdiff.storage import LOCK, StorageError, sole_writer, write_text, written_whole


def test_a_file_takes_its_place_once_it_is_written(tmp_path):
    path = tmp_path / "new" / "figures.json"
    write_text(path, "old")
    with written_whole(path) as beside:
        beside.write_text("new", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"
    assert [file.name for file in path.parent.iterdir()] == ["figures.json"]


@pytest.mark.parametrize("name", ["figures.json", "figures.json.unfinished", "figures.json.unfinished.new"])
@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing"])
def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path, name, there):
    (tmp_path / "ck").mkdir()
    victim = tmp_path / "victim"
    if there:
        victim.write_text("mine", encoding="utf-8")
        victim.chmod(0o600)
    (tmp_path / "ck" / name).symlink_to("../victim")
    write_text(tmp_path / "ck" / "figures.json", "new")
    file = tmp_path / "ck" / "figures.json"
    assert file.read_text(encoding="utf-8") == "new" and not file.is_symlink()
    assert [file.name for file in (tmp_path / "ck").iterdir()] == ["figures.json"]
    assert victim.exists() == there
    assert not there or (victim.read_text(encoding="utf-8") == "mine" and victim.stat().st_mode & 0o777 == 0o600)


def write_slowly(path, begun, done):
    with written_whole(path) as beside:
        beside.write_text("slow", encoding="utf-8")
        begun.set()
        done.wait(60)


@pytest.fixture
def slow(tmp_path):
    """A process that is writing a file, and what makes it finish."""
    context = multiprocessing.get_context("forkserver")
    begun, done = context.Event(), context.Event()
    process = context.Process(target=write_slowly, args=(tmp_path / "a.png", begun, done))
    process.start()
    assert begun.wait(60)
    yield process, done
    process.kill()
    process.join()


def test_two_processes_may_write_one_file_at_once_and_the_last_stays(slow, tmp_path):
    process, done = slow
    write_text(tmp_path / "a.png", "quick")
    assert (tmp_path / "a.png").read_text(encoding="utf-8") == "quick"
    done.set()
    process.join()
    assert process.exitcode == 0
    assert (tmp_path / "a.png").read_text(encoding="utf-8") == "slow"
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_what_a_killed_process_left_is_deleted_by_the_next_and_no_other_file(slow, tmp_path):
    process, _ = slow
    process.kill()
    process.join()
    kept = ["a.png.unfinished-notes", "b.png.unfinished"]
    for name in kept:
        (tmp_path / name).touch()
    assert len(list(tmp_path.iterdir())) == 3
    write_text(tmp_path / "a.png", "new")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", *kept]


def test_a_folder_where_the_file_is_written_first_is_refused(tmp_path):
    (tmp_path / "figures.json.unfinished").mkdir()
    with pytest.raises(StorageError, match="could not be written"):
        write_text(tmp_path / "figures.json", "new")


def test_a_checkpoint_is_not_saved_through_links(tmp_path):
    folder, victim = tmp_path / "ck", tmp_path / "victim"
    folder.mkdir()
    victim.mkdir()

    def save(place):
        write_text(place / "a.json", "{}")
        write_text(place / "part" / "b.json", "{}")

    (folder / ".unfinished").symlink_to("../victim")
    save_whole(folder, "a.json", save)
    assert not list(victim.iterdir()) and (folder / "part" / "b.json").exists()
    (folder / "part" / "b.json").unlink()
    (folder / "part").rmdir()
    (folder / "part").symlink_to("../victim")
    with pytest.raises(CheckpointError, match=r"part would be written to .*victim, for a link in .*ck leads out of it"):
        save_whole(folder, "a.json", save)
    assert not list(victim.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_what_the_disk_refuses_is_one_sentence_and_the_older_file_stays(tmp_path, number):
    path = tmp_path / "state"
    write_text(path, "old")
    said = rf"state could not be written \({os.strerror(number)}\).*Free some space"
    with pytest.raises(StorageError, match=said), written_whole(path) as beside:
        beside.write_text("ha", encoding="utf-8")
        raise OSError(number, os.strerror(number))
    assert path.read_text(encoding="utf-8") == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600)])
def test_weights_are_for_those_whom_the_umask_lets_read(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        save_tensors(tmp_path / "a.safetensors", {"a": torch.ones(2)}, {})
        save_whole(tmp_path, "b.safetensors", lambda place: place.mkdir() or save_file(
            {"b": torch.ones(2)}, place / "b.safetensors"))
    finally:
        os.umask(before)
    assert {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {
        "a.safetensors": mode, "b.safetensors": mode}


def test_a_file_where_a_folder_must_be_is_refused(tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="could not be written"):
        write_text(tmp_path / "taken" / "recipe.yaml", "a")


def test_a_checkpoint_that_the_disk_has_no_room_for_leaves_the_one_that_is_there(tmp_path):
    save_whole(tmp_path, "a.json", lambda place: write_text(place / "a.json", "old"))

    def full(place):
        write_text(place / "a.json", "new")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match="No space left"):
        save_whole(tmp_path, "a.json", full)
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "old"


def hold(folder, held, done):
    with sole_writer(folder):
        held.set()
        done.wait(60)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder `run`, and what makes it let go."""
    context = multiprocessing.get_context("forkserver")
    held, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "run", held, done))
    process.start()
    assert held.wait(60)
    yield process, done
    process.kill()
    process.join()


def test_a_second_writer_is_kept_out_until_the_first_has_ended(holder, tmp_path):
    process, done = holder
    said = r"another process is training into .*run; wait .* or set name="
    with pytest.raises(StorageError, match=said), sole_writer(tmp_path / "run"):
        pass
    done.set()
    process.join()
    with sole_writer(tmp_path / "run"):
        pass


def test_a_process_that_was_killed_keeps_nobody_out(holder, tmp_path):
    process, _ = holder
    process.kill()
    process.join()
    with sole_writer(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_one_process_may_enter_twice_as_a_stage_does_that_runs_another(tmp_path):
    with sole_writer(tmp_path):
        with sole_writer(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_stays_empty_is_removed_and_no_other(tmp_path):
    with sole_writer(tmp_path / "new" / "run"):
        assert (tmp_path / "new" / "run").is_dir()
    assert list(tmp_path.iterdir()) == []
    with sole_writer(tmp_path / "new"):
        Path(tmp_path / "new" / "recipe.yaml").touch()
    assert (tmp_path / "new" / "recipe.yaml").exists()
    with sole_writer(tmp_path / "some" / "parts"):
        Path(tmp_path / "some" / "whole.txt").touch()
    assert [path.name for path in (tmp_path / "some").iterdir()] == ["whole.txt"]
    with pytest.raises(ValueError), sole_writer(tmp_path / "other"):
        raise ValueError
    assert not (tmp_path / "other").exists()
