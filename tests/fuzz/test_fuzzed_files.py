"""Heads and checkpoints on disk: with any fault in a file they are opened and work, or it is said what is wrong."""

import json
import shutil

import pytest
import torch
from bounds import bounded, check_message
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import as_json, mutated, nested, texts, with_faults

from latdiff.checkpoints import class_of
from latdiff.errors import UserError
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.files import load_head
from latdiff.heads.number import NumberHead
from latdiff.models.autoencoder import LatentAutoencoder
from latdiff.models.denoiser import LatentDenoiser

REPORT = {"texts": 40, "accuracy": 0.9, "majority": 0.5, "calibration_error": 0.1, "C": 1.0, "features": "flat"}
X = torch.zeros(2, 2, 3)


def made(kind):
    weight = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0))
    if kind == "number":
        return NumberHead.from_weights(weight[0], torch.tensor(0.0), sd=1.0, radius=2.0, name="size")
    levels = torch.tensor([-1.0, 1.0]) if kind == "levels" else None
    weight, bias = (weight, torch.zeros(2)) if levels is None else (torch.stack([weight, weight]), torch.zeros(2, 2))
    return AttributeHead.from_weights(["no", "yes"], weight, bias, levels, name="tone", report=REPORT, radius=2.0,
                                      codec_digest="abc")


KINDS = ["labels", "levels", "number"]


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """The folder of a saved head of each kind, by its kind."""
    found = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, place in found.items():
        made(kind).save(place)
    return found


def use(folder):
    """A head is loaded and used in every way that a pipeline does, and is the same when saved and loaded again."""
    head = load_head(folder)
    label = 1.5 if isinstance(head, NumberHead) else head.classes_.tolist()[0]
    guide = head.toward(label)
    assert head.knows(label) and head.describe(guide.target) and isinstance(guide.title, str)
    shape = head.weight.shape[2:]
    latents = X if shape == X.shape[1:] else torch.zeros(2, *shape)
    head.log_prob_of(guide.target, latents, None if head.log_snrs is None else torch.zeros(2))
    assert head.saw(["A story."]) in ([True], [False])
    head.save(folder / "again")
    again = load_head(folder / "again")
    assert torch.equal(again.weight, head.weight) or not head.weight.isfinite().all()
    assert again.name == head.name and again.get_params() == head.get_params()


def opened(folder, saved, kind, name, content):
    """A head with one file replaced."""
    place = folder / "head"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(saved[kind], place)
    (place / name).write_bytes(content)
    use(place)


@given(kind=st.sampled_from(KINDS), data=st.data())
@bounded
def test_any_fault_in_the_configuration_of_a_head(folder, saved, kind, data):
    config = json.loads((saved[kind] / "config.json").read_text())
    content = as_json(data.draw(with_faults(config))).encode("utf-8", "surrogatepass")
    opened(folder, saved, kind, "config.json", content)


@given(kind=st.sampled_from(KINDS), name=st.sampled_from(["config.json", "model.safetensors"]), data=st.data())
@bounded
def test_any_bytes_in_a_file_of_a_head(folder, saved, kind, name, data):
    content = (saved[kind] / name).read_bytes()
    opened(folder, saved, kind, name, data.draw(st.one_of(mutated(content), st.binary(max_size=40))))


CASES = [nested(100_000), "9" * 5_000, "[]", "null", "", '{"a": 1, "a": 2}',
         "version https://git-lfs.github.com/spec/v1"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", CASES, ids=range(len(CASES)))
def test_what_no_file_of_a_head_holds(folder, saved, name, content):
    bounded(opened)(folder, saved, "labels", name, content.encode())


@pytest.mark.parametrize("key, value", [
    ("labels", [["a"], ["b"]]), ("labels", ["a", 1]), ("labels", ["a", "a"]), ("labels", [None, "a"]), ("name", [1]),
    ("labels", [10**30, 1]), ("radius", "x"), ("log_snrs", [1e400]),
    ("report", {"texts": 0, "accuracy": 1, "majority": 1}),
    ("report", {"texts": 9, "accuracy": "x", "majority": 2}), ("settings", {"features": 5}), ("kind", []),
    ("settings", {"C": "x"}), ("codec_digest", 5),
])
def test_a_part_of_the_wrong_kind_is_refused_when_it_is_loaded(folder, saved, key, value):
    config = json.loads((saved["labels"] / "config.json").read_text()) | {key: value}
    with pytest.raises(UserError) as error:
        opened(folder, saved, "labels", "config.json", json.dumps(config).encode())
    check_message(error.value)


# Checkpoints: the two parts that are latdiff's own


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """Folders of a tiny autoencoder and a tiny denoiser, and the class of each."""
    root = tmp_path_factory.mktemp("parts")
    made_of = {
        "autoencoder": LatentAutoencoder(feature_dim=8, num_latents=2, latent_dim=4, width=8, depth=1, heads=1,
                                         max_tokens=8),
        "denoiser": LatentDenoiser(num_latents=2, latent_dim=4, width=8, depth=1, heads=1),
    }
    for name, part in made_of.items():
        part.save_pretrained(root / name)
    return {name: (root / name, type(part)) for name, part in made_of.items()}


@given(content=st.one_of(st.binary(max_size=40), texts.map(lambda text: as_json({"_class_name": text}).encode()),
                         mutated(b'{"_class_name": "LatentTextDiffusionPipeline"}')))
@example(content=nested(100_000).encode())
@example(content=b'{"_class_name": ' + b"9" * 5_000 + b"}")
@example(content=b'{"_class_name": ["a"]}')
@example(content=b'{"_class_name": "__name__"}')
@bounded
def test_any_class_that_a_checkpoint_names(folder, content):
    (folder / "model_index.json").write_bytes(content)
    assert isinstance(class_of(folder / "model_index.json"), type)


@given(content=st.one_of(st.binary(max_size=40), with_faults({
    "_class_name": "LatentTextDiffusionPipeline", "denoiser": ["latdiff.models.denoiser", "LatentDenoiser"],
    "scheduler": ["diffusers", "DDPMScheduler"], "decoding": "greedy", "dtype": "auto"}).map(
        lambda found: as_json(found).encode("utf-8", "surrogatepass"))))
@example(content=nested(100_000).encode())
@example(content=b'{"denoiser": [], "scheduler": []}')
@bounded
def test_any_index_of_a_pipeline_without_its_parts(folder, content):
    from latdiff.pipelines.files import open_checkpoint

    place = folder / "pipeline"
    place.mkdir(exist_ok=True)
    (place / "model_index.json").write_bytes(content)
    open_checkpoint(place)


@pytest.mark.parametrize("content", [nested(100_000), "", "[]", '{"latent_dim": 5}', '{"_class_name": 5}'])
@pytest.mark.parametrize("name", ["autoencoder"])
def test_a_damaged_part_of_a_codec(folder, parts, name, content):
    from latdiff.codecs.files import load_codec

    place = folder / "codec of parts"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(parts[name][0], place / name)
    (place / name / "config.json").write_text(content)
    (place / "tokenizer").mkdir()
    (place / "text_model").mkdir()
    bounded(load_codec)(place)
