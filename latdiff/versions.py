"""With which versions of which packages was a checkpoint written, and when?"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import latdiff

FILE = "versions.json"
PACKAGES = ("torch", "transformers", "diffusers")


def record_versions(folder: Path) -> None:
    """Write the versions that are installed, and today's date, into a checkpoint's folder."""
    found = {"latdiff": latdiff.__version__} | {name: metadata.version(name) for name in PACKAGES}
    text = json.dumps(found | {"date": datetime.now(UTC).date().isoformat()}, indent=2)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def recorded_versions(folder: Path) -> str:
    """What a folder says of it: 'latdiff 0.1.0, torch 2.9.0, ... on 2026-01-31', or 'not recorded'."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        given = {name: str(found[name]) for name in ("latdiff", *PACKAGES, "date")}
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return "not recorded"
    if not all(one.isprintable() and len(one) < 40 for one in given.values()):
        return "not recorded"
    date = given.pop("date")
    return f"{', '.join(f'{name} {version}' for name, version in given.items())} on {date}"
