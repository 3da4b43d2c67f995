"""The latents of a training set on the disk: shard by shard, batch by batch, whoever writes and whatever is killed."""

import itertools
import json
import multiprocessing
import socket
import subprocess
import sys

import pytest
import torch
from accelerate import PartialState
from runs import Interrupted
from safetensors import safe_open
from safetensors.torch import save_file

from latdiff import latents as module
from latdiff.latents import open_latents, statistics, write_latents
from latdiff.storage import StorageError

ROWS = 50
LATENTS = torch.randn(ROWS, 2, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 8)
    monkeypatch.setattr(module, "PART", 20)


@pytest.fixture
def write(tmp_path):
    """Write LATENTS, or so many of them, and note which rows were encoded."""
    def write(codec="codec", texts="texts", rows=ROWS, encode=None):
        def noted(part):
            write.encoded.append((part.start, part.stop))
            return (encode or (lambda rows: LATENTS[rows.start : rows.stop]))(part)

        return write_latents(tmp_path / "latents", codec, texts, rows, noted)

    write.encoded = []
    return write


def every(found):
    return found[range(len(found))]


# What is read


def test_batches_are_the_rows_asked_for(write):
    found = write()
    assert len(found) == ROWS and found[[3]].dtype == torch.float32
    for rows in ([0], [49], [7, 8], [30, 2, 30, 17], range(5, 29), []):
        assert torch.equal(found[rows], LATENTS[list(rows)])
    with pytest.raises(IndexError):
        found[[ROWS]]


def test_few_files_are_open_at_once(write, monkeypatch):
    monkeypatch.setattr(module, "OPEN", 2)
    found = write()
    assert torch.equal(found[list(reversed(range(ROWS)))], LATENTS.flip(0))
    assert len(found.shards._files) == 2


def test_some_of_them_in_an_order_of_their_own(write):
    found = write().only([40, 3, 11])
    assert len(found) == 3 and torch.equal(found[[2, 0]], LATENTS[[11, 40]])
    assert torch.equal(found.only([1])[[0]], LATENTS[[3]])


def test_what_is_done_with_rows_is_done_with_every_batch(write):
    found = write().through(lambda rows: 2 * rows)
    assert torch.equal(found[[5, 1]], 2 * LATENTS[[5, 1]])
    assert torch.equal(torch.cat(list(found.parts())), 2 * LATENTS)


def test_vectors_in_half_precision_stay_what_they_are(write):
    vectors = LATENTS[:, 0].half()
    found = write(encode=lambda rows: vectors[rows.start : rows.stop])
    assert torch.equal(found[[9, 4]], vectors[[9, 4]])


def test_a_file_that_is_cut_short_meanwhile_is_met_with_a_way_out(write, tmp_path):
    found, file = write(), tmp_path / "latents" / "00002.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    assert torch.equal(found[[16]], LATENTS[[16]])
    with pytest.raises(StorageError, match=r"00002\.safetensors was cut short .*delete .*latents and give the same"):
        found[[23]]


def test_reading_keeps_no_memory(tmp_path):
    """Of 64 MB that were read row by row, less than a quarter is resident, as all would be of a mapped file."""
    code = f"""
import resource, torch
from pathlib import Path
from latdiff import latents
latents.ROWS = 1024
latents.PART = 64
found = latents.write_latents(Path({str(tmp_path)!r}), "a", "b", 2**14, lambda rows: torch.ones(len(rows), 16, 64))
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
latents.statistics([found[range(64)]])  # what torch loads for it
before = resident()
latents.statistics(found.parts())
for first in range(64):
    found[range(first, 2**14, 64)]
print(resident() - before)
"""
    grown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(grown) < 2**24


# What is written


def test_shards_are_written_in_their_order_and_the_index_last(write, tmp_path):
    write()
    assert write.encoded == [(first, min(first + 8, ROWS)) for first in range(0, ROWS, 8)]
    files = sorted((tmp_path / "latents").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    assert [file.name for file in files] == [*(f"{number:05}.safetensors" for number in range(7)), "index.json"]


def test_latents_come_back_for_the_codec_and_the_texts_that_made_them(write, tmp_path):
    folder = tmp_path / "latents"
    assert open_latents(folder, "codec", "texts") is None
    write()
    assert torch.equal(every(open_latents(folder, "codec", "texts")), LATENTS)
    assert open_latents(folder, "other", "texts") is open_latents(folder, "codec", "others") is None
    assert torch.equal(every(write()), LATENTS) and len(write.encoded) == 7


@pytest.mark.parametrize("change", [
    {"rows_a_shard": "0"}, {"rows_a_shard": "1", "rows": "1000000000000"}, {"rows": "x"}, {"shape": [3, 2]},
    {"shape": [-1]}, {"shape": 5}, {"dtype": "float64"}, {"dtype": "nn"}, {"dtype": 5},
])
def test_an_index_that_is_not_of_its_shards_is_taken_for_none(write, tmp_path, change):
    write()
    index = tmp_path / "latents" / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text(encoding="utf-8")) | change), encoding="utf-8")
    assert open_latents(tmp_path / "latents", "codec", "texts") is None
    assert torch.equal(every(write()), LATENTS)


