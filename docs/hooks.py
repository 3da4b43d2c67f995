"""What `make docs` adds to the pages: each command's --help, the settings of a recipe, the source that they link to.

mkdocs calls the functions by their names. Nothing here loads torch.
"""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = re.compile(r"\]\(\.\./((?:latdiff|recipes)/[\w/]+\.py)\)")  # a link from a page to the code
QUOTED = re.compile(r"^<!-- code: (\S+\.py) (\S+) -->$", re.MULTILINE)  # above lines of it
HERE_ALONE = re.compile(r"^<!-- in the repository alone -->\n(?:.+\n)+\n", re.MULTILINE)  # and the paragraph below it
NOT_RUN = re.compile(r"^<!-- not run: (.+?) -->$", re.MULTILINE)


def on_files(files, config):
    """Add a page for every source file that a page links to."""
    from mkdocs.structure.files import File, InclusionLevel

    pages = [(ROOT / "docs" / file.src_uri).read_text(encoding="utf-8") for file in files.documentation_pages()]
    linked = {path for page in pages for path in [*SOURCE.findall(page), *(path for path, _ in QUOTED.findall(page))]}
    for path in sorted(linked):
        code = (ROOT / path).read_text(encoding="utf-8")
        text = f"---\nsearch: {{exclude: true}}\n---\n# {path}\n\n````python\n{code}````\n"
        files.append(File.generated(config, f"source/{path}.md", content=text, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Fill a page's markers, say of a block that is not run why, and leave out what is for readers in a clone."""
    markdown = HERE_ALONE.sub("", markdown)
    markdown = SOURCE.sub(r"](source/\1.md)", QUOTED.sub(r"[\1](../\1), `\2`", markdown))
    markdown = NOT_RUN.sub(r"*Not run by the tests: \1.*{.aside}", markdown)
    for marker, fill in (("commands", commands), ("settings", settings)):
        if f"<!-- {marker} -->" in markdown:
            markdown = markdown.partition(f"<!-- {marker} -->")[0] + fill()
    return markdown


def commands() -> str:
    """The --help of every command."""
    from latdiff import cli

    os.environ["COLUMNS"] = "110"
    (choices,) = (action.choices for action in cli.parser()._actions if isinstance(action.choices, dict))
    return "\n".join(f"## latdiff {name}\n\n```text\n{command.format_help()}```\n" for name, command in choices.items())


def settings() -> str:
    """A table of every section of a recipe, with the commands that read it."""
    from latdiff.config import STAGES, Recipe
    from latdiff.config.sections import SECTIONS

    tables = ["## Of the recipe itself\n\n" + _table(Recipe.model_fields)]
    for name, section in SECTIONS.items():
        readers = ", ".join(f"`{stage.command}`" for stage in STAGES.values() if name in stage.sections)
        about = f"{inspect.cleandoc(section.__doc__)}\n\nRead by {readers}."
        tables.append(f"## {name}\n\n{about}\n\n{_table(section.model_fields, name)}")
    return "\n\n".join(tables) + "\n"


def _table(fields: dict[str, Any], section: str = "") -> str:
    rows = "\n".join(
        f"| `{section}{'.' * bool(section)}{name}` | {_default(field)} | {str(field.description).replace('|', '/')} |"
        for name, field in fields.items()
    )
    return f"| setting | default | |\n|---|---|---|\n{rows}"


def _default(field) -> str:
    value = field.get_default(call_default_factory=True)
    value = list(value) if isinstance(value, tuple) else value
    return "empty" if value == "" else f"`{str(value).lower() if isinstance(value, bool) else value}`"
