"""The text of a file as it lies on the disk: unzipped, decoded, and recognised where it is no data at all."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

from latdiff.errors import UserError, first_line

POINTER = b"version https://git-lfs.github.com/spec/"
MOST_TIMES = 200  # as large as the file itself; texts shrink to a third or a tenth
SMALL = 2**25  # bytes that a file may have at any rate


class DataError(UserError):
    """Data that cannot be used; the message is one sentence for the user."""


def content_of(path: Path) -> bytes:
    """The bytes of a file, unzipped where it ends in .gz.

    Raises:
        DataError: For a pointer of Git LFS, and for what is no whole gzip file, or one that grows without end.
        OSError: Where it cannot be read.
    """
    content = path.read_bytes()
    refuse_pointer(path, content)
    if path.suffix.lower() != ".gz":
        return content
    most = max(SMALL, MOST_TIMES * len(content))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            unzipped = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: is not a whole gzip file: {first_line(error)}; copy or zip it again") from None
    if len(unzipped) > most:
        raise DataError(f"{path}: grows to more than {MOST_TIMES} times its size when it is unzipped, as no texts do; "
                        "unzip it yourself if it is what you mean")
    refuse_pointer(path, unzipped)
    return unzipped


def text_of(path: Path) -> str:
    """The text of a file in UTF-8, without a byte order mark.

    Raises:
        DataError: For what is not UTF-8, and as `content_of` does.
        OSError: Where it cannot be read.
    """
    content = content_of(path)
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path}: is UTF-16; save the file as UTF-8")
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise DataError(f"{path}, line {line}: has a NUL byte, as UTF-16 and files that hold no text have; save the "
                        "file as UTF-8")
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: is not UTF-8; save the file as UTF-8") from None


def lines_of(text: str) -> list[str]:
    """Lines that end in a line feed, a carriage return or both, and in nothing else that Unicode counts as an end."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def refuse_pointer(path: Path, content: bytes) -> None:
    """Raise DataError for the few lines that Git LFS leaves in place of a file that was not fetched."""
    if content.startswith(POINTER):
        raise DataError(f"{path}: is a pointer of Git LFS and not the data itself; fetch that with `git lfs pull`")