def test_a_folder_in_place_of_a_shard_or_an_index_is_taken_for_none(write, tmp_path):
    write()
    for name in ("00002.safetensors", "index.json"):
        (tmp_path / "latents" / name).unlink()
        (tmp_path / "latents" / name).mkdir()
        assert open_latents(tmp_path / "latents", "codec", "texts") is None
        (tmp_path / "latents" / name).rmdir()


def test_a_shard_with_other_tensors_is_written_again(write, tmp_path):
    write()
    shard = tmp_path / "latents" / "00001.safetensors"
    with safe_open(shard, framework="pt") as file:
        metadata, rows = file.metadata(), file.get_tensor("latents")
    save_file({"latents": rows, "more": rows.clone()}, shard, metadata=metadata)
    assert open_latents(tmp_path / "latents", "codec", "texts") is None
    assert torch.equal(every(write()), LATENTS) and len(write.encoded) == 8
    save_file({"latents": rows.double()}, shard, metadata=metadata)
    assert open_latents(tmp_path / "latents", "codec", "texts") is None


@pytest.mark.parametrize("change", [{"codec": "other"}, {"texts": "others"}, {"rows": 20}])
def test_others_take_their_place(write, tmp_path, change):
    write()
    found = write(**change, encode=lambda rows: -LATENTS[rows.start : rows.stop])
    assert torch.equal(every(found), -LATENTS[: change.get("rows", ROWS)])
    count = len(list((tmp_path / "latents").glob("*.safetensors")))
    assert count == (3 if "rows" in change else 7)  # none is left of the larger training set


def test_a_kill_costs_a_shard(write, tmp_path):
    """A shard that was being encoded or written counts for nothing, and those before it are not encoded again."""
    def killed(rows):
        if rows.start == 24:
            raise Interrupted
        return LATENTS[rows.start : rows.stop]

    with pytest.raises(Interrupted):
        write(encode=killed)
    assert open_latents(tmp_path / "latents", "codec", "texts") is None
    (tmp_path / "latents" / "00003.safetensors.unfinished").write_bytes(b"half")
    before = len(write.encoded)
    assert torch.equal(every(write()), LATENTS)
    assert write.encoded[before:] == [(24, 32), (32, 40), (40, 48), (48, 50)]


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: b"", lambda content: b"x" * 40])
def test_a_torn_shard_is_written_again(write, tmp_path, damage):
    write()
    file = tmp_path / "latents" / "00004.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    assert open_latents(tmp_path / "latents", "codec", "texts") is None
    before = len(write.encoded)
    assert torch.equal(every(write()), LATENTS) and write.encoded[before:] == [(32, 40)]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"rows": "x"}', "half"])
def test_a_damaged_index_counts_as_none(write, tmp_path, content):
    write()
    (tmp_path / "latents" / "index.json").write_text(content, encoding="utf-8")
    assert open_latents(tmp_path / "latents", "codec", "texts") is None
    assert torch.equal(every(write()), LATENTS) and len(write.encoded) == 7


def test_latents_in_shards_of_another_size_are_read(write, tmp_path, monkeypatch):
    write()
    monkeypatch.setattr(module, "ROWS", 16)
    assert torch.equal(every(open_latents(tmp_path / "latents", "codec", "texts")), LATENTS)


def test_the_index_says_what_lies_there(write, tmp_path):
    write()
    assert json.loads((tmp_path / "latents" / "index.json").read_text(encoding="utf-8")) == {
        "codec_digest": "codec", "texts_digest": "texts", "rows": "50", "rows_a_shard": "8", "shape": [2, 3],
        "dtype": "float32",
    }


def _one_of_several(number, folder, said):
    """A process of a launcher, with shards of eight rows."""
    PartialState(cpu=True)
    module.ROWS = 8
    encoded = []

    def encode(rows):
        encoded.append(rows.start // 8)
        return LATENTS[rows.start : rows.stop]

    found = write_latents(folder, "codec", "texts", ROWS, encode)
    said.put((number, encoded, torch.equal(every(found), LATENTS)))
    PartialState().destroy_process_group()


def test_several_processes_share_the_shards_and_read_all(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launched = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    spawn = multiprocessing.get_context("spawn")
    said, processes = spawn.Queue(), []
    for number in range(2):
        for name, value in (launched | {"RANK": number, "LOCAL_RANK": number}).items():
            monkeypatch.setenv(name, str(value))
        processes.append(spawn.Process(target=_one_of_several, args=(number, tmp_path, said)))
        processes[-1].start()
    found = sorted(said.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert found == [(0, [0, 2, 4, 6], True), (1, [1, 3, 5], True)]


# Statistics


@pytest.mark.parametrize("sizes", [[50], [20, 20, 10], [1] * 50, [1, 49]])
def test_statistics_of_parts_are_those_of_the_whole(sizes):
    ends = list(itertools.accumulate(sizes))
    far = 1e4 + LATENTS.double()  # float32 would keep three digits of what varies
    mean, variance = statistics(far[end - size : end] for size, end in zip(sizes, ends, strict=True))
    torch.testing.assert_close(mean, far.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(variance, far.var(0), rtol=1e-9, atol=0)
