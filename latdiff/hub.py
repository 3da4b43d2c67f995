"""How does what was trained come onto the Hugging Face hub, and nothing else with it?"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from latdiff.checkpoints import without_paths
from latdiff.checksums import write_checksums
from latdiff.errors import UserError, first_line, shown
from latdiff.fetch import MODELS

NAMED = ("language_model", "encoder")  # settings of a codec that name a pretrained model
CARD = """---
library_name: latdiff
pipeline_tag: text-generation
tags: [text-generation, latent-diffusion, text-diffusion]
---

# {name}

{what}, made with latdiff.

```python
{snippet}
```
"""


class HubError(UserError):
    """What cannot be pushed to the hub, in one sentence."""


def push(
    save: Callable[[Path], None], repo_id: str, what: str, snippet: str = "", commit_message: str | None = None,
    private: bool | None = None, token: str | None = None, create_pr: bool = False,
) -> str:
    """Save into a folder of its own, and upload what is then in it, with a card where neither it nor the hub has one.

    Args:
        save: Makes the folder whose path it is given.
        repo_id: Where to, owner/name; made where it does not exist.
        what: What it is, for a card.
        snippet: How it is opened in Python, likewise.
        commit_message: Of the commit (default: "Upload" and what it is).
        private: Whether a repository that is made is private.
        token: Of the hub (default: that of `hf auth login`).
        create_pr: Open a pull request with it in place of a commit.

    Returns:
        The address of the commit.

    Raises:
        HubError: For a name that is none, for a codec that names a model by a folder of this machine, and for what the
            hub refuses.
    """
    check_id(repo_id)
    with tempfile.TemporaryDirectory(prefix="latdiff-") as place:
        folder = Path(place, repo_id.partition("/")[2])
        save(folder)
        without_paths(folder)
        _refuse_models_of_here(folder)
        if (folder / "model_index.json").exists():
            write_checksums(folder)  # also in place of those that an earlier push has left there
        plain_card = not (folder / "README.md").exists()
        if plain_card:
            card = CARD.format(name=folder.name, what=what, snippet=snippet)
            (folder / "README.md").write_text(card, encoding="utf-8")
        return _upload(folder, repo_id, commit_message or f"Upload {what[0].lower()}{what[1:]}", private, token,
                       create_pr, plain_card)


def check_id(repo_id: object) -> None:
    """Raise HubError for what is no hub id owner/name, by the hub's own rules, which allow no name of dots."""
    from huggingface_hub.utils import validate_repo_id

    try:
        if not isinstance(repo_id, str) or "/" not in repo_id:
            raise ValueError
        validate_repo_id(repo_id)
    except ValueError:
        raise HubError(f"{shown(repo_id)} is no hub id, must be owner/name, such as ada/stories: letters, digits, '_', "
                       "'-' and '.', the latter two not at an end and not doubled, and at most 96 characters") from None


def _upload(
    folder: Path, repo_id: str, message: str, private: bool | None, token: str | None, create_pr: bool, plain_card: bool
) -> str:
    """Upload a folder, without its card where that is plain and the repository has one."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        stays = ["README.md"] if plain_card and api.file_exists(repo_id, "README.md") else None
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message, create_pr=create_pr,
                                     ignore_patterns=stays))
    except Exception as error:  # the hub raises kinds of its own, and those of its client
        raise HubError(f"{repo_id} could not be pushed to ({first_line(error)}); `hf auth login` logs in, and `hf auth "
                       "whoami` says under which names you may write") from error


def _refuse_models_of_here(folder: Path) -> None:
    """Raise HubError for a codec whose pretrained model others do not have."""
    for file in folder.rglob("config.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        if "_class_name" not in config:
            continue
        for key in NAMED:
            name = config.get(key)
            if isinstance(name, str) and name not in MODELS and Path(name).expanduser().is_dir():
                raise HubError(f"the codec's {key} is {shown(name)}, a folder here, which others do not have; push the "
                               f"model by itself, and put its hub id under {key} in {file.relative_to(folder)}")
