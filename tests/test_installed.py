"""What `pip install .` brings: the wheel trains and samples in an empty environment, from any working directory."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from latdiff.fetch import MODELS

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "data.train_size=60", "data.valid_size=4", "data.max_tokens=80", "autoencoder.num_latents=2",
    "autoencoder.latent_dim=4", "autoencoder.width=16", "autoencoder.depth=1", "autoencoder.heads=2",
    "train_autoencoder.steps=20",
    "train_autoencoder.batch_size=4", "denoiser.width=16", "denoiser.depth=1", "denoiser.heads=2",
    "train_denoiser.steps=20", "train_denoiser.batch_size=4", "sampling.steps=2",
)


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of an environment with the wheel and the packages that the tests run with, not this folder."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    (packages,) = (place / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    beside = [path for path in sys.path if path.endswith("site-packages")] or [sysconfig.get_path("purelib")]
    (packages / "beside.pth").write_text("\n".join(beside), encoding="utf-8")
    return place / "bin" / "python"


@pytest.fixture
def latdiff(python, tmp_path):
    """latdiff(words) -> what `python -m latdiff` prints in an empty folder"""

    def run(*words):
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run([python, "-m", "latdiff", *words], cwd=tmp_path, env=environment, capture_output=True,
                              text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_wheel_holds_recipes_a_backbone_two_checkpoints_and_no_fetched_model(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {f"latdiff/recipes/configs/{path.name}" for path in (ROOT / "recipes" / "configs").glob("*.yaml")}
    assert shipped <= set(names)
    for file in ("py.typed", "recipes/examples/companions.csv", "pretrained/t5-mini/model.safetensors",
                 "pretrained/t5-mini/tokenizer.json", "recipes/train_denoiser.py", "config/stages/denoiser.py",
                 "cli/recipes.py"):
        assert f"latdiff/{file}" in names
    packages = {name.rpartition("/")[0] for name in names if name.endswith(".py")}
    assert packages == {str(path.parent.relative_to(ROOT)) for path in (ROOT / "latdiff").rglob("*.py")} | {
        "latdiff/recipes", "latdiff/pretrained"}
    for file in ("model_index.json", "codec/adapter/adapter_model.safetensors", "heads/sentiment/model.safetensors"):
        assert f"latdiff/pretrained/english/{file}" in names
    for file in ("README.md", "denoiser/diffusion_pytorch_model.safetensors", "heads/topic/model.safetensors"):
        assert f"latdiff/pretrained/storyworld/{file}" in names
    assert not [name for name in names if any(model in name for model in MODELS)]
    sizes = {name: sum(one.compress_size for one in zipfile.ZipFile(wheel).infolist() if name in one.filename)
             for name in ("", "pretrained/english/", "pretrained/storyworld/")}
    assert max(sizes["pretrained/english/"], sizes["pretrained/storyworld/"]) < 25_000_000
    assert 2 * sizes[""] - sum(sizes.values()) < 6_000_000  # all the rest


def test_it_is_the_wheel_that_runs_and_tells_its_version(python, latdiff, tmp_path):
    code = "import latdiff, latdiff.recipes.train_denoiser; print(latdiff.__file__, latdiff.recipes.__file__)"
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert all(Path(file).is_relative_to(python.parents[1]) for file in done.stdout.split())
    assert latdiff("--version").startswith("latdiff 0.")
    assert latdiff("check-config", "storyworld-full").startswith("name: storyworld-full")


def test_a_folder_of_the_same_name_beside_a_script_is_not_taken_for_it(python, tmp_path):
    """As where a clone lies: an empty package, without a word. In a clone, `make install` puts its path last."""
    (tmp_path / "latdiff" / "docs").mkdir(parents=True)
    (tmp_path / "script.py").write_text("import sys\nsys.path += sys.argv[1:]\nfrom latdiff import load_recipe\n"
                                        "import latdiff.recipes.train_ar", encoding="utf-8")
    subprocess.run([python, "script.py"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "script.py", ROOT], cwd=tmp_path, check=True)
    assert "latdiff-clone.pth" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_it_trains_and_samples_from_an_empty_folder(latdiff, tmp_path):
    assert "trained in" in latdiff("train-diffusion", "storyworld", *SMALL, "--quiet")
    assert (tmp_path / "checkpoints" / "storyworld" / "model_index.json").is_file()
    texts = latdiff("sample", "checkpoints/storyworld", "--num-samples", "2", "--quiet")
    assert len(texts.splitlines()) == 2
    assert "generation: 40 texts" in latdiff("fit-head", "checkpoints/storyworld", "--data", "companions.csv", "--name",
                                             "generation", "--limit", "40", "--quiet")
