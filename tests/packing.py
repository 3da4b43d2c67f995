"""The wheel, built once for the files of tests that look into it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def tracked_copy(source):
    """A folder of the tracked files that are packed, and nothing that lies beside them."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if name.startswith(("latdiff/", "recipes/", "checkpoints/")) or "/" not in name:
            if not (ROOT / name).is_file():
                continue
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    return source


def wheel_of(source, out):
    """The wheel that pip makes of a folder or an sdist."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", out, source]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (file,) = out.glob("latdiff-*.whl")
    return file
