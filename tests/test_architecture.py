"""The module map, read from the imports: a module of latdiff imports only from a strictly lower rank."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "latdiff"
RANKS = {
    "errors": 0,
    "storyworld": 0,
    "schedule": 0,
    "stopping": 0,
    "draws": 0,
    "threads": 0,
    "muon": 0,
    "bars": 0,
    "offline": 0,
    "batches": 1,
    "optimising": 1,
    "processes": 1,
    "worlds": 1,
    "storage": 1,
    "weights": 1,
    "versions": 1,
    "checksums": 1,
    "latents": 2,
    "checkpoints": 2,
    "collectives": 2,
    "precision": 2,
    "config": 2,
    "fetch": 2,
    "data": 3,
    "hub": 3,
    "lm": 3,
    "mbr": 3,
    "progress": 3,
    "publishing": 3,
    "resuming": 3,
    "training": 4,
    "models": 4,
    "codecs": 5,
    "diffusion": 5,
    "heads": 6,
    "pipelines": 7,
    "demo": 8,
    "evaluation": 8,
    "cli": 9,
    "__main__": 10,
}
FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def module_of(file):
    """`storyworld` for latdiff/storyworld/grammar.py, `data` for latdiff/data.py."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(file):
    """The dotted names that a file imports anywhere, with `from a import b` as a.b."""
    package = file.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else ()
            source = [*parents, *([node.module] if node.module else [])]
            yield from (".".join([*source, name.name]) for name in node.names)


def run_on_import(nodes):
    """The nodes that run when a module is imported: all but the bodies of its functions."""
    for node in nodes:
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from run_on_import(ast.iter_child_nodes(node))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_from_lower_ranks(file):
    module = module_of(file)
    assert module in RANKS, (
        f"give {module} its rank in tests/test_architecture.py, and a line in the map of docs/architecture.md"
    )
    for name in imported(file):
        if not name.startswith("latdiff."):
            continue
        other = name.split(".")[1]
        assert other in RANKS, f"{module} imports {name}; name the module that defines it"
        assert other == module or RANKS[other] < RANKS[module], (
            f"{module} (rank {RANKS[module]}) imports {name} (rank {RANKS[other]}); ranks must fall"
        )


def test_no_rank_is_left_without_its_module():
    assert set(RANKS) == {module_of(file) for file in FILES}


def test_a_recipe_is_read_before_anything_heavy_is_imported():
    code = "import sys, latdiff.config; print(*sorted({'torch', 'transformers'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not run.stdout.strip()


@pytest.mark.parametrize("folder", ["latdiff", "recipes"])
def test_wandb_is_imported_only_where_it_is_used(folder):
    for file in (ROOT / folder).rglob("*.py"):
        for node in run_on_import(ast.parse(file.read_text(encoding="utf-8")).body):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert "wandb" not in {name.split(".")[0] for name in names}, f"{file} imports wandb on import"
